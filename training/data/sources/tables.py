"""Pickled tables of features."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from ..aqa_data import feature_column
from .files import FeatureFileError, Reader, check_clips
from .pickles import load_restricted


@dataclass(frozen=True)
class _Kept:
    """Clips of a table: a function that returns them, and the keys of `ODDITIES` that apply."""

    read: Callable[[], np.ndarray]
    oddities: list[str]


# What a table has under each key: clips, or what is wrong with them.
Table = dict[str, _Kept | FeatureFileError]


@dataclass(frozen=True)
class TableSource:
    """A published table: a pickled dictionary id -> [clips, dim], read array by array by the restricted unpickler.

    Args:
        path: the table, a bare pickle or a `.npy` file that holds one.
        feature_size: width of the features.
        zeros_are_missing: see `check_clips`.
    """

    path: Path
    feature_size: int
    zeros_are_missing: bool = False

    def open(self, cache: Path | None = None) -> Reader:
        """Read the table into memory or into the cache file; a damaged table is an error of each of its samples.

        Raises:
            UnsafePickleError: the table asks for more than arrays.
        """
        try:
            with nullcontext() if cache is None else cache.open("wb") as file:
                return partial(self._read, self._load(file))
        except FeatureFileError as error:
            return partial(_fail, str(error), error.cause)

    def _load(self, file: BinaryIO | None) -> Table:
        if not self.path.is_file():
            raise FeatureFileError(
                f"{self.path}: no such file; expected a pickled table id -> [clips, dim]", "missing file"
            )
        try:
            with tqdm(desc=f"reading {self.path.name}", unit="array", disable=None) as bar:
                table = load_restricted(self.path, partial(self._keep, file, bar))
        except ValueError as error:
            raise FeatureFileError(str(error)) from error
        if isinstance(table, np.ndarray) and table.shape == ():
            table = table.item()
        if not isinstance(table, dict):
            raise FeatureFileError(f"{self.path}: holds {type(table).__name__}, expected a table id -> [clips, dim]")
        by_name = {str(key): _array_or_error(value) for key, value in table.items()}
        if len(by_name) < len(table):
            raise FeatureFileError(f"{self.path}: two keys of the table read alike, such as 1 and '1'")
        return by_name

    def _keep(self, file: BinaryIO | None, bar: tqdm, array: np.ndarray) -> _Kept | FeatureFileError:
        bar.update()
        try:
            clips, oddities = check_clips(array, "", self.feature_size, zeros_are_missing=self.zeros_are_missing)
        except FeatureFileError as error:
            return error
        if file is None:
            return _Kept(partial(np.asarray, clips), oddities)
        start = file.tell()
        file.write(np.ascontiguousarray(clips))
        return _Kept(partial(np.memmap, file.name, np.float32, "r", start, clips.shape), oddities)

    def _read(self, table: Table, sample_id: str) -> tuple[pa.ListArray, list[str]]:
        if sample_id not in table:
            raise FeatureFileError(f"{self.path}: the table has no key {sample_id!r}", "absent key")
        kept = table.pop(sample_id)  # its memory is free as soon as nobody holds the clips
        if isinstance(kept, FeatureFileError):
            raise FeatureFileError(f"{self.path}, key {sample_id!r}{kept}", kept.cause)
        clips = kept.read()
        return feature_column(clips, [len(clips)]), kept.oddities


def _array_or_error(value: Any) -> _Kept | FeatureFileError:
    if isinstance(value, _Kept | FeatureFileError):
        return value
    return FeatureFileError(f": holds {type(value).__name__}, expected an array [clips, dim]")


def _fail(message: str, cause: str, sample_id: str) -> tuple[pa.ListArray, list[str]]:
    raise FeatureFileError(message, cause)
