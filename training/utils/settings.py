"""Arguments of `train.py`: a YAML file first, flags on top of it, every key checked."""

import argparse
import difflib
from collections.abc import Mapping, Sequence
from dataclasses import field
from pathlib import Path
from typing import Any

import yaml


def described(default: Any, text: str) -> Any:
    """A dataclass field with its help text."""
    return field(default=default, metadata={"help": text})


def read_pairs(words: Sequence[str] | dict | None, name: str) -> dict[str, Any] | None:
    """`KEY=VALUE` words as a dictionary with values read as YAML; a dictionary (of a YAML file) as it is."""
    if words is None or isinstance(words, dict):
        return words
    words = words if isinstance(words, list | tuple) else [words]
    if wrong := [word for word in words if not isinstance(word, str) or "=" not in word]:
        raise ValueError(f"`{name}` has {wrong[0]!r}, expected KEY=VALUE.")
    return {key: yaml.safe_load(value) for key, value in (word.split("=", 1) for word in words)}


def read_rates(words: Sequence[str] | dict | float | None, name: str) -> float | dict[str, float] | None:
    """One rate or `MODALITY=RATE` words; numbers and dictionaries (of a YAML file) as they are."""
    if isinstance(words, str):
        words = [words]
    if not isinstance(words, list | tuple):
        return words
    if len(words) == 1 and "=" not in str(words[0]):
        try:
            return float(words[0])
        except ValueError:
            raise ValueError(f"`{name}` is {words[0]!r}, expected a RATE or MODALITY=RATE ...") from None
    return read_pairs(words, name)


def merge(of_flags: Any, of_file: Any) -> Any:
    """Flags win over the file; of a dictionary they replace single entries."""
    if isinstance(of_flags, dict) and isinstance(of_file, dict):
        return {**of_file, **of_flags}
    return of_file if of_flags is None else of_flags


def read_yaml(path: str | Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """The settings of a YAML file.

    Args:
        path: of the file.
        parser: has a flag for each key that may occur.

    Raises:
        ValueError: an unknown key, a value that is none of the flag's choices, or no dictionary.
    """
    settings = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds {type(settings).__name__}, expected keys with values.")
    check_settings(settings, parser, str(path))
    return settings


def check_settings(settings: Mapping[str, Any], parser: argparse.ArgumentParser, origin: str) -> None:
    """
    Args:
        settings: by the names of flags.
        parser: has a flag for each key that may occur.
        origin: of the settings, which begins the message.

    Raises:
        ValueError: an unknown key, or a value that is none of the flag's choices.
    """
    known = {action.dest: action for action in parser._actions if action.dest != "help"}
    for key in settings:
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            raise ValueError(f"{origin}: unknown key {key!r}" + (f"; did you mean {close[0]!r}?" if close else "."))
        choices = known[key].choices  # argparse asks for these of flags, not of defaults, which a file sets
        if choices is not None and settings[key] is not None and settings[key] not in choices:
            allowed = ", ".join(map(str, choices))
            raise ValueError(f"{origin}: `{key}` is {settings[key]!r}; allowed are {allowed}.")
