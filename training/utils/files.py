"""Files that are written whole or not at all, values without local paths, and names of files several rooms share."""

import json
import os
import platform
import re
import reprlib
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from .errors import brief, reading

RECORD_FILE = "run.json"
RECORD_FIELDS = dict.fromkeys(("arguments.model", "arguments.data", "arguments.training"), dict)
RECORD_FIELDS |= {f"dataset.{split}.samples": int for split in ("train", "validation", "test")}
RECORD_FIELDS |= {"processes": int, "device": str, "history": list}
OPTIMIZER_FILE = "optimizer.safetensors"
SCHEDULE_FILE = "optimizer.json"
SCALER_FILE = "scaler.json"
AVERAGE_FILE = "average.safetensors"
RANDOM_FILES = "rng_state*.json"  # one for each process
OPTIMIZER_STATE_FILES = (OPTIMIZER_FILE, SCHEDULE_FILE, SCALER_FILE, AVERAGE_FILE, RANDOM_FILES)
TRAINING_STATE_FILES = ("trainer_state.json", *OPTIMIZER_STATE_FILES)
UNFINISHED = ".writing-"  # begins the name of what is being written
SCRATCH = re.compile(rf"{re.escape(UNFINISHED)}(\d+)@(.+)-[^-]+", re.ASCII)


def cache_folder() -> Path:
    """Return the folder of what can be made again: `limssr` in XDG_CACHE_HOME, by default in `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "limssr"


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Give a temporary path to write to, and rename it to `path` at the end; a failure leaves nothing behind.

    Args:
        path: target file; its folder is created.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=scratch_prefix()) as scratch:
        unfinished = Path(scratch) / path.name
        yield unfinished
        sync(unfinished)  # a power failure could otherwise keep the name and lose the content
        os.replace(unfinished, path)


def scratch_prefix() -> str:
    """Return what begins the name of a scratch folder, by which `remove_leftovers` knows whose it is."""
    return f"{UNFINISHED}{os.getpid()}@{platform.node()}-"


def remove_leftovers(folder: str | Path, *, below: bool = False) -> None:
    """Remove what killed processes did not finish writing into a folder; that of living ones and other machines stays.

    Args:
        folder: the folder; there may be none.
        below: also look into its subfolders.
    """
    for place, folders, _ in os.walk(folder):
        for name in [name for name in folders if name.startswith(UNFINISHED)]:
            folders.remove(name)
            found = SCRATCH.match(name)
            if found is None or (found[2] == platform.node() and not psutil.pid_exists(int(found[1]))):
                shutil.rmtree(Path(place, name), ignore_errors=True)
        if not below:
            return


def sync(path: Path) -> None:
    """Flush a file or the names in a folder to the disk; Windows does not open folders."""
    if os.name == "nt" and path.is_dir():
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def scratch_folder(out: Path) -> Iterator[Path]:
    """Temporary folder beside `out`; folders of killed runs are removed.

    Its name is unique, because the worker processes of a killed run may still be writing to theirs.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{out.name}.preparing-"
    for old in out.parent.iterdir():
        if old.name.startswith(prefix):
            shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=out.parent) as scratch:
        yield out.parent / scratch


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text with `atomic_write`."""
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write strict JSON without paths of this machine (see `without_paths`), with `atomic_write`.

    Raises:
        ValueError: NaN or an infinite number, which JSON does not have.
    """
    atomic_write_text(path, json.dumps(without_paths(value), indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: str | Path, fields: Mapping[str, type] = MappingProxyType({})) -> dict[str, Any]:
    """Read a JSON file that holds an object.

    Args:
        path: the file.
        fields: fields that must be there and their types; `a.b` is field `b` of field `a`.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it holds anything else; one line that names the file, and the field.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON in UTF-8: {brief(error)}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: holds {type(content).__name__}, expected names with values")
    for name, kind in fields.items():
        with reading(path):
            _require_field(content, name, kind)
    return content


def _require_field(content: Any, name: str, kind: type) -> None:
    for part in name.split("."):
        if not isinstance(content, dict) or part not in content:
            raise ValueError(f"it has no field `{name}`")
        content = content[part]
    if not isinstance(content, kind):
        raise ValueError(f"`{name}` is {reprlib.repr(content)}, expected {kind.__name__}")


def without_paths(value: Any) -> Any:
    """Return the value with every path of this machine cut to its last name, so that it can be published."""
    if isinstance(value, dict):
        return {str(key): without_paths(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [without_paths(entry) for entry in value]
    if isinstance(value, Path) or (isinstance(value, str) and _is_path(value)):
        return Path(value).name
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def _is_path(text: str) -> bool:
    return text.startswith(("/", "~/", "./", "../")) or (len(text) < 255 and "/" in text and Path(text).exists())
