"""Feature clips and texts from files: one a file, one sample from single files, a folder or a CSV."""

import csv
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

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


@dataclass(frozen=True)
class FileSample:
    """A sample whose features are still on disk.

    Attributes:
        paths: modality -> file; what is missing is not in it.
        error: what was already found wrong with the sample, raised when it is read.
    """

    sample_id: str
    paths: dict[str, Path] = field(default_factory=dict)
    error: str | None = None

    def read(self) -> dict[str, np.ndarray | str]:
        """modality -> (clips, dim) float32, or the text of a `.txt` file.

        Raises:
            FeatureFileError: the sample names no file at all, or one of them cannot be used.
        """
        if self.error is not None:
            raise FeatureFileError(self.error)
        if not self.paths:
            raise FeatureFileError(f"sample {self.sample_id}: no modality is given; at least one is needed")
        return {
            name: read_text(path) if path.suffix == TEXT_SUFFIX else read_features(path)
            for name, path in self.paths.items()
        }


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


def samples_from_folder(
    folder: str | Path, modalities: Sequence[str], texts: Collection[str] = ()
) -> list[FileSample]:
    """Samples of `<modality>/<id>.npy|.safetensors|.txt`, sorted by id; an id may contain subfolders.

    Args:
        folder: has a subfolder for each modality, or for some.
        modalities: their names.
        texts: which of them are texts; their files are `.txt`, those of the others are not.

    Raises:
        FeatureFileError: no subfolder named like a modality, or no feature file in any of them.
    """
    folder = Path(folder)
    found = [name for name in modalities if (folder / name).is_dir()]
    if not found:
        raise FeatureFileError(f"{folder}: expected a folder with at least one subfolder of {list(modalities)}")
    paths: dict[str, dict[str, list[Path]]] = {}
    for name in found:
        for path in sorted((folder / name).rglob("*")):
            if path.suffix in ((TEXT_SUFFIX,) if name in texts else SUFFIXES):
                sample_id = path.relative_to(folder / name).with_suffix("").as_posix()
                paths.setdefault(sample_id, {}).setdefault(name, []).append(path)
    if not paths:
        suffixes = " or ".join([*SUFFIXES, TEXT_SUFFIX] if texts else SUFFIXES)
        raise FeatureFileError(f"{folder}: no {suffixes} file in the subfolders {found}")
    return [_folder_sample(sample_id, files) for sample_id, files in sorted(paths.items())]


def samples_from_csv(path: str | Path, modalities: Sequence[str]) -> list[FileSample]:
    """Samples of a CSV with the column `sample_id` and one path column a modality.

    An empty cell is a missing modality; relative paths start at the CSV's folder.

    Raises:
        FeatureFileError: no such file, wrong columns, a line of another length, an empty or repeated id.
    """
    path = Path(path)
    if not path.is_file():
        raise FeatureFileError(
            f"{path}: no such file; expected a CSV with the columns sample_id, {', '.join(modalities)}"
        )
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            reader = csv.DictReader(stream)
            _check_columns(path, reader.fieldnames or [], modalities)
            return list(_csv_samples(path, reader))
    except (UnicodeDecodeError, csv.Error) as error:
        raise FeatureFileError(f"{path}: not a CSV in UTF-8: {error}") from error


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


def _folder_sample(sample_id: str, files: dict[str, list[Path]]) -> FileSample:
    for paths in files.values():
        if len(paths) > 1:
            return FileSample(
                sample_id, error=f"{paths[0]} and {paths[1].name}: two files for one modality, expected one"
            )
    return FileSample(sample_id, {name: paths[0] for name, paths in files.items()})


def _check_columns(path: Path, columns: Sequence[str], modalities: Sequence[str]) -> None:
    unknown = [name for name in columns if name != "sample_id" and name not in modalities]
    if "sample_id" not in columns or unknown or len(columns) < 2 or len(set(columns)) < len(columns):
        raise FeatureFileError(
            f"{path}: the columns are {list(columns)}, expected sample_id and one or more of {list(modalities)}"
        )


def _csv_samples(path: Path, reader: csv.DictReader) -> Iterator[FileSample]:
    lines: dict[str, int] = {}
    for row in reader:
        sample_id = row.pop("sample_id")
        if None in row or None in row.values():
            raise FeatureFileError(f"{path}, line {reader.line_num}: expected {len(reader.fieldnames)} cells")
        if not sample_id:
            raise FeatureFileError(f"{path}, line {reader.line_num}: sample_id is empty")
        if sample_id in lines:
            raise FeatureFileError(
                f"{path}, line {reader.line_num}: sample_id {sample_id!r} is already on line {lines[sample_id]}"
            )
        lines[sample_id] = reader.line_num
        yield FileSample(sample_id, {name: path.parent / cell for name, cell in row.items() if cell})
