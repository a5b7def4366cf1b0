"""Features and texts in files: one file a sample, in a folder for each modality."""

import io
import logging
import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from stat import S_ISREG
from typing import Protocol
from unicodedata import normalize

import numpy as np
import pyarrow as pa
from safetensors import safe_open

from ...utils.errors import brief
from ...utils.paths import OutsideError, path_below
from ...utils.text import printable
from ..aqa_data import feature_column

logger = logging.getLogger(__name__)

SUFFIXES = (".npy", ".safetensors")
TEXT_SUFFIX = ".txt"
CHECKED_NUMBERS = 2**20  # examined at a time, one byte each
NPY_HEADER_BYTES = 2**14  # numpy itself reads no header of more than 10,000
LARGE_BYTES = 2**26  # of a larger file, only the clips that are kept are read
LARGEST_BYTES = 2**31  # of one array
LARGEST_TEXT_BYTES = 2**24

ALL_ZEROS = "all zeros"
# Why features are missing; `unreadable` includes anything but an array of real numbers [clips, dim].
CAUSES = ("missing file", "absent key", "unreadable", "empty", "non-finite", "too large", "wrong width", ALL_ZEROS)
CAUSES += ("no such stream", "another recipe")
RECIPE_KEY = "recipe"  # of the metadata of a .safetensors file: digest of the recipe that made it
TIMES_KEY = "times"  # tensor beside the clips: seconds at which each begins and ends
# What is odd about features that are used all the same.
ODDITIES = {
    ALL_ZEROS: "every number is 0; zeros_are_missing=true makes such features missing",
    "constant": "every number is the same",
    "leading 1": "the shape is [1, clips, dim], read as [clips, dim]",
}

LFS_POINTER = "version https://git-lfs.github.com/spec/"
LFS_ADVICE = "this is a Git LFS pointer, not the file itself; run `git lfs pull` in its repository"
ZIP_MAGIC = b"PK\x03\x04"

# Sample id -> its value in a `feature_column` and the keys of `ODDITIES` that apply; raises FeatureFileError. Each
# sample may be read once.
Reader = Callable[[str], tuple[pa.ListArray, list[str]]]


class FeatureFileError(ValueError):
    """A feature file, folder or table that cannot be used; the message names it and what was expected.

    Attributes:
        cause: one of `CAUSES`.
    """

    def __init__(self, message: str, cause: str = "unreadable") -> None:
        super().__init__(printable(message))
        self.cause = cause


@contextmanager
def refusing(where: str | Path, expected: str) -> Iterator[None]:
    """Turn whatever happens while a file is read, a crash of its parser included, into a FeatureFileError.

    Args:
        where: the file, begins the message.
        expected: what it should be, such as `a .safetensors file`.
    """
    try:
        yield
    except (FeatureFileError, ImportError):  # the second: a parser that is not installed
        raise
    except Exception as error:
        raise FeatureFileError(f"{where}: not {expected}: {brief(error)}") from error


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
        zeros_are_missing: see `check_clips`.
        recipe_digest: digest of the recipe that made the features, where it is known.
    """

    folder: Path
    feature_size: int
    average_views: bool = False
    zeros_are_missing: bool = False
    recipe_digest: str | None = None

    def open(self, cache: Path | None = None) -> Reader:
        return self._read

    def _read(self, sample_id: str) -> tuple[pa.ListArray, list[str]]:
        path = feature_path(self.folder, sample_id)
        rules = (self.feature_size, self.average_views, self.zeros_are_missing)
        clips, oddities = check_clips(open_array(path).read_all(), str(path), *rules)
        check_recipe(path, self.recipe_digest)
        return feature_column(clips, [len(clips)]), oddities


def feature_path(folder: Path, sample_id: str) -> Path:
    """Feature file of a sample, or the `.npy` expected; FeatureFileError if there are two.

    The file may have the id in either Unicode form, composed or decomposed.
    """
    names = dict.fromkeys([sample_id, normalize("NFC", sample_id), normalize("NFD", sample_id)])
    try:
        paths = [path_below(folder, f"{name}{suffix}", follow_links=True) for name in names for suffix in SUFFIXES]
    except OutsideError as error:
        raise FeatureFileError(f"{folder}: the file {error}") from None
    found = [path for path in paths if os.path.isfile(path)]
    if len(found) > 1:
        raise FeatureFileError(f"{found[0]} and {found[1].name}: two files for one modality, expected one")
    alike = None if found else _files_by_folded_name(paths[0].parent).get(paths[0].stem.casefold())
    if alike is not None and alike not in {path.name for path in paths}:
        there = f"there is {alike}, which differs in upper and lower case: rename one"
        raise FeatureFileError(f"{paths[0]}: no such file; {there}", "missing file")
    return found[0] if found else paths[0]


@lru_cache(maxsize=64)
def _files_by_folded_name(folder: Path) -> dict[str, str]:
    """Name of each feature file by its lower-case stem."""
    if not folder.is_dir():
        return {}
    return {path.stem.casefold(): path.name for path in folder.iterdir() if path.suffix in SUFFIXES}


def read_text(path: str | Path) -> str:
    """Text of a `.txt` file, stripped; FeatureFileError if the file is missing, empty or not UTF-8."""
    path = Path(path)
    read_start(path, f"a {TEXT_SUFFIX} file in UTF-8")
    if (size := path.stat().st_size) > LARGEST_TEXT_BYTES:
        raise FeatureFileError(f"{path}: {size} bytes, expected a text of at most {LARGEST_TEXT_BYTES}", "too large")
    with refusing(path, "a text in UTF-8"):
        text = path.read_text(encoding="utf-8-sig").strip()
    if not text:
        raise FeatureFileError(f"{path}: the text is empty; a modality that is missing has no file", "empty")
    return text


def read_features(path: str | Path, zeros_are_missing: bool = False, max_clips: int | None = None) -> np.ndarray:
    """Clips of a `.npy` file or a `.safetensors` file with one tensor: float32 (clips, dim) in their own memory.

    Args:
        path: the file.
        zeros_are_missing: see `check_clips`.
        max_clips: of a file beyond `LARGE_BYTES`, read no more than so many clips, those in the middle.

    Raises:
        FeatureFileError: the file is missing or unreadable; the array is empty, not finite or not [clips, dim], or
            it is all zero with `zeros_are_missing`.
    """
    stored = open_array(path)
    if max_clips is not None and stored.size > LARGE_BYTES and len(stored.shape) == 2 and stored.shape[0] > max_clips:
        logger.warning("%s: the middle %d of %d clips are read", path, max_clips, stored.shape[0])
        start = (stored.shape[0] - max_clips) // 2
        array = stored.read(start, start + max_clips)
    else:
        array = stored.read_all()
    clips, oddities = check_clips(array, str(path), zeros_are_missing=zeros_are_missing)
    if ALL_ZEROS in oddities:
        logger.warning("%s: every number is 0, and is scored so; --zeros_are_missing takes it for missing", path)
    return np.require(clips, requirements=["OWNDATA"])


def check_recipe(path: Path, expected: str | None) -> None:
    """Check that features were made by the recipe they should be; a file that does not say so is a warning, once.

    Args:
        path: feature file that can be read.
        expected: digest of the recipe; None where there is none.

    Raises:
        FeatureFileError: another recipe made the file.
    """
    if expected is None:
        return
    found = None
    if path.suffix == ".safetensors":
        with safe_open(path, framework="pt") as file:
            found = (file.metadata() or {}).get(RECIPE_KEY)
    if found is None:
        _warn_of_unknown_recipe(path.parent)
    elif found != expected:
        raise FeatureFileError(
            f"{path}: made by the recipe {found[:12]}, expected {expected[:12]}; extract it again with the recipe of "
            "the model",
            "another recipe",
        )


@lru_cache
def _warn_of_unknown_recipe(folder: Path) -> None:
    logger.warning("%s: the files do not say which recipe made them; that of the model is taken for granted", folder)


@dataclass(frozen=True)
class StoredArray:
    """An array in a file that is as large as its header says; nothing else of it is in memory.

    Attributes:
        path: the file.
        shape: shape of the array.
        size: bytes of the array.
        part: rows from, and up to, two numbers; may raise anything.
    """

    path: Path
    shape: tuple[int, ...]
    size: int
    part: Callable[[int, int], np.ndarray]

    def read_all(self) -> np.ndarray:
        return self.read(0, self.shape[0] if self.shape else 1)

    def read(self, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` of the first axis; FeatureFileError if they are too many or cannot be read."""
        size = self.size * (stop - start) // max(1, math.prod(self.shape[:1]))
        if size > LARGEST_BYTES:
            raise FeatureFileError(
                f"{self.path}: the array has {size} bytes, expected at most {LARGEST_BYTES}", "too large"
            )
        with refusing(self.path, "readable"):
            return self.part(start, stop)


def open_array(path: str | Path) -> StoredArray:
    """Read the header of a `.npy` or `.safetensors` file; FeatureFileError if it does not fit the file."""
    path = Path(path)
    start = read_start(path, ".npy or .safetensors, [clips, dim]")
    if path.suffix == ".safetensors":
        return _open_safetensors(path)
    if path.suffix != ".npy":
        raise FeatureFileError(f"{path}: the suffix is {path.suffix!r}, expected one of {', '.join(SUFFIXES)}")
    if start.startswith(ZIP_MAGIC):
        raise FeatureFileError(
            f"{path}: a zip archive, as np.savez and torch.save write; save one array with np.save, or as .safetensors"
        )
    if not start.startswith(np.lib.format.MAGIC_PREFIX):  # numpy would advise to unpickle it
        raise FeatureFileError(
            f"{path}: not a .npy array of numbers, which np.save writes; it begins with {start[:8]!r}"
        )
    with refusing(path, "a .npy array of numbers (pickled objects are refused)"):
        return _open_npy(path)


def read_npy_header(start: bytes) -> tuple[tuple[int, ...], bool, np.dtype, int]:
    """Shape, whether in Fortran order, dtype and length of the header of a `.npy` file that begins with these bytes.

    May raise anything.
    """
    header = io.BytesIO(start)  # not the file, because a header says how long it is, and may lie
    is_long = np.lib.format.read_magic(header) != (1, 0)
    read = np.lib.format.read_array_header_2_0 if is_long else np.lib.format.read_array_header_1_0
    shape, is_fortran, dtype = read(header)
    if min(shape, default=0) < 0:
        raise ValueError(f"its header has shape {shape}")
    return shape, is_fortran, dtype, header.tell()


def _open_npy(path: Path) -> StoredArray:
    with path.open("rb") as file:
        shape, is_fortran, dtype, offset = read_npy_header(file.read(NPY_HEADER_BYTES))
        available = os.fstat(file.fileno()).st_size - offset
    require_real(dtype, str(path))
    size = math.prod(shape) * dtype.itemsize
    if size > available:
        raise FeatureFileError(
            f"{path}: its header promises shape {list(shape)}, {size} bytes, of which the file has {available}"
        )
    part = _read_fortran if is_fortran else _read_rows
    return StoredArray(path, shape, size, partial(part, path, shape, dtype, offset))


def _read_rows(path: Path, shape: tuple[int, ...], dtype: np.dtype, offset: int, start: int, stop: int) -> np.ndarray:
    row = math.prod(shape[1:])
    numbers = np.fromfile(path, dtype, (stop - start) * row, offset=offset + start * row * dtype.itemsize)
    return numbers.reshape(stop - start, *shape[1:]) if shape else numbers.reshape(())


def _read_fortran(path: Path, shape: tuple[int, ...], dtype: np.dtype, offset: int, start: int, stop: int):
    numbers = np.fromfile(path, dtype, math.prod(shape), offset=offset)
    return numbers.reshape(shape, order="F")[start:stop] if shape else numbers.reshape(())


def read_start(path: Path, expected: str) -> bytes:
    """The first bytes of a file; FeatureFileError if it is missing, cannot be opened or is a Git LFS pointer."""
    try:
        if not S_ISREG(path.stat().st_mode):
            raise FeatureFileError(f"{path}: not a file; expected {expected}")
        with path.open("rb") as file:
            start = file.read(len(LFS_POINTER))
    except (FileNotFoundError, NotADirectoryError):
        raise FeatureFileError(f"{path}: no such file; expected {expected}", "missing file") from None
    except OSError as error:
        raise FeatureFileError(f"{path}: {error.strerror}") from error
    if start == LFS_POINTER.encode():
        raise FeatureFileError(f"{path}: {LFS_ADVICE}")
    return start


def _open_safetensors(path: Path) -> StoredArray:
    with refusing(path, "a .safetensors file"), safe_open(path, framework="pt") as file:
        names = [name for name in file.keys() if name != TIMES_KEY]  # noqa: SIM118 (it has no other way)
        if len(names) != 1:
            raise FeatureFileError(f"{path}: holds the tensors {names[:5]}, expected exactly one")
        shape = tuple(file.get_slice(names[0]).get_shape())
        return StoredArray(path, shape, path.stat().st_size, partial(_read_tensor, path, names[0]))


def read_times(path: str | Path) -> np.ndarray | None:
    """Seconds in which the clips of a file begin and end, (clips, 2) float64; None where it does not say.

    Raises:
        FeatureFileError: the file cannot be read, or its times are not finite or no pairs.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        return None
    with refusing(path, "a .safetensors file"), safe_open(path, framework="pt") as file:
        if TIMES_KEY not in file.keys():  # noqa: SIM118 (it has no other way)
            return None
        times = file.get_tensor(TIMES_KEY).double().numpy()
    if times.ndim != 2 or times.shape[1] != 2 or not np.isfinite(times).all():
        raise FeatureFileError(f"{path}: `{TIMES_KEY}` has shape {list(times.shape)}, expected finite [clips, 2]")
    return times


def _read_tensor(path: Path, name: str, start: int, stop: int) -> np.ndarray:
    with safe_open(path, framework="pt") as file:  # torch, because numpy has no bfloat16
        stored = file.get_slice(name)
        tensor = stored[start:stop] if stored.get_shape() else file.get_tensor(name)
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def check_clips(
    array: np.ndarray,
    where: str,
    feature_size: int | None = None,
    average_views: bool = False,
    zeros_are_missing: bool = False,
) -> tuple[np.ndarray, list[str]]:
    """Check an array and convert it to clips. Float32 is not copied.

    Args:
        array: real numbers (clips, dim) or (1, clips, dim); (clips, views, dim) with `average_views`.
        where: start of an error message.
        feature_size: expected width, by default any.
        average_views: average over views.
        zeros_are_missing: refuse an array of zeros.

    Returns:
        Clips, float32 (clips, dim), and the keys of `ODDITIES` that apply to them.

    Raises:
        FeatureFileError: the type, rank or width is wrong, or the array is empty, not finite or beyond
            `LARGEST_NUMBER`.
    """
    require_real(array.dtype, where)
    views = average_views and array.ndim == 3
    given = f"{where}: the array has shape {list(array.shape)}, expected"
    squeezed = array if views else drop_leading_one(array)
    if squeezed.ndim != 2 and not views:
        raise FeatureFileError(f"{given} [clips, dim]")
    if 0 in array.shape:
        raise FeatureFileError(f"{given} [clips, dim], neither zero", "empty")
    if feature_size is not None and array.shape[-1] != feature_size:
        raise FeatureFileError(f"{given} [clips, {feature_size}]", "wrong width")
    with np.errstate(over="ignore", invalid="ignore"):  # numbers too large for float32 are reported below
        clips = np.asarray(squeezed, dtype=np.float32)
        clips = clips.mean(axis=1) if views else clips  # (clips, dim)
    _check_finite(clips, where)
    oddities = [] if squeezed is array else ["leading 1"]
    if clips[0, 0] == clips[-1, -1] and clips.min() == clips.max():  # the first test spares most arrays the second
        oddities += [ALL_ZEROS] if clips[0, 0] == 0 else ["constant"] if clips.size > 1 else []
    if zeros_are_missing and ALL_ZEROS in oddities:
        raise FeatureFileError(f"{where}: every number is 0, which zeros_are_missing makes missing", ALL_ZEROS)
    return clips, oddities


def drop_leading_one(array: np.ndarray) -> np.ndarray:
    """(1, clips, dim) -> (clips, dim), a batch of one sample; any other array as it is."""
    return array[0] if array.ndim == 3 and array.shape[0] == 1 else array


def require_real(dtype: np.dtype, where: str) -> None:
    """Raise FeatureFileError for an array of anything but real numbers."""
    if dtype.kind not in "fiu":
        raise FeatureFileError(f"{where}: the array has dtype {dtype}, expected real numbers")


def _check_finite(clips: np.ndarray, where: str) -> None:
    """Raise FeatureFileError for the first number of (clips, dim) that is not finite or beyond `LARGEST_NUMBER`."""
    from ....processing.inputs_limssr import LARGEST_NUMBER  # a comparison of runs imports this room, but no torch

    width = clips.shape[1]
    block = max(1, CHECKED_NUMBERS // width)
    for start in range(0, len(clips), block):
        part = clips[start : start + block]
        if part.min() >= -LARGEST_NUMBER and part.max() <= LARGEST_NUMBER:  # false for NaN
            continue
        clip, column = divmod(start * width + int((np.abs(part) <= LARGEST_NUMBER).argmin()), width)
        number = clips[clip, column]
        found = f"{where}: clip {clip}, column {column} is {number:g}, expected"
        if not np.isfinite(number):
            raise FeatureFileError(f"{found} finite float32", "non-finite")
        raise FeatureFileError(
            f"{found} at most {LARGEST_NUMBER:g}: sums of squares of larger ones overflow", "too large"
        )
