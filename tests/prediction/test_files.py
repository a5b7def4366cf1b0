"""Samples found in a folder or a CSV; every mistake is named with its place."""

import os

import numpy as np
import pytest

from limssr.training.data.sources.files import SUFFIXES, FeatureFileError
from limssr.training.data.sources.labels import LabelError
from limssr.training.prediction.cluster import read_samples, sample_table
from limssr.training.prediction.files import samples_from_csv, samples_from_folder, suffixes_of

CLIPS = np.arange(12, dtype=np.float32).reshape(3, 4)


def test_a_folder_gives_every_id_with_what_it_has(tmp_path):
    for name in ("video/a.npy", "video/meet/1.npy", "audio/a.safetensors", "video/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    samples = samples_from_folder(tmp_path, dict.fromkeys(["video", "audio", "flow"], SUFFIXES))
    assert [(sample.sample_id, sorted(sample.paths)) for sample in samples] == [
        ("a", ["audio", "video"]),
        ("meet/1", ["video"]),
    ]


def test_two_files_for_one_modality_are_an_error_of_that_sample_alone(tmp_path):
    (tmp_path / "video").mkdir()
    np.save(tmp_path / "video" / "b.npy", CLIPS)
    for name in ("a.npy", "a.safetensors"):
        (tmp_path / "video" / name).touch()
    first, second = samples_from_folder(tmp_path, {"video": SUFFIXES})
    with pytest.raises(FeatureFileError, match="two files for one modality"):
        first.read()
    np.testing.assert_array_equal(second.read()["video"], CLIPS)


def test_names_of_files_may_be_any_bytes(tmp_path):
    (tmp_path / "video").mkdir()
    with open(os.fsencode(tmp_path / "video") + b"/\xb6.npy", "wb") as file:
        np.save(file, CLIPS)
    samples = samples_from_folder(tmp_path, {"video": SUFFIXES})
    assert [sample.sample_id for sample in samples] == [r"\xb6"]
    (again,) = read_samples(sample_table(samples))
    np.testing.assert_array_equal(again.read()["video"], CLIPS)
    samples[0].paths["video"].unlink()
    with pytest.raises(FeatureFileError, match=r"/\\xb6\.npy: no such file"):
        samples[0].read()


def test_a_folder_without_features_is_refused(tmp_path):
    with pytest.raises(FeatureFileError, match="at least one subfolder"):
        samples_from_folder(tmp_path, {"video": SUFFIXES})
    (tmp_path / "video").mkdir()
    with pytest.raises(FeatureFileError, match=r"no \.npy or \.safetensors file"):
        samples_from_folder(tmp_path, {"video": SUFFIXES})


def test_csv_paths_are_relative_to_it_and_empty_cells_are_missing(tmp_path):
    np.save(tmp_path / "v.npy", CLIPS)
    table = "﻿sample_id,video,audio\r\none,v.npy,\r\ntwo,,\r\n"
    (tmp_path / "list.csv").write_text(table, encoding="utf-8", newline="")
    one, two = samples_from_csv(tmp_path / "list.csv", ["video", "audio"])
    np.testing.assert_array_equal(one.read()["video"], CLIPS)
    with pytest.raises(FeatureFileError, match="sample two: no modality is given"):
        two.read()


@pytest.mark.parametrize("cell", ["../v.npy", "{folder}/v.npy", "C:\\v.npy", "link/v.npy"])
def test_csv_paths_lead_out_of_its_folder_only_where_that_is_asked_for(tmp_path, cell):
    np.save(tmp_path / "v.npy", CLIPS)
    (tmp_path / "list").mkdir()
    (tmp_path / "list" / "link").symlink_to(tmp_path)
    (tmp_path / "list" / "list.csv").write_text(f"sample_id,video\none,{cell.format(folder=tmp_path)}\n")
    with pytest.raises(LabelError, match=r"line 2, sample 'one': video: the path .*`outside_paths` permits"):
        samples_from_csv(tmp_path / "list" / "list.csv", ["video"])
    (one,) = samples_from_csv(tmp_path / "list" / "list.csv", ["video"], outside_paths=True)
    assert one.paths["video"].exists() == (not cell.startswith("C:"))


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("sample_id,video\n../a,v.npy\n", "line 2: the id '../a' leads out of its folder"),
        ("sample_id,vidoe\na,v.npy\n", r"\['sample_id', 'vidoe'\], expected sample_id and one or more of \['video'\]"),
        ("video\nv.npy\n", "expected sample_id"),
        ("", "expected sample_id"),
        ("sample_id,video\na,v.npy\na,w.npy\n", "line 3: sample 'a' is already on line 2"),
        ("sample_id,video\n,v.npy\n", "line 2: the id of a sample is empty"),
        ("sample_id,video\na,v.npy,w.npy\n", "line 2: there are 3 cells, expected 2"),
        ("sample_id,video\na\n", "line 2: there are 1 cells, expected 2"),
        (",sample_id,video\n0,a,v.npy\n", "line 1: column 1 has no name"),
    ],
)
def test_csv_mistakes_are_named_with_their_line(tmp_path, table, message):
    (tmp_path / "list.csv").write_text(table)
    with pytest.raises(LabelError, match=message):
        samples_from_csv(tmp_path / "list.csv", ["video"])


def test_a_csv_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"sample_id,video\n\xff\xfe,a\n")
    with pytest.raises(LabelError, match="UTF-8"):
        samples_from_csv(tmp_path / "list.csv", ["video"])


def test_texts_are_read_from_folders_and_csv(tmp_path):
    (tmp_path / "commentary").mkdir()
    (tmp_path / "commentary" / "a.txt").write_text("\ufeff A clean entry.\n", encoding="utf-8")
    (tmp_path / "commentary" / "b.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "commentary" / "c.txt").write_text(" \n")
    (tmp_path / "commentary" / "d.npy").touch()
    first, *wrong = samples_from_folder(tmp_path, suffixes_of({"dive": 4, "commentary": "text"}))
    assert first.read() == {"commentary": "A clean entry."}
    for sample, message in zip(wrong, (r"b\.txt: not a text in UTF-8", r"c\.txt: the text is empty"), strict=True):
        with pytest.raises(FeatureFileError, match=message):
            sample.read()
    (tmp_path / "list.csv").write_text("sample_id,commentary\none,commentary/a.txt\ntwo,commentary/e.txt\n")
    one, two = samples_from_csv(tmp_path / "list.csv", ["dive", "commentary"])
    assert one.read() == first.read()
    with pytest.raises(FeatureFileError, match=r"e\.txt: no such file; expected a \.txt file"):
        two.read()
