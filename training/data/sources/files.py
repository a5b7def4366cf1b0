"""Features and texts in files: one file a sample, in a folder for each modality."""

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from safetensors import SafetensorError, safe_open

from ....configuration.configuration_limssr import TEXT
from ..aqa_data import feature_column

logger = logging.getLogger(__name__)

SUFFIXES = (".npy", ".safetensors")
TEXT_SUFFIX = ".txt"
CHECKED_NUMBERS = 2**20  # examined at a time, one byte each
EXAMINED_FILES = 100  # of a modality without a given feature size

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
            cache: file for features that cannot be read one sample at a time; by default they are kept in memory.
        """


@dataclass(frozen=True)
class FileSource:
    """One `.npy` or `.safetensors` file for each sample, `<folder>/<id>` with one of these suffixes.

    Args:
        folder: folder of the files; an id may contain slashes, for subfolders.
        feature_size: width of the features.
        average_views: average arrays [clips, views, dim] over their views.
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
    """Feature file of a sample; without one, the expected `.npy`.

    Raises:
        FeatureFileError: there are two files.
    """
    found = [path for suffix in SUFFIXES if (path := folder / f"{sample_id}{suffix}").is_file()]
    if len(found) > 1:
        raise FeatureFileError(f"{found[0]} and {found[1].name}: two files for one modality, expected one")
    return found[0] if found else folder / f"{sample_id}.npy"


def read_text(path: str | Path) -> str:
    """Text of a sample, without surrounding white space.

    Args:
        path: `.txt` file in UTF-8.

    Raises:
        FeatureFileError: the file is missing, empty or not UTF-8.
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


def read_features(path: str | Path) -> np.ndarray:
    """Clips of a sample, float32 (clips, dim), in their own memory.

    Args:
        path: `.npy` file (never with pickled objects) or `.safetensors` file with one tensor.

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


def choose_modalities(
    dataset: str,
    wanted: Mapping[str, int | str | None] | Sequence[str] | None,
    default: Mapping[str, int | None],
    features: Mapping[str, str | Path],
) -> dict[str, int | str | None]:
    """Size of each modality, None where it is not given.

    Args:
        dataset: name of the dataset, for error messages.
        wanted: sizes by name, or names; by default everything in `default`.
        default: sizes by name.
        features: places of modalities by name.

    Raises:
        ValueError: there is no modality, or `features` names another one.
    """
    if wanted is None or isinstance(wanted, Mapping):
        sizes = dict(default if wanted is None else wanted)
    else:
        sizes = {name: default.get(name) for name in ([wanted] if isinstance(wanted, str) else wanted)}
    if unknown := [name for name in features if name not in sizes]:
        raise ValueError(f"{dataset}: features names {unknown[0]!r}; the modalities are {', '.join(sizes) or 'none'}")
    if not sizes:
        raise ValueError(f"{dataset}: modalities is empty; name one or more")
    return sizes


@dataclass
class ModalityFolders:
    """Subfolders of feature files, one for each modality: `<modality>/<id>.npy|.safetensors`.

    Args:
        dataset: name of the dataset, for error messages.
        folder: parent of the subfolders.
        features: folders of modalities that are not subfolders of that name; a relative path starts at `folder`.
    """

    dataset: str
    folder: Path
    features: Mapping[str, str | Path]

    def sources(self, modalities: Mapping[str, int | str]) -> dict[str, FeatureSource]:
        """Source of each modality of features, from sizes by name."""
        return {name: FileSource(self._place(name), size) for name, size in modalities.items() if size != TEXT}

    def sizes(
        self, wanted: Mapping[str, int | str | None] | Sequence[str] | None, sample_ids: Sequence[str]
    ) -> dict[str, int | str]:
        """Feature size of each modality, or `"text"`; what is not given is the width of most of the first files.

        Args:
            wanted: sizes by name, or names; by default every subfolder with a feature file and `features`.
            sample_ids: ids of all samples.

        Raises:
            ValueError: as in `choose_modalities`, or a size is wrong or a modality has no feature file.
        """
        default = dict.fromkeys(self._found()) if wanted is None else {}
        sizes = choose_modalities(self.dataset, wanted, default, self.features)
        for name, size in sizes.items():
            sizes[name] = self._width(name, sample_ids) if size is None else size
            if size not in (None, TEXT) and (type(size) is not int or size < 1):
                raise ValueError(
                    f"{self.dataset}: modality {name!r} has feature size {size!r}, expected 1 or more, or text"
                )
        return sizes

    def _place(self, modality: str) -> Path:
        return self.folder / self.features.get(modality, modality)

    def _found(self) -> list[str]:
        """Sorted names of the subfolders with a feature file at any depth, then those in `features`."""
        places = [place for place in self.folder.glob("*") if place.is_dir()]
        found = sorted(place.name for place in places if any(path.suffix in SUFFIXES for path in place.rglob("*")))
        found += [name for name in self.features if not (self.folder / name).is_dir()]
        if not found:
            expected = f"subfolder of {' or '.join(SUFFIXES)} files; expected <modality>/<id>.npy"
            raise ValueError(f"{self.dataset}: {self.folder} has no {expected}")
        return found

    def _width(self, modality: str, sample_ids: Sequence[str]) -> int:
        place = self._place(modality)
        counts = Counter(islice(_widths(place, sample_ids), EXAMINED_FILES))
        if not counts:
            raise ValueError(
                f"{self.dataset}: {place} has no readable feature file of any sample, such as "
                f"{place / sample_ids[0]}.npy; give the size of {modality!r} in modalities={{...}}, or leave the "
                "modality out"
            )
        width = counts.most_common(1)[0][0]
        if len(counts) > 1:
            message = "%s: features of %r differ in width, %s; expected is %d"
            logger.warning(message, self.dataset, modality, dict(counts), width)
        return width


def _widths(place: Path, sample_ids: Iterable[str]) -> Iterator[int]:
    """Widths of the readable feature files."""
    for sample_id in sample_ids:
        with suppress(FeatureFileError):
            shape = read_array(feature_path(place, sample_id)).shape
            if len(shape) == 2 and shape[1]:
                yield shape[1]
