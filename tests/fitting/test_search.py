"""A search measures the same points on folds of several data sets, goes on where it stopped, and keeps every value."""

import sqlite3
import sys
from pathlib import Path

import pytest
import yaml

from limssr.training import search as script
from limssr.training.arguments import parse_training_arguments
from limssr.training.fitting.search import SPACE, search

SMALL = {"data_options": {"samples_train": 24, "samples_test": 4}, "missingness": "available", "missing_rates": None}
SMALL |= {"validation_masks": "available", "num_train_epochs": 1, "start_at_mean": True}


@pytest.fixture
def configs(quick_config, tmp_path) -> list[Path]:
    """Two data sets, of another seed each."""
    found = []
    for seed in (0, 1):
        options = {**SMALL["data_options"], "seed": seed}
        found.append(quick_config(**{**SMALL, "data_options": options}).rename(tmp_path / f"synthetic{seed}.yaml"))
    return found


@pytest.mark.slow
def test_the_same_points_are_measured_on_every_data_set_and_an_interrupted_search_goes_on(
    configs, tmp_path, monkeypatch
):
    storage, output = tmp_path / "search.sqlite", tmp_path / "result.yaml"
    words = [str(configs[0]), f"{configs[1]} --learning_rate 0.002"]
    words += ["--folds", "2", "--storage", str(storage), "--output", str(output)]
    for trials in ("1", "2"):
        monkeypatch.setattr(sys, "argv", ["search.py", *words, "--trials", trials])
        script.main()
    result = yaml.safe_load(output.read_text())
    assert [trial["number"] for trial in result["trials"]] == [0, 1]
    for trial in result["trials"]:
        assert all(low <= trial[name] <= high for name, (low, high, _) in SPACE.items())
        assert trial["values"].keys() == {"synthetic0", "synthetic1"}
        assert trial["mean"] == pytest.approx(sum(trial["values"].values()) / 2)
    assert result["trials"][0]["learning_rate"] != result["trials"][1]["learning_rate"]
    best = max(result["trials"], key=lambda trial: trial["mean"])
    assert result["best"] == {
        "learning_rate": best["learning_rate"],
        "weight_decay": best["weight_decay"],
        "projector_dropout": best["dropout"],
        "head_dropout": best["dropout"],
    }
    with sqlite3.connect(storage) as database:
        assert database.execute("select count(*) from trials where state = 'COMPLETE'").fetchone() == (4,)
    changed = {"synthetic0": parse_training_arguments([str(configs[0]), "--num_train_epochs", "2"])}
    with pytest.raises(ValueError, match="holds trials of synthetic0 with other settings"):
        next(search(changed, str(storage), trials=2, folds=2, seed=0))


def test_without_optuna_the_package_is_named(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ModuleNotFoundError, match="pip install optuna"):
        next(search({}, str(tmp_path / "search.sqlite"), trials=1, folds=2, seed=0))
