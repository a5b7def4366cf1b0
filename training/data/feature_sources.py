"""Where the features of a modality lie: one file a sample, or one pickled table of many samples.

A source is opened, asked for one sample after another, and closed, so that no more than one table is in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from ..feature_files import SUFFIXES, FeatureFileError, check_clips, read_array
from .aqa_data import feature_column
from .restricted_pickle import load_restricted

ReadSample = Callable[[str], pa.ListArray]


class FeatureSource(Protocol):
    """The features of one modality for some samples.

    Attributes:
        modality: its name.
        sample_ids: the samples whose features lie here.
    """

    modality: str
    sample_ids: Sequence[str]

    def opened(self) -> AbstractContextManager[ReadSample]:
        """A function that reads a sample by its id: one row of `feature_column`. Each sample is read once at most.

        The row may lie in the sample's file, which then stays open as long as the row is held. The function raises
        `FeatureFileError` where the sample's features are not there or cannot be used.
        """


@dataclass(frozen=True)
class FileSource:
    """One `.npy` or `.safetensors` file a sample, `<folder>/<id>` with one of these suffixes.

    Args:
        modality: its name.
        sample_ids: of the samples; an id may contain slashes, for subfolders.
        feature_size: width of the features.
        folder: where the files are.
        average_views: files of three dimensions [clips, views, dim] are averaged over views.
    """

    modality: str
    sample_ids: Sequence[str]
    feature_size: int
    folder: Path
    average_views: bool = False

    @contextmanager
    def opened(self) -> Iterator[ReadSample]:
        yield self._read

    def _read(self, sample_id: str) -> pa.ListArray:
        path = feature_path(self.folder, sample_id)
        clips = check_clips(read_array(path), str(path), self.feature_size, self.average_views)
        return feature_column(clips, [len(clips)])


@dataclass(frozen=True)
class TableSource:
    """One pickled dictionary, id -> [clips, dim], as it was published; read by the restricted unpickler alone.

    Args:
        modality: its name.
        sample_ids: of the samples.
        feature_size: width of the features.
        path: the table, a bare pickle or a `.npy` file that holds one.
    """

    modality: str
    sample_ids: Sequence[str]
    feature_size: int
    path: Path

    @contextmanager
    def opened(self) -> Iterator[ReadSample]:
        table, error = {}, None
        try:
            table = load_table(self.path)
        except FeatureFileError as problem:
            error = problem

        def read(sample_id: str) -> pa.ListArray:
            if error is not None:
                raise FeatureFileError(str(error), error.cause)
            if sample_id not in table:
                raise FeatureFileError(f"{self.path}: the table has no key {sample_id!r}", "absent key")
            array = table.pop(sample_id)  # whose memory is free again as soon as nobody holds its row
            where = f"{self.path}, key {sample_id!r}"
            if not isinstance(array, np.ndarray):
                raise FeatureFileError(f"{where}: holds {type(array).__name__}, expected an array [clips, dim]")
            clips = check_clips(array, where, self.feature_size)
            return feature_column(clips, [len(clips)])

        yield read
        table.clear()


def load_table(path: Path, keep: Callable[[np.ndarray], Any] | None = None) -> dict[str, Any]:
    """A pickled table by the names of its keys.

    Args:
        path: a bare pickle or a `.npy` file that holds one.
        keep: what to do with each array, see `load_restricted`.

    Raises:
        FeatureFileError: no such file, or no whole table.
        UnsafePickleError: the file asks for more than arrays.
    """
    if not path.is_file():
        raise FeatureFileError(f"{path}: no such file; expected a pickled table id -> [clips, dim]", "missing file")
    try:
        table = load_restricted(path, keep)
    except ValueError as error:
        raise FeatureFileError(str(error)) from error
    if isinstance(table, np.ndarray) and table.shape == ():
        table = table.item()
    if not isinstance(table, dict):
        raise FeatureFileError(f"{path}: holds {type(table).__name__}, expected a table id -> [clips, dim]")
    by_name = {str(key): array for key, array in table.items()}
    if len(by_name) < len(table):
        raise FeatureFileError(f"{path}: two keys of the table read alike, such as 1 and '1'")
    return by_name


def feature_path(folder: Path, sample_id: str) -> Path:
    """The feature file of a sample; where there is none, the `.npy` that was expected.

    Raises:
        FeatureFileError: there are two.
    """
    found = [path for suffix in SUFFIXES if (path := folder / f"{sample_id}{suffix}").is_file()]
    if len(found) > 1:
        raise FeatureFileError(f"{found[0]} and {found[1].name}: two files for one modality, expected one")
    return found[0] if found else folder / f"{sample_id}.npy"
