"""An audit record says what a prediction came from; verifying scores again and names what differs."""

import json
import sys
from pathlib import Path

import jsonschema
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from limssr.training import predict, verify
from limssr.training.prediction import audit
from tests.helpers.feature_rows import write_folder
from tests.helpers.models import make_calibration

SCHEMA = json.loads(Path(audit.__file__).with_name("audit.schema.json").read_text())


@pytest.fixture
def run(monkeypatch, capsys):
    """`run(script, *words)` returns exit status and output."""

    def call(script, *words) -> tuple[int | str, str]:
        monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, words)])
        try:
            status = script.main()
        except SystemExit as exit_:
            status = exit_.code
        return status, capsys.readouterr().out

    return call


@pytest.fixture
def record(run, checkpoint, tmp_path) -> Path:
    """The records of two samples of a calibrated model, s000 with audio, and of one that cannot be read."""
    settings = json.loads((checkpoint / "config.json").read_text())
    settings["calibration"] = make_calibration(["score"], {"video": 10.0, "video+audio": 5.0}, widest=100.0)
    (checkpoint / "config.json").write_text(json.dumps(settings))
    folder = write_folder(tmp_path / "features", 3)
    (folder / "video" / "s002.npy").write_bytes(b"damaged")
    words = ("--folder", folder, "--level", 0.8, "--audit", tmp_path / "audit.json", "--output", tmp_path / "a.json")
    assert run(predict, checkpoint, *words)[0] == 1
    return tmp_path / "audit.json"


def test_records_follow_the_schema_and_are_equal_when_verified(run, record, checkpoint, tmp_path):
    records = json.loads(record.read_text())
    jsonschema.Draft202012Validator(SCHEMA).validate(records)
    assert [entry["sample_id"] for entry in records] == ["s000", "s001"]
    first, second = records
    assert first["mask"] == {"video": True, "audio": True, "flow": False}
    assert first["models"][0]["name"] == str(checkpoint)
    assert first["files"]["audio"]["sha256"] == audit.digest_of_file(tmp_path / "features" / "audio" / "s000.npy")
    predictions = json.loads((tmp_path / "a.json").read_text())
    assert [entry["scores"] for entry in records] == [entry["scores"] for entry in predictions[:2]]
    low, high = second["scores"]["score"]["interval"]
    assert high - low == pytest.approx(16)
    assert run(verify, record) == (0, "s000: equal\ns001: equal\n2 of 2 records are equal\n")


def test_a_record_without_a_field_breaks_the_schema(record):
    records = json.loads(record.read_text())
    del records[0]["models"][0]["weights"]
    with pytest.raises(jsonschema.ValidationError, match="'weights' is a required property"):
        jsonschema.validate(records, SCHEMA)


def test_every_difference_is_named(run, record, checkpoint, tmp_path):
    records = json.loads(record.read_text())
    records[0]["versions"]["torch"] = "1.0"
    records[0]["scores"]["score"]["score"] += 1
    records[1]["scores"]["score"]["score"] += 1e-4  # below what float32 settles
    record.write_text(json.dumps(records))
    status, said = run(verify, record)
    first, second, total = said.splitlines()
    assert status == 1
    assert "version of torch: 1.0 in the record" in first
    assert "score, score: " in first
    assert "interval" not in first
    assert (second, total) == ("s001: equal", "1 of 2 records are equal")

    video = tmp_path / "features" / "video"
    np.save(video / "s000.npy", np.zeros((2, 16), np.float32))
    (video / "s001.npy").unlink()
    weights = load_file(checkpoint / "model.safetensors")
    name = next(name for name in weights if name.endswith("reasoning_weight"))
    save_file(weights | {name: weights[name] + 0.1}, checkpoint / "model.safetensors", metadata={"format": "pt"})
    status, said = run(verify, record)
    first, second, total = said.splitlines()
    assert status == 1
    assert " weights: " in first
    assert "s000.npy has other contents" in first
    assert "s001.npy is not there" in second
    assert total == "0 of 2 records are equal"


def test_what_is_no_record_is_refused(run, tmp_path):
    for content in ("[{}]", "no JSON", '[{"format": 1}]'):
        (tmp_path / "record.json").write_text(content)
        status, _ = run(verify, tmp_path / "record.json")
        assert status.startswith(f"cannot verify {tmp_path / 'record.json'}: ")
