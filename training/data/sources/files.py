"""Where the features of a modality lie: one file a sample, or one pickled table of many samples.

A source is opened, asked for one sample after another, and closed, so that no more than one table is in memory.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError, safe_open

from ..aqa_data import feature_column

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


def feature_path(folder: Path, sample_id: str) -> Path:
    """The feature file of a sample; where there is none, the `.npy` that was expected.

    Raises:
        FeatureFileError: there are two.
    """
    found = [path for suffix in SUFFIXES if (path := folder / f"{sample_id}{suffix}").is_file()]
    if len(found) > 1:
        raise FeatureFileError(f"{found[0]} and {found[1].name}: two files for one modality, expected one")
    return found[0] if found else folder / f"{sample_id}.npy"


SUFFIXES = (".npy", ".safetensors")
TEXT_SUFFIX = ".txt"
CHECKED_NUMBERS = 2**20  # looked at together, a byte each

# Why features are not there; `unreadable` is also what is no array of real numbers [clips, dim].
CAUSES = ("missing file", "absent key", "unreadable", "empty", "non-finite", "wrong width")


class FeatureFileError(ValueError):
    """A feature file, folder or CSV that cannot be used; the message names it and what was expected.

    Attributes:
        cause: one of `CAUSES`, to be counted.
    """

    def __init__(self, message: str, cause: str = "unreadable") -> None:
        super().__init__(message)
        self.cause = cause


def read_text(path: str | Path) -> str:
    """Words of one sample and modality, without the white space around them.

    Args:
        path: `.txt` in UTF-8.

    Raises:
        FeatureFileError: missing, not UTF-8, or empty.
    """
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


def read_features(path: str | Path, tensor_name: str | None = None) -> np.ndarray:
    """Clips of one sample and modality, (clips, dim) float32, in memory of their own.

    Args:
        path: `.npy` (never with pickled objects in it) or `.safetensors`.
        tensor_name: which tensor of a `.safetensors` file; not needed when it holds exactly one.

    Raises:
        FeatureFileError: missing, unreadable, of another type, rank or suffix, empty, or not finite.
    """
    clips = check_clips(read_array(path, tensor_name), str(path))
    return np.require(clips, requirements=["OWNDATA"])  # a mapped file would stay open, and is read-only


def read_array(path: str | Path, tensor_name: str | None = None) -> np.ndarray:
    """The array of a `.npy` or `.safetensors` file as it is; see `read_features`. A `.npy` is mapped, not read."""
    path = Path(path)
    if not path.is_file():
        raise FeatureFileError(
            f"{path}: no such file; expected a .npy or .safetensors file with clips [clips, dim]", "missing file"
        )
    if path.suffix == ".npy":
        return _read_npy(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path, tensor_name)
    raise FeatureFileError(f"{path}: the suffix is {path.suffix!r}, expected one of {', '.join(SUFFIXES)}")


def check_clips(
    array: np.ndarray, where: str, feature_size: int | None = None, average_views: bool = False
) -> np.ndarray:
    """The array as finite clips, (clips, dim) float32; where it is that already, it is not copied.

    Args:
        array: real numbers (clips, dim), or (clips, views, dim) with `average_views`.
        where: begins the message of an error.
        feature_size: the dim that is expected; any by default.
        average_views: clips seen in several views are averaged over them.

    Raises:
        FeatureFileError: of another type, rank or width, empty, or not finite.
    """
    if array.dtype.kind not in "fiu":
        raise FeatureFileError(f"{where}: the array has dtype {array.dtype}, expected real numbers")
    views = average_views and array.ndim == 3
    if array.ndim != 2 and not views:
        raise FeatureFileError(f"{where}: the array has shape {list(array.shape)}, expected [clips, dim]")
    if 0 in array.shape:
        raise FeatureFileError(
            f"{where}: the array has shape {list(array.shape)}, expected [clips, dim], neither zero", "empty"
        )
    if feature_size is not None and array.shape[-1] != feature_size:
        raise FeatureFileError(
            f"{where}: the array has shape {list(array.shape)}, expected [clips, {feature_size}]", "wrong width"
        )
    with np.errstate(over="ignore", invalid="ignore"):  # too large for float32 is said below
        clips = np.asarray(array, dtype=np.float32)
        clips = clips.mean(axis=1) if views else clips  # (clips, dim)
    _check_finite(clips, where)
    return clips


def _check_finite(clips: np.ndarray, where: str) -> None:
    """Raises `FeatureFileError` for the first number of (clips, dim) that is not finite."""
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


def _read_npy(path: Path) -> np.ndarray:
    try:
        # Mapped: dtype and shape of a huge wrong file are known before it is read, and a right one is not copied.
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise FeatureFileError(
            f"{path}: not a .npy array of numbers (pickled objects are refused): {error}"
        ) from error


def _read_safetensors(path: Path, tensor_name: str | None) -> np.ndarray:
    try:
        with safe_open(path, framework="pt") as file:  # torch, because numpy knows no bfloat16
            names = list(file.keys())
            if tensor_name is None and len(names) != 1:
                raise FeatureFileError(
                    f"{path}: holds the tensors {names}, expected exactly one, or one that is named"
                )
            if tensor_name is not None and tensor_name not in names:
                raise FeatureFileError(f"{path}: holds the tensors {names}, expected one named {tensor_name!r}")
            tensor = file.get_tensor(tensor_name or names[0])
    except (SafetensorError, OSError) as error:
        raise FeatureFileError(f"{path}: not a .safetensors file: {error}") from error
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()
