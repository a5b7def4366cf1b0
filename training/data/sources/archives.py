"""Features of all samples in one `.npz` archive."""

import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from ..aqa_data import feature_column
from .files import (
    NPY_HEADER_BYTES,
    FeatureFileError,
    Reader,
    check_clips,
    read_npy_header,
    read_start,
    refusing,
)

MOST_EXPANDED = 2**29  # bytes of a compressed array, or
MOST_COMPRESSED = 20  # times its size in the archive: features compress by less


@dataclass(frozen=True)
class ArchiveSource:
    """Clips of a modality in an archive, see `read_archive`. It is in memory while samples are read.

    Args:
        path: the archive.
        name: name of the array.
        feature_size: width of the features.
        sample_ids: samples of the archive in their order, if it does not name them itself.
    """

    path: Path
    name: str
    feature_size: int
    sample_ids: tuple[str, ...] | None = None

    def open(self, cache: Path | None = None) -> Reader:
        """Read the archive; FeatureFileError if it cannot be used."""
        return partial(self._read, read_archive(self.path, self.name, self.sample_ids))

    def _read(self, arrays: dict[str, np.ndarray], sample_id: str) -> tuple[pa.ListArray, list[str]]:
        array = find_array(arrays, sample_id, self.path)
        clips, _ = check_clips(array, f"{self.path}, {self.name} of {sample_id!r}", self.feature_size)
        return feature_column(clips, [len(clips)]), []  # whoever made the archive meant its zeros


def find_array(arrays: dict[str, np.ndarray], sample_id: str, path: Path) -> np.ndarray:
    """Array of a sample of an archive; FeatureFileError if there is none."""
    if sample_id not in arrays:
        raise FeatureFileError(f"{path}: the archive has no sample {sample_id!r}", "absent key")
    return arrays[sample_id]


def read_archive(path: Path, name: str, sample_ids: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Array of each sample, a part of one array of an `.npz` file. Pickled objects are refused.

        <name>       clips of all samples one after another (all clips, ...)
        n            number of clips of each sample, integers (samples,)
        sample_id    id of each sample, strings (samples,); not needed where `sample_ids` is given

    Raises:
        FeatureFileError: the file is missing or unreadable, lacks an array, or its arrays do not fit each other.
    """
    read_start(path, "an .npz archive")
    with refusing(path, "an .npz archive of numbers and strings (pickled objects are refused)"):
        _check_expansion(path, (name, "n", "sample_id"))
        with np.load(path, allow_pickle=False) as archive:
            found = {key: archive[key] for key in (name, "n", "sample_id") if key in archive}
    if lacking := [key for key in (name, "n") if key not in found]:
        raise FeatureFileError(f"{path}: the archive has no array {lacking[0]!r}")
    if "sample_id" not in found and sample_ids is None:
        raise FeatureFileError(f"{path}: the archive has no array 'sample_id', which names its samples")
    sample_ids = _own_ids(found["sample_id"], path) if "sample_id" in found else list(sample_ids)
    clips, counts = found[name], found["n"]
    if counts.dtype.kind not in "iu" or counts.shape != (len(sample_ids),) or (counts < 0).any():
        raise FeatureFileError(
            f"{path}: n has type {counts.dtype} and shape {list(counts.shape)}, expected the number of clips of each "
            f"of {len(sample_ids)} samples"
        )
    if clips.ndim == 0 or len(clips) != counts.sum():
        raise FeatureFileError(f"{path}: {name} has shape {list(clips.shape)}, but n counts {counts.sum()} clips")
    return dict(zip(sample_ids, np.split(clips, np.cumsum(counts)[:-1]), strict=True))


def _check_expansion(path: Path, names: Sequence[str]) -> None:
    """Raise FeatureFileError if an array of the archive would take more memory than it has bytes in the archive."""
    with zipfile.ZipFile(path) as archive:
        for member in archive.infolist():
            if member.filename.removesuffix(".npy") not in names:
                continue
            size, stored = member.file_size, member.compress_size
            if size > max(MOST_EXPANDED, MOST_COMPRESSED * stored):
                raise FeatureFileError(f"{path}: {member.filename!r} would expand from {stored} to {size} bytes")
            with archive.open(member) as file:
                shape, _, dtype, offset = read_npy_header(file.read(NPY_HEADER_BYTES))
            if (promised := math.prod(shape) * dtype.itemsize) > size - offset:
                raise FeatureFileError(
                    f"{path}: the header of {member.filename!r} promises {promised} bytes of {size}"
                )


def _own_ids(sample_ids: np.ndarray, path: Path) -> list[str]:
    """Ids that an archive names; FeatureFileError if they are no strings, or one is repeated."""
    if sample_ids.dtype.kind != "U" or len(np.unique(sample_ids)) < sample_ids.size:
        raise FeatureFileError(f"{path}: sample_id has type {sample_ids.dtype}, expected strings, each once")
    return sample_ids.reshape(-1).tolist()
