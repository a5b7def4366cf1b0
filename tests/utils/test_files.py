"""Files are written whole or not at all, and records name no place on this machine."""

import json
import math
import os

import pytest

from limssr.training.utils.files import (
    atomic_write,
    atomic_write_text,
    read_json,
    remove_leftovers,
    scratch_prefix,
    without_paths,
    write_json,
)


def test_a_failure_leaves_the_file_as_it_was(tmp_path):
    path = tmp_path / "deep" / "scores.txt"
    with atomic_write(path) as unfinished:
        unfinished.write_text("first")
    with pytest.raises(UnicodeEncodeError):
        atomic_write_text(path, "second, cut sho\ud800")
    assert path.read_text() == "first"
    assert [entry.name for entry in path.parent.iterdir()] == ["scores.txt"]


def test_leftovers_of_dead_processes_go_and_others_stay(tmp_path):
    other = scratch_prefix().replace(str(os.getpid()), str(2**22 + 1))  # no such process
    for name in (f"{other}a", "deep/.writing-checkpoint-3", f"deep/{other}b"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "half").write_text("half")
    kept = [f"{scratch_prefix()}c", f".writing-1@elsewhere-{'d' * 8}", "checkpoint-3"]
    for name in kept:
        (tmp_path / name).mkdir()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*kept, "deep"])
    assert len(list((tmp_path / "deep").iterdir())) == 2
    remove_leftovers(tmp_path, below=True)
    assert list((tmp_path / "deep").iterdir()) == []
    remove_leftovers(tmp_path / "nowhere")


def test_json_is_strict(tmp_path):
    path = tmp_path / "metrics.json"
    write_json(path, {"score": 0.5, "name": "größte"})
    assert json.loads(path.read_text(encoding="utf-8")) == {"score": 0.5, "name": "größte"}
    with pytest.raises(ValueError, match="nan"):
        write_json(path, {"score": math.nan})
    assert json.loads(path.read_text(encoding="utf-8"))["score"] == 0.5


def test_paths_are_cut_to_their_last_name(tmp_path):
    file = tmp_path / "video.npy"
    file.touch()
    record = {"file": file, "named": str(file), 3: ["~/data/fisv", "./runs/demo", "some/hub-name", 0.5, None, True]}
    assert without_paths(record) == {
        "file": "video.npy",
        "named": "video.npy",
        "3": ["fisv", "demo", "some/hub-name", 0.5, None, True],
    }


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff{}", b"[1]", b"1" * 5000, b"null"])
def test_a_json_file_that_holds_no_object_is_one_line_with_its_name(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.json: [^\n]*$"):
        read_json(tmp_path / "a.json")
