"""Own data, with the settings of `folder_small.yaml`: the model must not lose to ridge by more than noise."""

import csv

import numpy as np
import pytest

from limssr.training.arguments import parse_training_arguments
from limssr.training.data import load
from limssr.training.evaluation.compare import compare_runs, read_run_scores
from limssr.training.fitting.run import run_training

SETTINGS = [
    "folder_small.yaml",
    "--folds",
    "3",
    "--num_train_epochs",
    "8",
    "--report_to",
    "none",
    "--disable_tqdm",
    "true",
]


def write_folder(folder, rows, modalities, score) -> None:
    """Data set `folder` of rows with a split, whose score is called `score`."""
    for name in modalities:
        (folder / name).mkdir(parents=True)
    with (folder / "labels.csv").open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["sample_id", "split", "score"])
        for split, row in rows:
            writer.writerow([row["sample_id"], split, row[score]])
            for name in modalities:
                np.save(folder / name / f"{row['sample_id']}.npy", np.array(row[name], np.float32))


def differences(folder, output_dir) -> dict[str, list[float]]:
    """Mask -> 95 % interval of the model's Spearman less that of ridge on the same inputs."""
    options = ["--data_options", f"folder={folder}", "--output_dir", str(output_dir)]
    run_training(*parse_training_arguments([*SETTINGS, *options]))
    comparison = compare_runs(read_run_scores(output_dir), read_run_scores(output_dir, ridge=True))
    return {row.row: row.intervals["spearman"] for row in comparison.rows}


@pytest.mark.slow
def test_real_readings_of_which_few_are_scored(shared, tmp_path):
    place = shared / "data" / "speechocean762"
    if not (place / "labels.csv").is_file():
        pytest.skip(f"speechocean762 is not at {place}")
    data = load("speechocean762", folder=place, scores=["total"], modalities=["audio", "voice"])
    rows = [(split, row) for split in ("train", "test") for row in data.splits[split].shuffle(0).select(range(300))]
    write_folder(tmp_path / "data", rows, ["audio", "voice"], "total")
    found = differences(tmp_path / "data", tmp_path / "run")
    assert all(high > 0 for _, high in found.values()), found


@pytest.mark.slow
def test_performances_whose_score_is_a_product(tmp_path):
    data = load("synthetic", samples_train=400, samples_test=300)
    rows = [(split, row) for split in ("train", "test") for row in data.splits[split]]
    write_folder(tmp_path / "data", rows, list(data.modalities), "score")
    found = differences(tmp_path / "data", tmp_path / "run")
    assert all(high > 0 for _, high in found.values()), found
