"""Trains a small model with missing modalities on synthetic performances, then scores one of them in a new process.

python training/demo.py [--quick] [--flag value ...]

Everything goes to `runs/demo`. `--quick` trains for seconds only, to see that it works; flags are those of `train.py`.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from limssr.training.arguments import parse_training_arguments
from limssr.training.data import load
from limssr.training.fitting.run import run_training

CONFIG = Path(__file__).parent / "configs" / "synthetic.yaml"
QUICK = ["--num_train_epochs", "2", "--data_options", "samples_train=300", "samples_test=100"]
SCORE_ONE = """
import sys
import numpy as np
from transformers import AutoModel, AutoProcessor

folder, without = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
features = {name: [np.load(f"{folder}/example/{name}.npy")] for name in model.config.modalities}
for left_out in (None, without):
    shown = {name: [None] if name == left_out else clips for name, clips in features.items()}
    score = model(**processor(features=shown)).scores.item()
    print(f"  {'without ' + left_out if left_out else 'complete':15}{score:7.2f}")
"""


def main() -> None:
    torch.set_num_threads(1)  # matrices this small gain nothing from more, and wait for each other on a busy machine
    words = sys.argv[1:]
    quick = "--quick" in words
    flags = [word for word in words if word != "--quick"]
    arguments = parse_training_arguments([str(CONFIG), "--output_dir", "runs/demo", *(QUICK if quick else []), *flags])
    for checkpoint in Path(arguments[2].output_dir).glob("checkpoint-*"):  # of an earlier demo
        shutil.rmtree(checkpoint)
    run_training(*arguments)
    _, data_arguments, training_arguments = arguments
    folder = Path(training_arguments.output_dir)
    data = load(data_arguments.dataset, **data_arguments.data_options)
    row = data.splits["test"].with_format("numpy")[0]
    (folder / "example").mkdir(exist_ok=True)
    for name in data.modalities:
        np.save(folder / "example" / f"{name}.npy", row[name])
    print(f"\nA new process loads {folder} through AutoModel and scores {row['sample_id']}:", flush=True)
    command = [sys.executable, "-c", SCORE_ONE, str(folder), next(iter(data.modalities))]
    subprocess.run(command, check=True)  # noqa: S603 (our own words)
    print(f"  {'judged':15}{row[data.score_names[0]]:7.2f}")
    files = " ".join(f"--{name} {folder}/example/{name}.npy" for name in data.modalities)
    print(f"\nThe picture is {folder / 'evaluation.png'}. The same from the command line:")
    print(f"  python training/predict.py {folder} {files}")


if __name__ == "__main__":
    main()
