"""Locks of folders: one run at a time, told from what a killed one left."""

import json
import os
import platform
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import psutil
from filelock import SoftFileLock

from .files import remove_leftovers

LOCK_FILE = ".lock"  # in the folder of a run
HEARTBEAT = 20.0  # seconds between two signs of life, by which other machines know
SILENCE = 6 * HEARTBEAT  # after which a process of another machine is taken for dead
GUARD = 10.0  # seconds to wait for another process that reads or writes the lock file: a moment


class LockedError(OSError):
    """Another process is at work in the folder; the message says which."""


@contextmanager
def lock(path: str | Path) -> Iterator[None]:
    """Hold a lock file with host, process and start time; the file is removed at the end.

    The lock of a process that has ended is taken over: on this machine it has no such process any more, or one that
    was started at another time; on another machine it has given no sign of life for two minutes.

    Args:
        path: lock file; its folder is created.

    Raises:
        LockedError: another process, or another run in this one, holds the lock.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with SoftFileLock(f"{path}.guard", timeout=GUARD):
        held = _read(path)
        if held is not None and _is_alive(held, path):
            started = datetime.fromtimestamp(held["started"]).isoformat(" ", "seconds")
            raise LockedError(
                f"{path.parent} is in use by process {held['pid']} on {held['host']}, started {started}: wait for its "
                f"end, or name another folder. If there is no such process, remove {path}."
            )
        path.write_text(json.dumps(_myself()), encoding="utf-8")
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        if path.parent.is_dir():  # else it was removed, as its owner may
            with SoftFileLock(f"{path}.guard", timeout=GUARD):
                if _read(path) == _myself():
                    path.unlink()


@contextmanager
def lock_folder(folder: str | Path) -> Iterator[None]:
    """Hold the lock of a folder that a run writes, and remove what a killed one was writing there.

    Raises:
        LockedError: another process is at work in the folder.
    """
    with lock(Path(folder, LOCK_FILE)):
        remove_leftovers(folder)
        yield


def _myself() -> dict:
    return {"host": platform.node(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _read(path: Path) -> dict | None:
    """Return who holds the lock; None without a file, or for one that a killed process did not finish."""
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
        return {"host": str(held["host"]), "pid": int(held["pid"]), "started": float(held["started"])}
    except (FileNotFoundError, ValueError, TypeError, KeyError):
        return None


def _is_alive(held: dict, path: Path) -> bool:
    if held["host"] != platform.node():
        return time.time() - path.stat().st_mtime < SILENCE
    try:
        return abs(psutil.Process(held["pid"]).create_time() - held["started"]) < 1  # the clock may be corrected
    except psutil.NoSuchProcess:
        return False


def _beat(path: Path, ended: threading.Event) -> None:
    while not ended.wait(HEARTBEAT):
        try:
            os.utime(path)
        except OSError:  # removed by hand, or the disk is gone: the work itself will say so
            return
