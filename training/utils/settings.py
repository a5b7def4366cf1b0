"""Settings of the scripts: a YAML file first, flags on top of it, every key and every choice checked."""

import argparse
import difflib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from .errors import brief, reading

CONFIGS = Path(__file__).parents[1] / "configs"
_YAML = "tag:yaml.org,2002:"
_FLOAT = r"(0|[1-9][0-9]*)(\.[0-9]*)?([eE][-+]?[0-9]+)?|\.[0-9]+([eE][-+]?[0-9]+)?|\.inf"
MOST_VALUES = 100_000  # of a file
SCALARS = {
    f"{_YAML}bool": r"true|True|TRUE|false|False|FALSE",
    f"{_YAML}int": r"[-+]?(0|[1-9][0-9]*)",
    f"{_YAML}float": rf"[-+]?({_FLOAT})|\.nan",
    f"{_YAML}null": r"~|null|Null|NULL|",
}


class SettingsLoader(yaml.SafeLoader):
    """Read scalars as YAML 1.2 does: `1e-1` is a number; `2024-05-01`, `1:30`, `007`, `no` and `on` are text."""

    yaml_implicit_resolvers = {"<": yaml.SafeLoader.yaml_implicit_resolvers["<"]}  # noqa: RUF012 (as in the parent)


for _tag, _pattern in SCALARS.items():
    SettingsLoader.add_implicit_resolver(_tag, re.compile(f"^({_pattern})$"), None)


def read_value(text: str) -> Any:
    """Read the VALUE of a flag by the rules of a YAML file, but take `#`, `: ` and the like in it for text.

    Raises:
        ValueError: a list or dictionary in brackets, or a quoted text, that is no YAML.
    """
    text = text.strip()
    if text.startswith(("[", "{", '"', "'")):
        return _load_yaml(text)
    tag = next((tag for tag, pattern in SCALARS.items() if re.fullmatch(pattern, text)), f"{_YAML}str")
    return SettingsLoader("").construct_object(yaml.ScalarNode(tag, text))


def _load_yaml(text: str) -> Any:
    """
    Raises:
        ValueError: the text is no YAML, in one line.
    """
    try:
        _count_values(yaml.compose(text, SettingsLoader), {})
        return yaml.load(text, SettingsLoader)  # noqa: S506 (a safe loader)
    except RecursionError:
        raise ValueError("no YAML that can be read: it is nested too deeply") from None
    except (yaml.YAMLError, TypeError, OverflowError) as error:  # of keys and numbers
        raise ValueError(f"no YAML: {brief(error)}") from None


def _count_values(node: yaml.Node | None, counts: dict[int, int | None]) -> int:
    """Return how many values a node stands for with every alias written out.

    Raises:
        ValueError: there are too many, as in files made to fill the memory, or a node contains itself.
    """
    if node is None or isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in counts:
        counts[id(node)] = None
        pairs = node.value if isinstance(node, yaml.MappingNode) else [(value,) for value in node.value]
        counts[id(node)] = 1 + sum(_count_values(value, counts) for pair in pairs for value in pair)
    count = counts[id(node)]
    if count is None or count > MOST_VALUES:
        found = "a value that contains itself" if count is None else f"more than {MOST_VALUES} values"
        raise ValueError(f"no file of settings: it has {found}")
    return count


def read_pairs(words: Sequence[str] | dict | None, name: str) -> dict[str, Any] | None:
    """Turn `KEY=VALUE` words into a dictionary, see `read_value`; a dictionary (from a file) stays as it is."""
    if words is None or isinstance(words, dict):
        return words
    words = words if isinstance(words, list | tuple) else [words]
    if wrong := [word for word in words if not isinstance(word, str) or "=" not in word]:
        raise ValueError(f"`{name}` has {wrong[0]!r}, expected KEY=VALUE.")
    pairs = {}
    for key, value in (word.split("=", 1) for word in words):
        try:
            pairs[key] = read_value(value)
        except ValueError as error:
            raise ValueError(f"`{name}` has {key}={value}, which is {error}.") from None
    return pairs


def read_rates(words: Sequence[str] | dict | float | None, name: str) -> float | dict[str, float] | None:
    """Read one rate or `MODALITY=RATE` words; numbers and dictionaries (from a file) stay as they are."""
    if isinstance(words, str):
        words = [words]
    if not isinstance(words, list | tuple):
        return words
    if len(words) != 1 or "=" in str(words[0]):
        return read_pairs(words, name)
    try:
        return float(words[0])
    except ValueError:
        raise ValueError(f"`{name}` is {words[0]!r}, expected a RATE or MODALITY=RATE ...") from None


def merge(from_flags: Any, from_file: Any) -> Any:
    """Let flags win over the file; in a dictionary they replace single entries."""
    if isinstance(from_flags, dict) and isinstance(from_file, dict):
        return {**from_file, **from_flags}
    return from_file if from_flags is None else from_flags


def find_config(name: str | Path) -> Path:
    """Return a YAML file, or the one of that name in `training/configs`, with or without its suffix.

    Raises:
        FileNotFoundError: there is neither.
    """
    path = Path(name)
    if path.is_file():
        return path
    packaged = (CONFIGS / path).with_suffix(".yaml")
    if not packaged.is_file():
        known = ", ".join(sorted(file.stem for file in CONFIGS.glob("*.yaml")))
        raise FileNotFoundError(f"there is no file {name}, and none of the configurations is called so: {known}")
    return packaged


def read_yaml(path: str | Path, parser: argparse.ArgumentParser) -> dict[str, Any]:
    """Read the settings of a YAML file.

    Args:
        path: see `find_config`.
        parser: parser with a flag for every key that may occur.

    Raises:
        OSError: there is no such file.
        ValueError: no YAML, no dictionary, an unknown key, or a value that is not among a flag's choices.
    """
    settings = read_settings(path)
    check_settings(settings, parser, str(path))
    return settings


def read_settings(path: str | Path) -> dict[str, Any]:
    """Read the settings of a YAML file without checking them, see `read_yaml`."""
    found = find_config(path)
    with reading(path):
        text = found.read_text(encoding="utf-8")
    try:
        settings = _load_yaml(text)
    except ValueError as error:
        raise ValueError(f"{path} is {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"{path} holds {type(settings).__name__}, expected keys with values.")
    return settings


def check_settings(settings: Mapping[str, Any], parser: argparse.ArgumentParser, origin: str) -> None:
    """Check settings as argparse checks flags, because it takes defaults, which a file sets, as they are.

    Args:
        settings: values by flag name.
        parser: parser with a flag for every key that may occur.
        origin: where the settings come from; begins the message.

    Raises:
        ValueError: an unknown key, or a value that is not among the flag's choices.
    """
    no_settings = (argparse.SUPPRESS, "help")
    choices = {action.dest: action.choices for action in parser._actions if action.dest not in no_settings}
    single = {action.dest for action in parser._actions if action.nargs != "+" and action.type not in (str, None)}
    for key, value in settings.items():
        if key not in choices:
            close = difflib.get_close_matches(str(key), choices, n=1)
            raise ValueError(f"{origin}: unknown key {key!r}" + (f"; did you mean {close[0]!r}?" if close else "."))
        if isinstance(value, list | dict) and key in single:
            raise ValueError(f"{origin}: `{key}` is {repr(value)[:60]}, expected a single value.")
        if choices[key] is not None and value is not None:
            _check_choice(f"{origin}: `{key}`", value, choices[key])


def check_choices(arguments: Any) -> None:
    """Check the fields of a dataclass whose type is a `Literal`.

    Raises:
        ValueError: a value that is not among the field's choices.
    """
    for name, hint in get_type_hints(type(arguments)).items():
        options, value = get_args(hint), getattr(arguments, name)
        if get_origin(hint) is Literal:
            _check_choice(f"`{name}`", value, options)
        elif NoneType in options and get_origin(options[0]) is Literal and value is not None:
            _check_choice(f"`{name}`", value, get_args(options[0]))


def _check_choice(label: str, value: Any, choices: Sequence) -> None:
    if value not in choices:
        raise ValueError(f"{label} is {value!r}; allowed are {', '.join(map(str, choices))}.")
