"""Words of the command line become values, and every choice is checked by name."""

import argparse
from dataclasses import dataclass
from typing import Literal

import pytest

from limssr.training.utils.settings import check_choices, check_settings, merge, read_pairs, read_rates, read_settings


@dataclass
class Choices:
    color: Literal["red", "blue"] = "red"
    size: Literal["small", "large"] | None = None
    name: str | None = None


def test_choices_of_a_dataclass_are_those_of_its_literals():
    check_choices(Choices())
    check_choices(Choices("blue", "large", "anything"))
    with pytest.raises(ValueError, match="`color` is 'green'; allowed are red, blue"):
        check_choices(Choices("green"))
    with pytest.raises(ValueError, match="`color` is None; allowed are red, blue"):
        check_choices(Choices(None))
    with pytest.raises(ValueError, match="`size` is 'huge'; allowed are small, large"):
        check_choices(Choices(size="huge"))


def test_settings_of_a_file_are_checked_like_flags():
    parser = argparse.ArgumentParser()
    parser.add_argument("--color", choices=("red", "blue"))
    parser.add_argument("--count", type=int)
    check_settings({"color": "red", "count": 3}, parser, "a.yaml")
    check_settings({"color": None}, parser, "a.yaml")
    with pytest.raises(ValueError, match=r"a\.yaml: `color` is 'green'; allowed are red, blue"):
        check_settings({"color": "green"}, parser, "a.yaml")
    for wrong in ([3], {"a": 3}):
        with pytest.raises(ValueError, match=r"a\.yaml: `count` is .*, expected a single value"):
            check_settings({"count": wrong}, parser, "a.yaml")
    with pytest.raises(ValueError, match=r"a\.yaml: unknown key 'colour'; did you mean 'color'\?"):
        check_settings({"colour": "red"}, parser, "a.yaml")
    with pytest.raises(ValueError, match=r"unknown key 'help'\.$"):
        check_settings({"help": True}, parser, "a.yaml")


def test_pairs_are_read_as_yaml():
    assert read_pairs(["a=1", "b=[x, y]", "c=", "d=e=f"], "options") == {
        "a": 1,
        "b": ["x", "y"],
        "c": None,
        "d": "e=f",
    }
    assert read_pairs(
        ["a=1e-1", "b=2024-05-01", "c=x #1", "d=k: v", "e={k: 1e-1}", "f='1'", "g=on", "h=007"], "o"
    ) == {
        "a": 0.1,
        "b": "2024-05-01",
        "c": "x #1",
        "d": "k: v",
        "e": {"k": 0.1},
        "f": "1",
        "g": "on",
        "h": "007",
    }
    with pytest.raises(ValueError, match=r"`options` has a=\[draft\] b, which is no YAML"):
        read_pairs(["a=[draft] b"], "options")
    assert read_pairs({"a": "1"}, "options") == {"a": "1"}
    assert read_pairs(None, "options") is None
    with pytest.raises(ValueError, match="`options` has 'a', expected KEY=VALUE"):
        read_pairs("a", "options")


def test_rates_are_one_number_or_one_for_each_modality():
    assert read_rates("0.3", "rates") == 0.3
    assert read_rates(["0.3"], "rates") == 0.3
    assert read_rates(0.3, "rates") == 0.3
    assert read_rates(["video=0.3", "audio=0.5"], "rates") == {"video": 0.3, "audio": 0.5}
    assert read_rates([], "rates") == {}
    with pytest.raises(ValueError, match="`rates` is 'much', expected a RATE or MODALITY=RATE"):
        read_rates(["much"], "rates")


def test_flags_win_over_the_file_entry_by_entry():
    assert merge({"a": 1}, {"a": 2, "b": 3}) == {"a": 1, "b": 3}
    assert merge(None, 3) == 3
    assert merge(0, 3) == 0


@pytest.mark.parametrize(
    "content", [b"[" * 3000, b"? [a]\n: 1", b"a: \xff", b"a: !!python/object:os.system x", b"- a"]
)
def test_a_file_that_is_no_settings_is_named_in_one_line(tmp_path, content):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(ValueError, match=r"a\.yaml") as caught:
        read_settings(tmp_path / "a.yaml")
    assert "\n" not in str(caught.value)


LEVELS = [
    f"{name}: &{name} [{', '.join([f'*{before}'] * 9)}]" for before, name in zip("abcdefg", "bcdefgh", strict=True)
]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: &a [x]\n" + "\n".join(LEVELS), "more than 100000 values"),
        ("a: &a [*a]", "a value that contains itself"),
        ("a: " + "[" * 5000, "nested too deeply"),
    ],
    ids=["bomb", "circle", "depth"],
)
def test_yaml_that_would_fill_the_memory_is_refused(tmp_path, text, message):
    (tmp_path / "bad.yaml").write_text(text)
    with pytest.raises(ValueError, match=rf"bad\.yaml is no .*{message}"):
        read_settings(tmp_path / "bad.yaml")


def test_aliases_for_brevity_are_fine(tmp_path):
    (tmp_path / "good.yaml").write_text("a: &a {x: 1}\nb: {<<: *a, y: 2}\nc: *a\n")
    assert read_settings(tmp_path / "good.yaml") == {"a": {"x": 1}, "b": {"x": 1, "y": 2}, "c": {"x": 1}}
