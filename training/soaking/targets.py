"""The parsers that are fuzzed, each with valid files to begin with and an independent reader to compare with."""

import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..data.sources.files import read_features

SLOWEST = 1.0  # seconds of a core for an input


class PromiseBrokenError(AssertionError):
    """A parser took too long, raised what is no message for a user, or read something else than is there."""


@dataclass(frozen=True)
class Target:
    """
    Attributes:
        suffix: of the file.
        seeds: returns contents of valid files.
        read: the parser; a value, or an error that names the file.
        reference: another reader of the same file, for what `read` accepts; by default nothing is compared.
    """

    suffix: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], Any]
    reference: Callable[[Path], Any] | None = None


def check(target: Target, content: bytes, folder: Path) -> bool:
    """Write a content to a file, and return whether the parser accepts it.

    Raises:
        PromiseBrokenError: see there.
    """
    path = folder / f"input{target.suffix}"
    path.write_bytes(content)
    start = time.process_time()
    try:
        found = target.read(path)
    except (OSError, ValueError) as error:
        if path.name not in str(error) or "\n" in str(error):
            raise PromiseBrokenError(f"no line that names the file: {error!r}") from error
        return False
    finally:
        if (seconds := time.process_time() - start) > SLOWEST:
            raise PromiseBrokenError(f"it took {seconds:.1f} s")
    if target.reference is not None and not _same(found, expected := target.reference(path)):
        raise PromiseBrokenError(f"read {found!r}, another reader {expected!r}")
    return True


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and np.array_equal(one, other, equal_nan=True)
    return one == other


def _saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _npy_seeds() -> list[bytes]:
    clips = np.arange(6, dtype=np.float32).reshape(3, 2)
    return [_saved(clips), _saved(np.asfortranarray(clips, ">f8")), _saved(clips[None].astype(np.int16))]


def _load_npy(path: Path) -> np.ndarray:
    array = np.lib.format.read_array(io.BytesIO(path.read_bytes()), allow_pickle=False)
    return np.asarray(array[0] if array.ndim == 3 else array, np.float32)


TARGETS = {"npy": Target(".npy", _npy_seeds, read_features, _load_npy)}
