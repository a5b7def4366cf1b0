"""What every parser of a file promises, and what a process has used while it kept the promise."""

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from ..utils.errors import is_expected

SLOWEST = 1.0  # seconds of a core for a file
MOST_MEMORY = 2**29  # bytes for a file, over its own


class PromiseBrokenError(AssertionError):
    """A parser took too much, raised what is no message for a user, or read something else than is there."""


@dataclass(frozen=True)
class Target:
    """A parser to attack.

    Attributes:
        file: path in the folder of the file that it reads.
        seeds: returns contents of valid files.
        read: the parser; a value, or an error that names the file or its folder.
        reference: another reader of the same file, for what `read` accepts; None where it cannot judge. By default
            nothing is compared.
        surround: writes what else belongs into the folder.
    """

    file: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], Any]
    reference: Callable[[Path], Any] | None = None
    surround: Callable[[Path], None] | None = None


class Usage:
    """Seconds of a core and bytes of memory that this process takes from now on."""

    def __init__(self):
        self._memory, self._peak = psutil.Process().memory_info().rss, peak_memory()
        self._start = time.process_time()

    def excess(self, memory: int) -> str | None:
        """Say what is more than `SLOWEST` and so many bytes; None if nothing is.

        Memory that was freed is seen where it exceeds all that the process had before.
        """
        seconds, peak = time.process_time() - self._start, peak_memory()
        if seconds > SLOWEST:
            return f"it took {seconds:.1f} s"
        if peak > self._peak and peak - self._memory > memory:
            return f"it took {(peak - self._memory) / 2**20:.0f} MiB"
        return None


def peak_memory() -> int:
    """Return the most bytes that this process ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def check(target: Target, content: bytes, folder: Path) -> bool:
    """Write a content to a file, and return whether the parser accepts it.

    Args:
        target: the parser.
        content: the content.
        folder: folder that `target.surround` has filled.

    Raises:
        PromiseBrokenError: see there.
    """
    path = folder / target.file
    path.write_bytes(content)
    usage, error, found = Usage(), None, None
    try:
        found = target.read(path)
    except Exception as caught:
        if not is_expected(caught):
            raise
        error = caught
    if excess := usage.excess(MOST_MEMORY + len(content)):
        raise PromiseBrokenError(excess)
    if error is not None:
        said = str(error)
        if "\n" in said or not (path.name in said or str(folder) in said):
            raise PromiseBrokenError(f"no line that names the file: {error!r}") from error
        return False
    expected = target.reference and target.reference(path)
    if expected is not None and not _same(found, expected):
        raise PromiseBrokenError(f"read {found!r}, another reader {expected!r}")
    return True


def require_finite(found: Any) -> Any:
    """Return numbers, in whatever containers; PromiseBrokenError if one is not finite."""
    parts = found.values() if isinstance(found, dict) else found if isinstance(found, list | tuple) else None
    if parts is None and not np.isfinite(found).all():
        raise PromiseBrokenError(f"not finite: {found!r}")
    for part in parts or ():
        require_finite(part)
    return found


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and np.array_equal(one, other, equal_nan=True)
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    return one == other or repr(one) == repr(other)  # NaN is equal in words alone
