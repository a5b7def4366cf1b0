"""What is missing is null for its sample, counted by cause, listed on request, and fatal on request."""

import numpy as np
import pytest

from limssr.training.data import load, report_missing
from limssr.training.data.aqa_data import MissingFeature
from limssr.training.data.masks import available_masks
from limssr.training.data.prepare import prepare_data
from limssr.training.data.sources.files import CAUSES
from limssr.training.fitting.run import prepare_run

WIDTHS = {"video": 8, "audio": 6, "flow": 4}


def damage_tables(folder, written):
    """Makes one sample of the video table miss for every cause that a table has; returns sample id -> cause."""
    table = dict(written["video"])
    del table["1"]
    table["3"] = np.zeros((0, 8), np.float32)
    table["5"][0, 0] = np.inf
    table["6"] = np.zeros((3, 9), np.float32)
    table["7"] = np.array(["text"])
    table["8"] = 3
    np.save(folder / "Fis-feature" / "FISV_rgb_VST.npy", table)
    causes = ["absent key", "empty", "non-finite", "wrong width", "unreadable", "unreadable"]
    return dict(zip(["1", "3", "5", "6", "7", "8"], causes, strict=True))


def damage_files(folder, written):
    """The same for single files."""
    place = folder / "output_feature_fs1000_new"
    ids = sorted(written["video"])[:6]
    (place / f"{ids[0]}.npy").unlink()
    np.save(place / f"{ids[1]}.npy", np.zeros((0, 2, 8)))
    np.save(place / f"{ids[2]}.npy", np.full((2, 2, 8), np.nan))
    np.save(place / f"{ids[3]}.npy", np.zeros((2, 2, 9)))
    (place / f"{ids[4]}.npy").write_bytes(b"not an array")
    np.save(place / f"{ids[5]}.npy", np.array([{"a": 1}]))  # pickled, which is never read
    causes = ["missing file", "empty", "non-finite", "wrong width", "unreadable", "unreadable"]
    return dict(zip(ids, causes, strict=True))


@pytest.mark.parametrize(("dataset", "damage"), [("fisv", damage_tables), ("fs1000", damage_files)])
def test_every_cause_is_a_missing_modality_of_its_sample_alone(
    write_layout, tmp_path, caplog, capsys, dataset, damage
):
    causes = damage(tmp_path, write_layout(dataset, tmp_path, WIDTHS))
    data = load(dataset, folder=tmp_path, modalities=WIDTHS)
    found = {each.sample_id: (each.modality, each.cause) for each in data.missing.features}
    assert found == {sample_id: ("video", cause) for sample_id, cause in causes.items()}
    assert set(causes.values()) < set(CAUSES)
    for split in data.splits.values():
        for sample_id, mask in zip(split["sample_id"][:], available_masks(split, list(WIDTHS)), strict=True):
            assert mask == (int(sample_id not in causes), 1, 1)
    report_missing(data, list_missing=True)
    assert "video: 2 unreadable; the first is" in caplog.text
    assert len(capsys.readouterr().out.splitlines()) == 6
    with pytest.raises(ValueError, match=r"`require_complete` is given, but missing in \d+ samples:\n  video: 1"):
        report_missing(data, require_complete=True)


def test_a_missing_or_damaged_table_is_missing_for_every_sample(write_layout, tmp_path):
    write_layout("fisv", tmp_path, WIDTHS)
    (tmp_path / "Fis-feature" / "FISV_audio_AST.npy").unlink()
    path = tmp_path / "Fis-feature" / "FISV_flow_I3D.npy"
    path.write_bytes(path.read_bytes()[:-100])
    data = load("fisv", folder=tmp_path, modalities=WIDTHS)
    assert data.missing.counts() == {"audio": {"missing file": 500}, "flow": {"unreadable": 500}}
    assert set(available_masks(data.splits["train"], list(WIDTHS))) == {(1, 0, 0)}


def test_a_sample_without_any_modality_is_left_out_by_name(write_layout, tmp_path, caplog):
    write_layout("folder", tmp_path)
    for name in ("imu", "skeleton"):
        (tmp_path / name / "take03.npy").unlink()
    data = load("folder", folder=tmp_path)
    assert (len(data.splits["train"]), len(data.splits["test"])) == (15, 6)
    assert "take03" not in data.splits["train"]["sample_id"][:]
    report_missing(data)
    assert "1 samples without any modality are left out: take03" in caplog.text


def test_a_split_without_anything_is_refused(write_layout, tmp_path):
    write_layout("fisv", tmp_path, WIDTHS)
    for path in (tmp_path / "Fis-feature").iterdir():
        path.unlink()
    with pytest.raises(
        ValueError, match=r"(?s)no sample of the split 'train' has any feature; .*FISV_rgb_VST\.npy: no such"
    ):
        load("fisv", folder=tmp_path)


def zero_some(dataset, folder, written):
    """One sample of zeros, one of sevens and one with a leading 1 in place of the video; returns their ids."""
    ids = sorted(written["video"])[:3]
    arrays = [np.zeros((2, 8)), np.full((2, 8), 7.0), np.ones((1, 2, 8)) * np.arange(8)]
    if dataset == "fisv":
        np.save(folder / "Fis-feature" / "FISV_rgb_VST.npy", written["video"] | dict(zip(ids, arrays, strict=True)))
    else:
        for sample_id, array in zip(ids, arrays, strict=True):
            np.save(folder / "video" / f"{sample_id}.npy", array)
    return ids


@pytest.mark.parametrize("dataset", ["fisv", "folder"])
def test_zeros_are_counted_and_missing_where_that_is_said(write_layout, tmp_path, caplog, capsys, dataset):
    ids = zero_some(dataset, tmp_path, write_layout(dataset, tmp_path, WIDTHS))
    options = {"modalities": WIDTHS}
    data = load(dataset, folder=tmp_path, **options)
    found = [(each.sample_id, each.cause) for each in sorted(data.missing.odd, key=lambda each: each.sample_id)]
    assert found == list(zip(ids, ["all zeros", "constant", "leading 1"], strict=True))
    report_missing(data, list_missing=True)
    assert f"used as they are:\n  video: 1 all zeros; the first is {ids[0]}, every number is 0" in caplog.text
    assert f"{ids[1]}\tvideo\tconstant\tevery number is the same" in capsys.readouterr().out
    data = load(dataset, folder=tmp_path, zeros_are_missing=True, **options)
    assert data.missing.counts()["video"] == {"all zeros": 1}
    assert [each.cause for each in data.missing.odd if each.sample_id == ids[0]] == []


def test_prepared_data_know_what_was_odd(write_layout, tmp_path, caplog):
    (tmp_path / "data").mkdir()
    written = write_layout("folder", tmp_path / "data")
    sample_id = sorted(written["imu"])[0]
    np.save(tmp_path / "data" / "imu" / f"{sample_id}.npy", np.zeros((3, 6)))
    prepare_data("folder", str(tmp_path / "data"), tmp_path / "out")
    (tmp_path / "out" / "data" / "._folder-train-00000-of-00001.arrow").write_bytes(b"resource fork")
    caplog.clear()
    data = load("prepared", folder=tmp_path / "out")
    report_missing(data, require_complete=True)
    assert f"imu: 1 all zeros; the first is {sample_id}" in caplog.text
    prepare_data("folder", str(tmp_path / "data"), tmp_path / "without", {"zeros_are_missing": True})
    assert load("prepared", folder=tmp_path / "without").missing.counts() == {"imu": {"all zeros": 1}}


def test_complete_data_says_nothing(write_layout, tmp_path, caplog):
    write_layout("fisv", tmp_path, WIDTHS)
    data = load("fisv", folder=tmp_path, modalities=WIDTHS)
    report_missing(data, list_missing=True, require_complete=True)
    assert caplog.text == ""
    assert str(data.missing) == "no modality is missing in 500 samples"


def test_a_dataset_that_keeps_no_account_is_looked_at(caplog):
    data = load("synthetic", samples_train=5, samples_test=5)
    report_missing(data, require_complete=True)
    rows = data.splits["train"]
    data.splits["train"] = rows.map(lambda row: {"audio": None}, features=rows.features)
    with pytest.raises(ValueError, match="audio: 5 not given; the first is train_000000"):
        report_missing(data, require_complete=True)


def test_training_refuses_incomplete_data_when_it_is_asked_to(write_layout, tmp_path, quick_arguments):
    (tmp_path / "data").mkdir()
    write_layout("folder", tmp_path / "data")
    (tmp_path / "data" / "imu" / "take00.npy").unlink()
    options = {"dataset": "folder", "data_options": {"folder": str(tmp_path / "data")}}
    with pytest.raises(ValueError, match=r"`require_complete` is given.*\n.*imu: 1 missing file; the first is take00"):
        prepare_run(*quick_arguments("--require_complete", **options))
    assert prepare_run(*quick_arguments(**options)).data.missing.features == [
        MissingFeature("take00", "imu", "missing file", str_of_missing(tmp_path))
    ]


def str_of_missing(folder):
    path = folder / "data" / "imu" / "take00.npy"
    return f"{path}: no such file; expected .npy or .safetensors, [clips, dim]"
