"""Folders of checkpoints: visible only when whole, checked against their manifest, and trusted no further than that.

OUTPUT_DIR/
    checkpoint-10/
        manifest.json       size and SHA-256 of every other file, and the name of the best checkpoint; written last
    .writing-checkpoint-20/ until it is whole and on the disk; what a killed run left is removed by the next
"""

import fnmatch
import hashlib
import json
import math
import re
import shutil
from collections.abc import Collection, Iterator
from dataclasses import fields
from functools import cache
from pathlib import Path

from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from .files import OPTIMIZER_STATE_FILES, UNFINISHED, sync
from .paths import path_below

MANIFEST_FILE = "manifest.json"
NAME = re.compile(rf"{PREFIX_CHECKPOINT_DIR}-(\d+)", re.ASCII)
MOST_STEPS = 2**53  # JSON numbers are exact up to here


def checkpoint_folder(output_dir: str | Path, step: int) -> Path:
    """Return the folder of the checkpoint of a step."""
    return path_below(output_dir, f"{PREFIX_CHECKPOINT_DIR}-{step}")


def unfinished_folder(folder: Path) -> Path:
    """Return where a folder is written until `finish_folder` gives it its name."""
    return folder.with_name(f"{UNFINISHED}{folder.name}")


def finish_folder(unfinished: Path, folder: Path, best: str | Path | None = None) -> None:
    """Write the manifest, flush everything to the disk and give a folder its name; an earlier one is replaced.

    Args:
        unfinished: folder with all its files.
        folder: its name from now on.
        best: the best checkpoint so far, beside it or itself.
    """
    paths = [path for path in sorted(unfinished.rglob("*")) if path.is_file()]
    files = {path.relative_to(unfinished).as_posix(): _describe(path) for path in paths}
    manifest = {"files": files, "best": None if best is None else Path(best).name}
    (unfinished / MANIFEST_FILE).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
    for path in [*unfinished.rglob("*"), unfinished]:
        sync(path)
    if folder.exists():  # the same step, saved again
        before = unfinished.with_name(f"{unfinished.name}-before")
        folder.rename(before)
        unfinished.rename(folder)
        shutil.rmtree(before)
    else:
        unfinished.rename(folder)
    sync(folder.parent)


def _describe(path: Path) -> dict[str, int | str]:
    about = path.stat()
    return {"size": about.st_size, "sha256": _digest(path, about.st_size, about.st_mtime_ns)}


@cache
def _digest(path: Path, size: int, modified: int) -> str:
    """SHA-256 of a file, once as long as it has this size and time: a checkpoint is checked by several callers."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(folder: Path) -> tuple[dict[Path, tuple[int, str]], Path | None]:
    """Return the size and SHA-256 of each file of a checkpoint, and the best checkpoint so far.

    Raises:
        ValueError: there is no manifest, or it is damaged.
    """
    try:
        manifest = json.loads((folder / MANIFEST_FILE).read_text(encoding="utf-8"))
        files = {path_below(folder, name): about for name, about in manifest["files"].items()}
        best = manifest["best"]
        if best is not None and not NAME.fullmatch(best):
            raise ValueError(f"`best` is {best!r}")
        return {path: (about["size"], about["sha256"]) for path, about in files.items()}, best and folder.parent / best
    except FileNotFoundError:
        text = f"{MANIFEST_FILE} is missing: the checkpoint was not written to its end, or by an earlier version"
        raise ValueError(text) from None
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(f"{MANIFEST_FILE} is damaged ({_short(error)})") from None


def find_damage(folder: Path, with_optimizer: bool = True) -> str | None:
    """Say what is missing or damaged in a checkpoint, None if it is whole.

    Args:
        folder: folder of the checkpoint.
        with_optimizer: whether the state of the optimizer and the random generators is needed too.
    """
    try:
        files, _ = read_manifest(folder)
    except ValueError as error:
        return str(error)
    for path, about in files.items():
        name = path.relative_to(folder).as_posix()
        if not with_optimizer and any(fnmatch.fnmatch(name, pattern) for pattern in OPTIMIZER_STATE_FILES):
            continue
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != about[0]:
            return f"{name} is damaged (it has {path.stat().st_size} bytes, {about[0]} were written)"
        if _describe(path)["sha256"] != about[1]:
            return f"{name} is damaged (it changed after it was written)"
    return None


def checkpoints_in(output_dir: str | Path) -> list[Path]:
    """Return the folders that are named like checkpoints, the newest first."""
    if not Path(output_dir).is_dir():
        return []
    found = [path for path in Path(output_dir).iterdir() if NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True)


def newest_whole(output_dir: str | Path, with_optimizer: bool = True) -> tuple[Path | None, dict[Path, str]]:
    """Return the newest whole checkpoint, or None, and what is wrong with each newer one."""
    damaged = {}
    for folder in checkpoints_in(output_dir):
        damage = find_damage(folder, with_optimizer)
        if damage is None:
            try:
                read_trainer_state(folder)
            except (FileNotFoundError, ValueError) as error:
                damage = str(error)
            else:
                return folder, damaged
        damaged[folder] = damage
    return None, damaged


def remove_old_checkpoints(output_dir: str | Path, limit: int | None, keep: Collection[Path]) -> None:
    """Remove the oldest checkpoints until `limit` are left, but none of `keep`; None or 0 is no limit."""
    folders = checkpoints_in(output_dir)
    excess = len(folders) - limit if limit else 0
    removable = [folder for folder in reversed(folders) if folder not in keep]
    for folder in removable[: max(excess, 0)]:
        gone = unfinished_folder(folder)  # a kill must not leave a part of it under its name
        folder.rename(gone)
        shutil.rmtree(gone)


def read_trainer_state(folder: str | Path) -> dict:
    """Read the trainer's state of a checkpoint, which may come from anywhere.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or a value has another type or range than the trainer writes.
    """
    try:
        state = json.loads((Path(folder) / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        wrong = next(_wrong_fields(state), None)
    except FileNotFoundError:
        raise FileNotFoundError(f"{folder} has no {TRAINER_STATE_NAME}: it is no checkpoint of a training.") from None
    except (ValueError, OSError, RecursionError) as error:
        raise ValueError(f"{TRAINER_STATE_NAME} is damaged ({_short(error)})") from None
    if wrong is not None:
        raise ValueError(f"{TRAINER_STATE_NAME} is damaged ({wrong})")
    return state


def _wrong_fields(state) -> Iterator[str]:
    """Yield what no trainer could have written."""
    if not isinstance(state, dict):
        yield f"it holds {type(state).__name__}, expected fields"
        return
    if unknown := state.keys() - {field.name for field in fields(TrainerState)}:
        yield f"there is no field {min(unknown)!r}"
    for name in ("global_step", "max_steps", "num_train_epochs", "best_global_step", "train_batch_size"):
        value, is_optional = state.get(name), name in ("best_global_step", "train_batch_size")
        is_count = type(value) is int and 0 <= value <= MOST_STEPS
        if not (is_count or (is_optional and value is None)):
            yield f"`{name}` is {_short(value)}, expected a whole number of 0 or more"
    for name in ("epoch", "best_metric", "total_flos"):
        value = state.get(name)
        if value is not None and not (_is_number(value) and math.isfinite(value)):
            yield f"`{name}` is {_short(value)}, expected a number"
    if not isinstance(state.get("best_model_checkpoint"), str | None):
        yield "`best_model_checkpoint` is no text"
    history = state.get("log_history")
    if not isinstance(history, list) or not all(
        isinstance(entry, dict) and _is_number(entry.get("step")) for entry in history
    ):
        yield "`log_history` is no list of entries, each with its step"
    if not isinstance(state.get("stateful_callbacks"), dict | None):
        yield "`stateful_callbacks` is no dictionary"


def _is_number(value) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value) -> str:
    text = str(value) if isinstance(value, Exception) else repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
