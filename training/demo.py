"""Train a small model with missing modalities on synthetic data, then score one performance.

limssr demo [--quick] [--flag value ...]

Everything goes to `runs/demo`. `--quick` trains for a few seconds only; the other flags are those of `limssr train`.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

from limssr.training.utils.launching import as_started, run_script

CONFIG = Path(__file__).parent / "configs" / "synthetic.yaml"
QUICK = ["--num_train_epochs", "6", "--learning_rate", "2e-3", "--start_at_mean", "true"]
QUICK += ["--data_options", "samples_train=600", "samples_test=200"]
SCORE_ONE = """
import sys
import numpy as np
from transformers import AutoModel, AutoProcessor

folder, missing = sys.argv[1:]
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
features = {name: [np.load(f"{folder}/example/{name}.npy")] for name in model.config.modalities}
for label, used in (("complete", features), (f"without {missing}", {**features, missing: [None]})):
    print(f"  {label:15}{model(**processor(features=used)).scores.item():7.2f}")
"""


def main() -> None:
    import torch

    from limssr.training.arguments import parse_training_arguments
    from limssr.training.data import load
    from limssr.training.fitting.run import run_training

    torch.set_num_threads(1)  # more threads would only wait for each other on matrices this small
    words = sys.argv[1:]
    flags = [word for word in words if word != "--quick"]
    quick = QUICK if "--quick" in words else []
    arguments = parse_training_arguments([str(CONFIG), "--output_dir", "runs/demo", *quick, *flags])
    _, data_arguments, training_arguments = arguments
    folder = Path(training_arguments.output_dir)
    for checkpoint in folder.glob("checkpoint-*"):  # of an earlier demo
        shutil.rmtree(checkpoint)
    run_training(*arguments)
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
    print(as_started(f"  limssr predict {folder} {files}"))


if __name__ == "__main__":
    run_script(main)
