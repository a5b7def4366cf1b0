"""Pickles of strangers run nothing, and take neither much time nor much memory."""

import subprocess
import sys
from pathlib import Path

import pytest

from limssr.training.data.sources.pickles import load_restricted
from limssr.training.soaking.pickles import costly_pickles, hostile_calls


def test_the_corpus_has_more_than_200_kinds():
    corpus = [*hostile_calls("target"), *costly_pickles()]
    assert len({name for name, _ in corpus}) == len(corpus) > 200
    assert len({content for _, content in corpus}) == len(corpus)


@pytest.mark.slow
def test_nothing_runs_and_nothing_takes_long_or_much():
    """In a process of its own: what other tests hold makes garbage collection slow, and hides what a pickle takes."""
    done = subprocess.run([sys.executable, "-m", "limssr", "soak", "pickles"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def read(folder: Path, content: bytes):
    (folder / "table.pkl").write_bytes(content)
    return load_restricted(folder / "table.pkl")


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("key of nested pairs", "a key has more than 64 parts"),
        ("lists in lists", "more memory than the file has bytes"),
        ("marks", "more than 32 levels deep"),
        ("list in itself", "more than 32 levels deep"),
        ("pairs of lists", "more than 750000 values"),
        ("empty sets", "more memory than the file has bytes"),
        ("one text made bytes again and again", "more memory than the file has bytes"),
        ("bytearray of a number", "bytearray of int"),
        (r"length of b'\x8e' lies", "promises 2147483647 bytes more than are there"),
        ("colliding keys", "a number of more than 64 bits"),
        ("dtype of nested pairs", "dtype tuple is not a plain"),
    ],
)
def test_each_limit_says_what_is_too_much(tmp_path, name, reason):
    with pytest.raises(ValueError, match=rf"table\.pkl: not a whole pickle of arrays and containers \(.*{reason}"):
        read(tmp_path, dict(costly_pickles())[name])
