"""Training calibrates every mask at its end; a checkpoint of before is calibrated by a command."""

import json

import numpy as np
import pytest

from limssr import LimssrConfig
from limssr.modeling_limssr.neighbours_limssr import NEIGHBOURS_FILE
from limssr.training import calibrate
from limssr.training.data import load
from limssr.training.explanation.explanation import explain
from limssr.training.fitting.run import run_training

MASKS = ["video+audio+flow", "video+audio", "video+flow", "audio+flow", "video", "audio", "flow"]
OPTIONS = {"samples_train": 64, "samples_test": 20}


@pytest.fixture(scope="module")
def settings() -> dict:
    return {"data_options": OPTIONS, "validation_fraction": 0.65, "num_train_epochs": 1, "warmup_epochs": 0}


def run(command: list[str], monkeypatch) -> None:
    monkeypatch.setattr(
        "sys.argv", ["calibrate.py", *command, "--data_options", *(f"{k}={v}" for k, v in OPTIONS.items())]
    )
    calibrate.main()


def test_training_calibrates_and_the_command_finds_the_same_rows(
    quick_arguments, settings, tmp_path, monkeypatch, capsys
):
    result = run_training(*quick_arguments(**settings))
    said = capsys.readouterr().out
    assert "22 to train, 21 to validate, 21 to calibrate, 20 to test" in said
    assert "90% holds" in said
    folder = tmp_path / "run"
    table = LimssrConfig.from_pretrained(folder).calibration
    assert set(table["masks"]) == set(MASKS)
    counts = {mask: entry["score"]["samples"] for mask, entry in table["masks"].items()}
    assert 5 <= counts["video+audio+flow"] < counts["video"] < 21  # 30 % of each modality is hidden
    levels = json.loads((folder / "metrics.json").read_text())["masks"][6]["scores"]["score"]["model"]["coverage"]
    assert levels == result.masks[6].scores["score"].model["coverage"]
    assert [level["level"] for level in levels] == [0.5, 0.8, 0.9, 0.95]

    settings = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(settings | {"calibration": None}))
    run([str(folder), "synthetic"], monkeypatch)
    again = json.loads((folder / "config.json").read_text())
    assert again["calibration"] == table
    assert {key: value for key, value in again.items() if key != "calibration"} == {
        key: value for key, value in settings.items() if key != "calibration"
    }

    assert not (folder / NEIGHBOURS_FILE).exists()
    run([str(folder), "synthetic", "--neighbours"], monkeypatch)
    assert "22 training performances" in (folder / "README.md").read_text()
    data = load("synthetic", **OPTIONS)
    row = next(row for row in data.splits["train"] if row["video"] and row["audio"])
    features = {name: row[name] for name in ("video", "audio")}
    found = explain(folder, features={name: np.array(clips) for name, clips in features.items()}, method=None)
    similarities = [neighbour.similarity for neighbour in found.neighbours]
    assert similarities == sorted(similarities, reverse=True)
    judged = dict(zip(data.splits["train"]["sample_id"], data.splits["train"]["score"], strict=True))
    assert [each.scores for each in found.neighbours] == [[judged[each.sample_id]] for each in found.neighbours]
    assert len(found.neighbours) == 3

    run([str(folder), "synthetic", "--split", "test"], monkeypatch)
    other = LimssrConfig.from_pretrained(folder).calibration
    assert other["split"] == "test"
    record = json.loads((folder / "run.json").read_text())
    record["arguments"]["data"].pop("calibrate_on")  # a run of before: all held-back rows selected
    (folder / "run.json").write_text(json.dumps(record))
    with pytest.raises(SystemExit, match="all rows of the split 'validation' that were held back selected this"):
        run([str(folder), "synthetic"], monkeypatch)
    with pytest.raises(SystemExit, match="`calibrate_on` is 'train'"):
        run([str(folder), "synthetic", "--split", "train"], monkeypatch)
    with pytest.raises(SystemExit, match="`calibrate_on` is 'dev'"):
        run([str(folder), "synthetic", "--split", "dev"], monkeypatch)
