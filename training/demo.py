"""From recordings to scores: make dives as files, train with missing modalities, score a new dive.

limssr demo [--quick] [--flag value ...]

Everything goes to `runs/demo` and `runs/dives`. `--quick` makes fewer dives, in `runs/dives_quick`, and trains for
seconds; the other flags are those of `limssr train`.
"""

import shutil
import subprocess
import sys
from pathlib import Path

from limssr.training.data.sources.recordings import RECORDINGS
from limssr.training.utils.files import scratch_folder
from limssr.training.utils.launching import as_started, exit_on_error, run_script

CONFIG = Path(__file__).parent / "configs" / "simulated_dives.yaml"
QUICK = ["--data_options", "folder=runs/dives_quick", "samples_train=120", "samples_test=60"]
QUICK += ["--num_train_epochs", "10"]
BEFORE = """Makes simulated dives as video files. As in life, some have no picture, no sound or no commentary, which is
listed below as missing, and more is hidden in training.
"""
AFTER = """
ridge: ridge regression on the same clips. mean: the mean training score for everyone. best: what knows every fault, as
no recording shows it, and is unsure only of the judges."""
NEW_SEED = 1000  # of a dive that is in no training data
SCORE_ONE = """
import sys
from transformers import pipeline

folder, recording, commentary = sys.argv[1:]
dive = {"recording": recording, "commentary": commentary}
scorer = pipeline("action-quality-assessment", model=folder, trust_remote_code=True)
for label, without in (
    ("with everything", []),
    ("commentary taken away", ["commentary"]),
    ("sound taken away", ["audio"]),
    ("picture taken away", ["video"]),
):
    (score,) = scorer(dive, without=without)
    print(f"  {label:22}{score['score']:7.2f}")
"""


def main() -> None:
    import torch

    from limssr.training.arguments import parse_training_arguments
    from limssr.training.explanation.explanation import explain
    from limssr.training.explanation.page import write_page
    from limssr.training.fitting.run import run_folder, run_training
    from limssr.training.utils.checkpoints import checkpoints_in

    torch.set_num_threads(1)  # more threads would only wait for each other on matrices this small
    words = sys.argv[1:]
    flags = [word for word in words if word != "--quick"]
    options = QUICK if "--quick" in words else []
    arguments = parse_training_arguments([str(CONFIG), "--output_dir", "runs/demo", *options, *flags])
    folder = Path(arguments[-1].output_dir)
    print(BEFORE, flush=True)
    with exit_on_error(), run_folder(arguments[-1]):
        for checkpoint in checkpoints_in(folder):  # of an earlier demo
            shutil.rmtree(checkpoint)
    run_training(*arguments)
    print(AFTER, flush=True)

    recording, dive = make_new_dive(folder)
    print(
        f"\nA new process loads {folder} through pipeline() and scores {recording}, which it has never seen:",
        flush=True,
    )
    words = [sys.executable, "-c", SCORE_ONE, str(folder), str(recording), dive["commentary"]]
    subprocess.run(words, check=True)  # noqa: S603 (our own words)
    print(f"  {'judged':22}{dive['score']:7.2f}")
    page = recording.with_suffix(".html")
    features = {"commentary": dive["commentary"]}
    write_page(explain(folder, features=features, recording=recording, sample_id="dive"), page)
    print(f"\nWhy this score: {page}. Every mask: {folder / 'evaluation.png'}. From the command line:")
    print(as_started(f"  limssr predict {folder} --recording {recording} --without audio"))


def make_new_dive(folder: Path) -> tuple[Path, dict]:
    """A dive that is in no training data as `example/dive.mp4`, and its labels."""
    from limssr.training.data.simulated_dives import SimulatedDives

    with scratch_folder(folder) as scratch:
        dives = SimulatedDives(scratch / "dives", samples_train=1, samples_test=1, seed=NEW_SEED)
        dive = dives.read_labels().splits["test"][0]
        made = dives.folder / RECORDINGS / f"{dive['sample_id']}.mp4"
        (folder / "example").mkdir(exist_ok=True)
        return made.replace(folder / "example" / "dive.mp4"), dive


if __name__ == "__main__":
    run_script(main)
