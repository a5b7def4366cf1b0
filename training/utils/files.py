"""Files that are written whole or not at all, values without local paths, and names of files several rooms share."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RECORD_FILE = "run.json"
OPTIMIZER_FILE = "optimizer.safetensors"
SCHEDULE_FILE = "optimizer.json"
SCALER_FILE = "scaler.json"
AVERAGE_FILE = "average.safetensors"
RANDOM_FILES = "rng_state*.json"  # one for each process
TRAINING_STATE_FILES = ("trainer_state.json", OPTIMIZER_FILE, SCHEDULE_FILE, SCALER_FILE, AVERAGE_FILE, RANDOM_FILES)


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
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".writing-") as scratch:
        unfinished = Path(scratch) / path.name
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())  # a power failure could otherwise keep the name and lose the content
        os.replace(unfinished, path)


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
