"""Features and texts in files: one file a sample, in a folder for each modality."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError, safe_open

from ..aqa_data import feature_column

SUFFIXES = (".npy", ".safetensors")
TEXT_SUFFIX = ".txt"
CHECKED_NUMBERS = 2**20  # examined at a time, one byte each

# Why features are missing; `unreadable` includes anything but an array of real numbers [clips, dim].
CAUSES = ("missing file", "absent key", "unreadable", "empty", "non-finite", "wrong width")

# Sample id -> its value in a `feature_column`; raises FeatureFileError. Each sample may be read once.
Reader = Callable[[str], pa.ListArray]


class FeatureFileError(ValueError):
    """A feature file, folder or CSV that cannot be used; the message names it and what was expected.

    Attributes:
        cause: one of `CAUSES`.
    """

    def __init__(self, message: str, cause: str = "unreadable") -> None:
        super().__init__(message)
        self.cause = cause


class FeatureSource(Protocol):
    """Place of the features of one modality."""

    def open(self, cache: Path | None = None) -> Reader:
        """Return a reader, which can be pickled.

        Args:
            cache: file for features that cannot be read one sample at a time; by default they are in memory.
        """


@dataclass(frozen=True)
class FileSource:
    """One `.npy` or `.safetensors` file for each sample, `<folder>/<id>` with one of these suffixes.

    Args:
        folder: folder of the files; an id may contain slashes, for subfolders.
        feature_size: width of the features.
        average_views: average arrays [clips, views, dim] over the views.
    """

    folder: Path
    feature_size: int
    average_views: bool = False

    def open(self, cache: Path | None = None) -> Reader:
        return self._read

    def _read(self, sample_id: str) -> pa.ListArray:
        path = feature_path(self.folder, sample_id)
        clips = check_clips(read_array(path), str(path), self.feature_size, self.average_views)
        return feature_column(clips, [len(clips)])


def feature_path(folder: Path, sample_id: str) -> Path:
    """Feature file of a sample, or the `.npy` expected; FeatureFileError if there are two."""
    found = [path for suffix in SUFFIXES if (path := folder / f"{sample_id}{suffix}").is_file()]
    if len(found) > 1:
        raise FeatureFileError(f"{found[0]} and {found[1].name}: two files for one modality, expected one")
    return found[0] if found else folder / f"{sample_id}.npy"


def read_text(path: str | Path) -> str:
    """Text of a `.txt` file, stripped; FeatureFileError if the file is missing, empty or not UTF-8."""
    path = Path(path)
    if not path.is_file():
        raise FeatureFileError(f"{path}: no such file; expected a {TEXT_SUFFIX} file in UTF-8", "missing file")
    try:
        text = path.read_text(encoding="utf-8-sig").strip()
    except (UnicodeDecodeError, OSError) as error:
        raise FeatureFileError(f"{path}: not a text in UTF-8: {error}") from error
    if not text:
        raise FeatureFileError(f"{path}: the text is empty; a modality that is missing has no file", "empty")
    return text


def read_features(path: str | Path) -> np.ndarray:
    """Clips of a `.npy` file or a `.safetensors` file with one tensor: float32 (clips, dim) in their own memory.

    Raises:
        FeatureFileError: the file is missing or unreadable; the array is empty, not finite or not [clips, dim].
    """
    clips = check_clips(read_array(path), str(path))
    return np.require(clips, requirements=["OWNDATA"])  # a mapped file would stay open and be read-only


def read_array(path: str | Path) -> np.ndarray:
    """Array of a `.npy` file, mapped into memory, or of a `.safetensors` file; see `read_features`."""
    path = Path(path)
    if not path.is_file():
        raise FeatureFileError(
            f"{path}: no such file; expected a .npy or .safetensors file with clips [clips, dim]", "missing file"
        )
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    if path.suffix != ".npy":
        raise FeatureFileError(f"{path}: the suffix is {path.suffix!r}, expected one of {', '.join(SUFFIXES)}")
    try:
        # Mapped, so that a huge wrong file is recognised by its header and a right one is not copied.
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise FeatureFileError(
            f"{path}: not a .npy array of numbers (pickled objects are refused): {error}"
        ) from error


def _read_safetensors(path: Path) -> np.ndarray:
    try:
        with safe_open(path, framework="pt") as file:  # torch, because numpy has no bfloat16
            names = list(file.keys())
            if len(names) != 1:
                raise FeatureFileError(f"{path}: holds the tensors {names}, expected exactly one")
            tensor = file.get_tensor(names[0])
    except (SafetensorError, OSError) as error:
        raise FeatureFileError(f"{path}: not a .safetensors file: {error}") from error
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def check_clips(
    array: np.ndarray, where: str, feature_size: int | None = None, average_views: bool = False
) -> np.ndarray:
    """Check an array and convert it to clips, float32 (clips, dim). Float32 is not copied.

    Args:
        array: real numbers (clips, dim), or (clips, views, dim) with `average_views`.
        where: start of an error message.
        feature_size: expected width, by default any.
        average_views: average over views.

    Raises:
        FeatureFileError: the type, rank or width is wrong, or the array is empty or not finite.
    """
    if array.dtype.kind not in "fiu":
        raise FeatureFileError(f"{where}: the array has dtype {array.dtype}, expected real numbers")
    views = average_views and array.ndim == 3
    given = f"{where}: the array has shape {list(array.shape)}, expected"
    if array.ndim != 2 and not views:
        raise FeatureFileError(f"{given} [clips, dim]")
    if 0 in array.shape:
        raise FeatureFileError(f"{given} [clips, dim], neither zero", "empty")
    if feature_size is not None and array.shape[-1] != feature_size:
        raise FeatureFileError(f"{given} [clips, {feature_size}]", "wrong width")
    with np.errstate(over="ignore", invalid="ignore"):  # numbers too large for float32 are reported below
        clips = np.asarray(array, dtype=np.float32)
        clips = clips.mean(axis=1) if views else clips  # (clips, dim)
    _check_finite(clips, where)
    return clips


def _check_finite(clips: np.ndarray, where: str) -> None:
    """Raise FeatureFileError for the first number of (clips, dim) that is not finite."""
    width = clips.shape[1]
    block = max(1, CHECKED_NUMBERS // width)
    for start in range(0, len(clips), block):
        finite = np.isfinite(clips[start : start + block])
        if not finite.all():
            clip, column = divmod(start * width + int(finite.argmin()), width)
            raise FeatureFileError(
                f"{where}: clip {clip}, column {column} is {clips[clip, column]}, expected finite float32",
                "non-finite",
            )
