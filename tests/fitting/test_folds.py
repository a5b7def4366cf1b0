"""`folds`: every training row validates once, the best mean epoch is chosen, and all rows are trained on as long."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file

from limssr.training.fitting.folds import choose_epoch
from limssr.training.fitting.run import how_to_go_on, run_training
from limssr.training.fitting.splits import split_folds
from limssr.training.fitting.trainer import LimssrTrainer

LAST = ["--resume_from_checkpoint", "last"]
SETTINGS = {
    "folds": 2,
    "num_train_epochs": 3,
    "save_total_limit": 5,
    "report_to": "none",
    "validation_masks": "available",
}


def history(*epochs: tuple[float | None, float], steps: int = 4) -> list[dict]:
    """The log of a fold with (Spearman, squared error) after each epoch."""
    log = []
    for number, (spearman, mse) in enumerate(epochs, 1):
        place = {"epoch": float(number), "step": number * steps}
        log += [{"loss": 1.0, **place}, {"eval_spearman": spearman, "eval_mse": mse, **place}]
    return [*log, {"train_runtime": 1.0, "epoch": float(len(epochs)), "step": len(epochs) * steps}]


def test_the_best_mean_over_the_folds_is_chosen():
    """Each fold alone would choose another epoch."""
    folds = [history((0.9, 5), (0.7, 5), (0.1, 5)), history((0.1, 3), (0.6, 3), (0.7, 3), steps=5)]
    choice = choose_epoch(folds, "spearman", greater_is_better=True)
    assert (choice.epoch, choice.best) == (2, pytest.approx(0.65))
    assert choice.share == pytest.approx(2 / 3)
    assert choice.folds == [[0.9, 0.7, 0.1], [0.1, 0.6, 0.7]]
    assert [epoch["eval_mse"] for epoch in choice.means] == [4, 4, 4]
    choice = choose_epoch(folds, "eval_mse", greater_is_better=False)
    assert (choice.epoch, choice.best) == (1, 4)


def test_between_equals_the_squared_error_decides_and_undefined_epochs_are_never_chosen():
    folds = [history((0.5, 9), (0.5, 7), (0.5, 8), (0.9, 1)), history((0.5, 9), (0.5, 7), (0.5, 8), (None, 1))]
    choice = choose_epoch(folds, "spearman", greater_is_better=True)
    assert (choice.epoch, choice.best) == (2, pytest.approx(0.5))
    choice = choose_epoch([history((None, 9), (math.nan, 8))], "spearman", greater_is_better=True)
    assert (choice.epoch, choice.share, choice.best) == (2, 1, None)


def rows(count: int) -> Dataset:
    scores = np.random.default_rng(0).normal(size=count)
    return Dataset.from_dict({"sample_id": [str(row) for row in range(count)], "score": scores})


def test_every_row_is_validated_on_once():
    data = rows(23)
    folds = split_folds(data, ["score"], 5, seed=0)
    assert sorted(row for _, validation in folds for row in validation) == list(range(23))
    for train, validation in folds:
        assert sorted([*train, *validation]) == list(range(23))
    assert [part.tolist() for part in folds[0]] == [part.tolist() for part in split_folds(data, ["score"], 5, 0)[0]]


def test_groups_are_in_one_fold_each():
    groups = np.array([f"speaker{row % 7}" for row in range(35)])
    folds = split_folds(rows(35), ["score"], 3, 0, groups)
    assert sorted(row for _, validation in folds for row in validation) == list(range(35))
    assert not any(set(groups[train]) & set(groups[validation]) for train, validation in folds)
    with pytest.raises(ValueError, match=r"`folds` is 8, but the training split has 7 groups.*give at most 7"):
        split_folds(rows(35), ["score"], 8, 0, groups)
    with pytest.raises(ValueError, match="`folds` 15 leaves a fold of 20 training rows with 1"):
        split_folds(rows(20), ["score"], 15, 0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"folds": 1}, "`folds` is 1; allowed is 2 or more"),
        ({"folds": 3, "select_on": "test"}, "`select_on` is 'test': leave one of them out"),
        ({"folds": 3, "select_on": "nothing"}, "`select_on` is 'nothing': leave one of them out"),
    ],
)
def test_what_folds_cannot_be_used_with_is_refused(quick_arguments, settings, message, capsys):
    with pytest.raises(SystemExit):
        quick_arguments(**settings)
    assert message in " ".join(capsys.readouterr().err.split())


def read(path: Path) -> dict:
    return json.loads((path / "run.json").read_text())


def assert_equal_weights(first: Path, second: Path) -> None:
    one, other = (load_file(folder / "model.safetensors") for folder in (first, second))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture
def interrupt(monkeypatch):
    """`interrupt(count)`: Ctrl-C at the end of the so-manieth validation; `interrupt(None)`: never again."""
    original = LimssrTrainer.evaluate

    def at(count: int | None) -> None:
        left = iter(range(count or 0, 0, -1))

        def evaluate(self, *arguments, **options):
            metrics = original(self, *arguments, **options)
            if next(left, None) == 1:
                raise KeyboardInterrupt
            return metrics

        monkeypatch.setattr(LimssrTrainer, "evaluate", evaluate)

    return at


@pytest.mark.slow
def test_a_run_with_folds_is_recorded_resumed_and_ends_with_a_part_of_the_run_on_everything(
    quick_arguments, interrupt, tmp_path
):
    interrupt(5)  # after the second of three epochs of the second fold
    with pytest.raises(KeyboardInterrupt):
        run_training(*quick_arguments(**SETTINGS))
    run = tmp_path / "run"
    interrupt(None)
    assert not list(run.glob("fold_1/checkpoint-*"))
    assert f"The newest checkpoint is {run}/fold_2/checkpoint-3;" in how_to_go_on(str(run))
    with pytest.raises(FileExistsError, match="fold_1 is left from an earlier run"):
        run_training(*quick_arguments(**SETTINGS))
    with pytest.raises(ValueError, match=r"fold_1 was trained with other settings: learning_rate 0\.001 -> 0\.1"):
        run_training(*quick_arguments(*LAST, **SETTINGS, learning_rate=0.1))
    finished = (run / "fold_1" / "run.json").stat().st_mtime_ns
    run_training(*quick_arguments(*LAST, **SETTINGS))
    assert (run / "fold_1" / "run.json").stat().st_mtime_ns == finished
    run_training(*quick_arguments(**SETTINGS, output_dir=str(tmp_path / "straight")))
    assert_equal_weights(run, tmp_path / "straight")
    record = read(run)
    assert record["selection"] == read(tmp_path / "straight")["selection"]
    assert record["dataset"]["train"]["samples"] == 48
    assert [read(run / f"fold_{fold}")["dataset"]["validation"]["samples"] for fold in (1, 2)] == [24, 24]
    assert [len(fold) for fold in record["selection"]["cross_validation"]["folds"]] == [3, 3]

    choose_second_epoch(run)
    for checkpoint in run.glob("checkpoint-*"):
        shutil.rmtree(checkpoint)
    run_training(*quick_arguments(*LAST, **SETTINGS))
    selection = read(run)["selection"]
    assert (selection["step"], selection["steps"], selection["best"]) == (12, 12, 0.5)
    assert selection["cross_validation"]["share"] == pytest.approx(2 / 3)
    assert "67 % of the schedule: best mean spearman of 2 folds" in (run / "README.md").read_text()
    everything = {**SETTINGS, "folds": None, "select_on": "nothing", "output_dir": str(tmp_path / "everything")}
    run_training(*quick_arguments(**everything))
    assert_equal_weights(run, tmp_path / "everything" / "checkpoint-12")
    run_training(*quick_arguments(*LAST, **SETTINGS))  # which has nothing left to train
    assert_equal_weights(run, tmp_path / "everything" / "checkpoint-12")


def choose_second_epoch(run: Path) -> None:
    for folder in run.glob("fold_*"):
        record = read(folder)
        for entry in record["history"]:
            if "eval_spearman" in entry:
                entry["eval_spearman"] = 0.5 * (entry["epoch"] == 2)
        (folder / "run.json").write_text(json.dumps(record))
