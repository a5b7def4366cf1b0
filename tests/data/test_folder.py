"""Your own folder: any modalities, any scores, missing cells and files."""

import logging

import numpy as np
import psutil
import pytest
import torch
import yaml
from safetensors.torch import save_file

from limssr.training.data import load
from limssr.training.data.sources.labels import LabelError


def write(folder, labels, **features):
    """`labels.csv`, and features by `modality={"id": array}`."""
    (folder / "labels.csv").write_text(labels)
    for name, arrays in features.items():
        for sample_id, array in arrays.items():
            path = folder / name / f"{sample_id}.npy"
            path.parent.mkdir(parents=True, exist_ok=True)
            np.save(path, array)


LABELS = "sample_id,difficulty,execution,split\na,1.5,,train\nb,2.5,7,train\nmeet/1,2,8,test\nc,,9,validation\n"
ONES = dict.fromkeys(["a", "b", "meet/1", "c"], np.ones((2, 3), np.float32))


def test_a_folder_is_what_was_written(write_layout, tmp_path):
    written = write_layout("folder", tmp_path)
    data = load("folder", folder=tmp_path)
    assert data.modalities == {"imu": 6, "skeleton": 34}
    assert data.score_names == ["difficulty", "execution"]
    rows = [line.split(",") for line in (tmp_path / "labels.csv").read_text().splitlines()[1:]]
    for split in ("train", "test"):
        expected = [row for row in rows if row[3] == split]
        assert data.splits[split]["sample_id"][:] == [row[0] for row in expected]
        for column, name in ((1, "difficulty"), (2, "execution")):
            scores = [float(row[column]) for row in expected]
            np.testing.assert_allclose(data.splits[split][name][:], scores, rtol=1e-6)
        for row in data.splits[split]:
            for name, arrays in written.items():
                np.testing.assert_array_equal(np.array(row[name], np.float32), arrays[row["sample_id"]])


def test_no_file_stays_mapped(write_layout, tmp_path):
    write_layout("folder", tmp_path)
    data = load("folder", folder=tmp_path)
    if not hasattr(psutil.Process, "memory_maps"):
        pytest.skip("this system does not say which files a process has mapped")
    assert len(data.splits["train"]) == 16
    assert not [each.path for each in psutil.Process().memory_maps() if each.path.startswith(str(tmp_path))]


def test_files_that_vanish_or_change_while_training_change_nothing(tmp_path):
    write(tmp_path, "sample_id,score,split\na,1,train\nb,2,train\nc,3,test\n", video=ONES)
    train = load("folder", folder=tmp_path).splits["train"].with_format("numpy")
    (tmp_path / "video" / "a.npy").unlink()
    np.save(tmp_path / "video" / "b.npy", np.zeros((2, 3), np.float32))
    assert [np.array(row["video"]).tolist() for row in train] == [ONES["a"].tolist()] * 2


def test_missing_cells_are_nan_and_subfolders_and_validation_work(tmp_path):
    write(tmp_path, LABELS, sensor=ONES)
    data = load("folder", folder=tmp_path, score_ranges={"difficulty": [0, 5], "execution": [0, 10]})
    assert {name: rows["sample_id"][:] for name, rows in data.splits.items()} == {
        "train": ["a", "b"],
        "validation": ["c"],
        "test": ["meet/1"],
    }
    np.testing.assert_array_equal(data.splits["train"]["execution"][:], [np.nan, 7])
    np.testing.assert_array_equal(data.splits["validation"]["difficulty"][:], [np.nan])
    assert (data.score_minimums, data.score_ranges) == ([0, 0], [5, 10])


def test_safetensors_and_other_places(tmp_path):
    write(tmp_path, LABELS, sensor={"a": np.ones((2, 3))})
    (tmp_path / "elsewhere").mkdir()
    for sample_id in ("a", "b", "c"):
        save_file({"clips": torch.full((1, 5), 2.0)}, tmp_path / "elsewhere" / f"{sample_id}.safetensors")
    (tmp_path / "elsewhere" / "meet").mkdir()
    save_file({"clips": torch.full((4, 5), 3.0)}, tmp_path / "elsewhere" / "meet" / "1.safetensors")
    data = load(
        "folder", folder=tmp_path, features={"text": "elsewhere"}, modalities=["sensor", "text"], scores="difficulty"
    )
    assert data.modalities == {"sensor": 3, "text": 5}
    assert data.splits["test"][0]["text"] == [[3.0] * 5] * 4
    assert data.splits["test"][0]["sensor"] is None
    assert data.splits["train"][1]["execution"] == "7"
    assert data.missing.counts() == {"sensor": {"missing file": 3}}


def test_the_range_is_that_of_the_training_split_and_is_said(tmp_path, caplog):
    write(tmp_path, LABELS, sensor=ONES)
    data = load("folder", folder=tmp_path, scores=["difficulty"])
    assert (data.score_minimums, data.score_ranges) == ([1.5], [1.0])
    assert "predictions of difficulty stay within 1.5 to 2.5" in caplog.text


def test_most_files_say_the_width_and_the_others_are_missing(tmp_path, caplog):
    odd = {**ONES, "a": np.ones((2, 4), np.float32)}
    write(tmp_path, LABELS, sensor=odd)
    data = load("folder", folder=tmp_path, scores="difficulty")
    assert data.modalities == {"sensor": 3}
    assert "differ in width" in caplog.text
    assert data.missing.counts() == {"sensor": {"wrong width": 1}}
    assert data.missing.dropped == ["a"]


def test_cropping_is_said(tmp_path, caplog):
    write(tmp_path, LABELS, sensor={**ONES, "b": np.ones((9, 3), np.float32)})
    with caplog.at_level(logging.WARNING):
        load("folder", folder=tmp_path, scores="difficulty", max_clips=9)
        assert "clips" not in caplog.text
        load("folder", folder=tmp_path, scores="difficulty", max_clips=8)
    assert "up to sensor 9 clips, of which max_clips=8 are kept" in caplog.text


@pytest.mark.parametrize(
    ("labels", "options", "said"),
    [
        ("sample_id,score,split\na,1,dev\n", {}, r"line 2, sample 'a': split is 'dev', expected one of train, valid"),
        ("sample_id,score,split\na,1,train\nb,2,train\n", {}, "no sample is in the split test"),
        ("sample_id,score\na,1\n", {}, "there is no column 'split'"),
        ("sample_id,split\na,train\nb,test\n", {}, "there is no column of scores"),
        ("sample_id,score,split\na,1,train\nb,1,train\nc,1,test\n", {}, "no two different values"),
        (
            "sample_id,score,note,split\na,1,good,train\nb,2,,test\n",
            {},
            "line 2, sample 'a': note is 'good', expected",
        ),
        (
            LABELS,
            {"score_ranges": {"difficulty": [0, 5], "execution": [0, 7.5]}},
            "line 5, sample 'c': execution is 9, expected 0 to 7.5",
        ),
        (
            LABELS,
            {"score_ranges": {"score": [0, 1]}},
            "score_ranges names 'score'; the scores are difficulty, execution",
        ),
        (
            LABELS,
            {"score_ranges": {"difficulty": 5}},
            r"score_ranges of 'difficulty' is 5, expected \[lowest, highest\]",
        ),
        (LABELS, {"score_ranges": [0, 5]}, r"score_ranges is \[0, 5\], expected dict\[str, list\[float\]\]"),
        (
            LABELS,
            {"score_ranges": {"difficulty": [0, "high"]}},
            "score_ranges of 'difficulty' is 'high', expected a n",
        ),
        (LABELS, {"score_ranges": {"difficulty": [5, 5]}}, r"is \[5, 5\], expected \[lowest, highest\]"),
        (LABELS, {"max_clips": "48"}, r"options of the dataset 'folder' .*: max_clips is '48', expected int"),
        (LABELS, {"zeros_are_missing": "no"}, "zeros_are_missing is 'no', expected bool"),
        (LABELS, {"scores": ["points"]}, "there is no column 'points'"),
        (
            LABELS.replace("difficulty", "sensor"),
            {"scores": "sensor"},
            "the modality 'sensor' is called like a column of the labels",
        ),
        ("," + LABELS.replace("\n", "\n0,").removesuffix("0,"), {}, "line 1: column 1 has no name"),
        (
            LABELS,
            {"scores": "difficulty", "modalities": ["sound"]},
            "sound has no readable feature file of any sample",
        ),
        (LABELS, {"scores": "difficulty", "modalities": {"sensor": 0}}, "'sensor' has feature size 0"),
        (
            LABELS,
            {"scores": "difficulty", "features": {"sound": "x"}, "modalities": ["sensor"]},
            "features names 'sound'; the modalities are",
        ),
    ],
)
def test_mistakes_are_named(tmp_path, labels, options, said):
    write(tmp_path, labels, sensor=ONES)
    with pytest.raises(ValueError, match=said):
        load("folder", folder=tmp_path, **options)


def test_files_of_which_none_can_be_read_are_named_with_their_fault(tmp_path):
    write(tmp_path, LABELS, sensor=ONES)
    for sample_id in ONES:
        with (tmp_path / "sensor" / f"{sample_id}.npy").open("wb") as file:
            np.savez(file, ONES["a"])
    with pytest.raises(ValueError, match=r"any sample; the first is .*sensor/a\.npy: a zip archive, as np\.savez"):
        load("folder", folder=tmp_path, scores="difficulty")


def test_options_are_what_yaml_makes_of_them(tmp_path, monkeypatch):
    write(tmp_path, LABELS, sensor=ONES)
    monkeypatch.setenv("HOME", str(tmp_path.parent))
    monkeypatch.chdir(tmp_path.parent)
    (tmp_path.parent / "2024-05-01").symlink_to(tmp_path)
    elsewhere = f"~/{tmp_path.name}/sensor"
    for folder in (f"~/{tmp_path.name}", "2024-05-01"):
        settings = f"{{folder: {folder}, score_ranges: {{difficulty: [0, 1e2]}}, features: {{imu: {elsewhere}}}}}"
        data = load("folder", scores="difficulty", **yaml.safe_load(settings))
        assert (data.score_minimums, data.score_ranges) == ([0], [100])
        assert data.modalities == {"sensor": 3, "imu": 3}
    (tmp_path.parent / "2024-05-01").unlink()


def test_a_folder_without_features_or_labels_is_refused(tmp_path):
    with pytest.raises(LabelError, match=r"labels\.csv: no such file"):
        load("folder", folder=tmp_path)
    write(tmp_path, LABELS)
    with pytest.raises(ValueError, match=r"has no subfolder of \.npy or \.safetensors files"):
        load("folder", folder=tmp_path, scores="difficulty")


def test_a_column_of_words_can_be_a_modality(tmp_path):
    labels = "sample_id,notes,score,split\na,clean entry,1.5,train\nb, ,2.5,train\nc,late,2,test\nd,,3,test\n"
    write(tmp_path, labels, sensor=dict.fromkeys("abc", np.ones((2, 3))))
    data = load("folder", folder=tmp_path, modalities={"notes": "text", "sensor": None})
    assert data.modalities == {"notes": "text", "sensor": 3}
    assert data.score_names == ["score"]
    assert data.splits["train"]["notes"][:] == ["clean entry", None]
    assert data.splits["test"]["sample_id"][:] == ["c"]
    assert data.missing.counts() == {"notes": {"not given": 2}, "sensor": {"missing file": 1}}
    assert data.missing.dropped == ["d"]
    with pytest.raises(LabelError, match="there is no column 'speech'"):
        load("folder", folder=tmp_path, modalities={"speech": "text"})
