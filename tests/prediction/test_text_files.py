"""Texts are read from .txt files, and a bad one is named."""

import pytest

from limssr.training.data.sources.files import FeatureFileError
from limssr.training.prediction.files import samples_from_csv, samples_from_folder


def test_texts_are_read_from_folders_and_csv(tmp_path):
    (tmp_path / "commentary").mkdir()
    (tmp_path / "commentary" / "a.txt").write_text("\ufeff A clean entry.\n", encoding="utf-8")
    (tmp_path / "commentary" / "b.txt").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "commentary" / "c.txt").write_text(" \n")
    (tmp_path / "commentary" / "d.npy").touch()
    first, *wrong = samples_from_folder(tmp_path, ["dive", "commentary"], texts=["commentary"])
    assert first.read() == {"commentary": "A clean entry."}
    for sample, message in zip(wrong, (r"b\.txt: not a text in UTF-8", r"c\.txt: the text is empty"), strict=True):
        with pytest.raises(FeatureFileError, match=message):
            sample.read()
    (tmp_path / "list.csv").write_text("sample_id,commentary\none,commentary/a.txt\ntwo,commentary/e.txt\n")
    one, two = samples_from_csv(tmp_path / "list.csv", ["dive", "commentary"])
    assert one.read() == first.read()
    with pytest.raises(FeatureFileError, match=r"e\.txt: no such file; expected a \.txt file"):
        two.read()
