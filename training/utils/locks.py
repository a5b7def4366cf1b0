"""Locks of folders: one run at a time, told from what a killed one left."""

import fcntl
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

LOCK_FILE = ".lock"  # in the folder of a run
HEARTBEAT = 20.0  # seconds between two signs of life, by which other machines know
SILENCE = 6 * HEARTBEAT  # after which a process of another machine is taken for dead


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
    with _opened(path) as file:
        held = _read(file)
        if held is not None and _is_alive(held, path):
            started = datetime.fromtimestamp(held["started"]).isoformat(" ", "seconds")
            raise LockedError(
                f"{path.parent} is in use by process {held['pid']} on {held['host']}, started {started}: wait for its "
                f"end, or name another folder. If there is no such process, remove {path}."
            )
        file.seek(0)
        file.truncate()
        file.write(json.dumps(_myself()))
        file.flush()
    ended = threading.Event()
    beat = threading.Thread(target=_beat, args=(path, ended), daemon=True)
    beat.start()
    try:
        yield
    finally:
        ended.set()
        beat.join()
        if path.exists():  # else its folder was removed, as its owner may
            with _opened(path) as file:
                if _read(file) == _myself():
                    path.unlink()


@contextmanager
def _opened(path: Path) -> Iterator:
    """Open the lock file for this process alone, for the moment that it takes to read and write it."""
    while True:
        with path.open("a+", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):  # else removed meanwhile
                yield file
                return


def _myself() -> dict:
    return {"host": platform.node(), "pid": os.getpid(), "started": psutil.Process().create_time()}


def _read(file) -> dict | None:
    """Return who holds the lock; None for a new file, or one that a killed process did not finish."""
    file.seek(0)
    try:
        held = json.loads(file.read(1000))
        return {"host": str(held["host"]), "pid": int(held["pid"]), "started": float(held["started"])}
    except (ValueError, TypeError, KeyError):
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
