"""Samples from files: one sample from single files, or many from a folder or a CSV."""

import csv
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..data.sources.files import SUFFIXES, TEXT_SUFFIX, FeatureFileError, read_features, read_text


@dataclass(frozen=True)
class FileSample:
    """A sample whose features are still on disk.

    Attributes:
        paths: modality -> file, without the missing modalities.
        error: a mistake found before the files are read.
    """

    sample_id: str
    paths: dict[str, Path] = field(default_factory=dict)
    error: str | None = None

    def read(self) -> dict[str, np.ndarray | str]:
        """Modality -> (clips, dim) float32, or the text of a `.txt` file.

        Raises:
            FeatureFileError: `error` is set, the sample has no file, or a file cannot be used.
        """
        if self.error is not None:
            raise FeatureFileError(self.error)
        if not self.paths:
            raise FeatureFileError(f"sample {self.sample_id}: no modality is given; at least one is needed")
        return {
            name: read_text(path) if path.suffix == TEXT_SUFFIX else read_features(path)
            for name, path in self.paths.items()
        }


def samples_from_folder(
    folder: str | Path, modalities: Sequence[str], texts: Collection[str] = ()
) -> list[FileSample]:
    """Find the samples of `<modality>/<id>.npy|.safetensors|.txt`, sorted by id; an id may contain subfolders.

    Args:
        folder: folder with a subfolder for one or more modalities.
        modalities: names of the modalities.
        texts: modalities whose files are `.txt`; all others are feature files.

    Raises:
        FeatureFileError: no subfolder is named like a modality, or none holds a file.
    """
    folder = Path(folder)
    found = [name for name in modalities if (folder / name).is_dir()]
    if not found:
        raise FeatureFileError(f"{folder}: expected a folder with at least one subfolder of {list(modalities)}")
    files: dict[str, dict[str, list[Path]]] = {}
    for name in found:
        for path in sorted((folder / name).rglob("*")):
            if path.suffix in ((TEXT_SUFFIX,) if name in texts else SUFFIXES):
                sample_id = path.relative_to(folder / name).with_suffix("").as_posix()
                files.setdefault(sample_id, {}).setdefault(name, []).append(path)
    if not files:
        suffixes = " or ".join([*SUFFIXES, TEXT_SUFFIX] if texts else SUFFIXES)
        raise FeatureFileError(f"{folder}: no {suffixes} file in the subfolders {found}")
    return [_folder_sample(sample_id, paths) for sample_id, paths in sorted(files.items())]


def samples_from_csv(path: str | Path, modalities: Sequence[str]) -> list[FileSample]:
    """Read a CSV with the column `sample_id` and one column of paths per modality.

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
            return list(_csv_samples(path, csv.DictReader(stream), modalities))
    except (UnicodeDecodeError, csv.Error) as error:
        raise FeatureFileError(f"{path}: not a CSV in UTF-8: {error}") from error


def _folder_sample(sample_id: str, files: dict[str, list[Path]]) -> FileSample:
    for paths in files.values():
        if len(paths) > 1:
            return FileSample(
                sample_id, error=f"{paths[0]} and {paths[1].name}: two files for one modality, expected one"
            )
    return FileSample(sample_id, {name: paths[0] for name, paths in files.items()})


def _csv_samples(path: Path, reader: csv.DictReader, modalities: Sequence[str]) -> Iterator[FileSample]:
    columns = list(reader.fieldnames or [])
    expected = {"sample_id", *modalities}
    if "sample_id" not in columns or len(columns) < 2 or len(set(columns) & expected) < len(columns):
        raise FeatureFileError(
            f"{path}: the columns are {columns}, expected sample_id and one or more of {list(modalities)}"
        )
    lines: dict[str, int] = {}
    for row in reader:
        sample_id, where = row.pop("sample_id"), f"{path}, line {reader.line_num}"
        if None in row or None in row.values():
            raise FeatureFileError(f"{where}: expected {len(columns)} cells")
        if not sample_id:
            raise FeatureFileError(f"{where}: sample_id is empty")
        if sample_id in lines:
            raise FeatureFileError(f"{where}: sample_id {sample_id!r} is already on line {lines[sample_id]}")
        lines[sample_id] = reader.line_num
        yield FileSample(sample_id, {name: path.parent / cell for name, cell in row.items() if cell})
