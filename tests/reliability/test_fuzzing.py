"""Whatever is in a file, its parser gives the value that another reader finds, or one line that names the file."""

import random
from pathlib import Path

import pytest

from limssr.training.soaking.checking import PromiseBrokenError, Target, check
from limssr.training.soaking.targets import TARGETS

FOUND = Path(__file__).with_name("found")  # what `limssr soak fuzz` found: <target>-<digest>
INPUTS = 120  # for each parser; `limssr soak fuzz` is guided, and goes on for as long as wanted
COSTLY, FEW = ("config", "optimizer", "predictions", "processor", "schedule", "tokenizer", "weights"), 15
TOKENS = (b"\xff", b"\x00", b",", b"\n", b'"', b"(", b"9" * 30, b"-", b"nan", b"1e999", b"\r", b"[", b"{", b" ")


def damage(seed: bytes, other: bytes, source: random.Random) -> bytes:
    content = bytearray(seed)
    for _ in range(source.randint(1, 4)):
        place = source.randrange(len(content) + 1)
        kind = source.randrange(4)
        if kind == 0 and place < len(content):
            content[place] ^= 1 << source.randrange(8)
        elif kind == 1:
            content[place:place] = source.choice(TOKENS)
        elif kind == 2:
            del content[place : place + source.randint(1, 20)]
        else:
            content[place:] = other[source.randrange(len(other) + 1) :]
    return bytes(content)


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_accepted_and_damaged_ones_hold_the_promise(name, tmp_path):
    target, source = TARGETS[name], random.Random(name)  # noqa: S311 (repeats)
    seeds = target.seeds()
    if target.surround is not None:
        target.surround(tmp_path)
    for seed in seeds:
        assert check(target, seed, tmp_path), "a seed is refused"
    for _ in range(FEW if name in COSTLY else INPUTS):
        check(target, damage(source.choice(seeds), source.choice(seeds), source), tmp_path)


@pytest.mark.parametrize("path", sorted(FOUND.iterdir()), ids=lambda path: path.name)
def test_what_broke_a_promise_once_holds_it_now(path, tmp_path):
    target = TARGETS[path.name.rpartition("-")[0]]
    if target.surround is not None:
        target.surround(tmp_path)
    check(target, path.read_bytes(), tmp_path)


def test_the_check_finds_what_it_looks_for(tmp_path):
    def crash(path):
        raise KeyError(path)

    def complain(path):
        raise ValueError("something is wrong")

    for read, reference in ((complain, None), (lambda path: 1, lambda path: 2)):
        with pytest.raises(PromiseBrokenError):
            check(Target("input.x", list, read, reference), b"", tmp_path)
    with pytest.raises(KeyError):
        check(Target("input.x", list, crash), b"", tmp_path)
