"""Data that `prepare_data.py` wrote: any dataset, read once from its own files, as Arrow."""

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import Dataset, DatasetDict, concatenate_datasets
from huggingface_hub import snapshot_download

from ..utils.files import atomic_write, atomic_write_text
from .aqa_data import AqaData
from .masks import Mask
from .missing import MissingFeature, MissingSummary

DESCRIPTION_FILE, MISSING_FILE = "aqa_data.json", "missing.csv"
MISSING_COLUMNS = ("sample_id", "modality", "cause")
PLAIN_FIELDS = ("modalities", "score_names", "score_minimums", "score_ranges", "max_clips", "description", "leaky")
OTHER_FIELDS = ("splits", "best_attainable", "samples", "dropped")


@dataclass
class Prepared:
    """The result of `prepare_data.py`; its files are mapped as they are, and never all in memory.

        OUT/
            data/<split>-00000-of-00004.arrow     what plain `datasets.load_dataset(OUT)` reads
            aqa_data.json                         modalities, scores and their ranges, samples of each split
            missing.csv                           each missing feature with its cause

    Args:
        folder: that folder, or the name of a dataset repository on the Hub.
        revision: branch, tag or commit of the repository.
    """

    folder: str | Path
    revision: str | None = None

    def load(self) -> AqaData:
        """
        Raises:
            FileNotFoundError: the folder is no prepared data, or not yet.
            ValueError: a file is damaged, of another version, or not there.
        """
        folder = self._fetch()
        description = _read_description(folder / DESCRIPTION_FILE)
        with (folder / MISSING_FILE).open(encoding="utf-8", newline="") as stream:
            lost = [MissingFeature(**row, detail="when the data was prepared") for row in csv.DictReader(stream)]
        best = description["best_attainable"]
        return AqaData(
            splits=DatasetDict(
                {name: _map_split(folder, name, count) for name, count in description["splits"].items()}
            ),
            **{name: description[name] for name in PLAIN_FIELDS},
            best_attainable=None if best is None else {_mask(bits): metrics for bits, metrics in best.items()},
            missing=MissingSummary(description["samples"], lost, description["dropped"]),
        )

    def _fetch(self) -> Path:
        """The folder, or that of the repository in the cache."""
        folder = Path(self.folder)
        if not folder.is_dir():
            files = [DESCRIPTION_FILE, MISSING_FILE, "data/*.arrow"]
            folder = Path(
                snapshot_download(str(self.folder), repo_type="dataset", revision=self.revision, allow_patterns=files)
            )
        if not (folder / DESCRIPTION_FILE).is_file():
            raise FileNotFoundError(
                f"prepared: there is no {folder / DESCRIPTION_FILE}; write it, or go on, with prepare_data.py"
            )
        return folder


def write_description(out: Path, data: AqaData, missing: MissingSummary, **about: Any) -> None:
    """Writes what `Prepared` reads beside the rows.

    Args:
        out: the folder.
        data: the dataset.
        missing: what it lacks.
        **about: further entries of the JSON file.
    """
    with atomic_write(out / MISSING_FILE) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, MISSING_COLUMNS, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(vars(each) for each in missing.features)
    best: Mapping[Mask, dict] | None = data.best_attainable
    description = {
        **{name: getattr(data, name) for name in PLAIN_FIELDS},
        "best_attainable": None if best is None else {_bits(mask): metrics for mask, metrics in best.items()},
        "samples": missing.samples,
        "dropped": missing.dropped,
        **about,
    }
    atomic_write_text(out / DESCRIPTION_FILE, json.dumps(description, indent=2, ensure_ascii=False) + "\n")


def _read_description(path: Path) -> dict[str, Any]:
    try:
        description = json.loads(path.read_text(encoding="utf-8"))
        lacking = [name for name in (*PLAIN_FIELDS, *OTHER_FIELDS) if name not in description]
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}; copy or prepare the data again") from error
    if lacking:
        raise ValueError(
            f"{path} says nothing of {', '.join(lacking)}: another version of prepare_data.py wrote it; "
            "prepare the data again"
        )
    return description


def _map_split(folder: Path, name: str, samples: int) -> Dataset:
    """The rows of all files of a split.

    Raises:
        ValueError: there are not as many as were written, or a file was cut short.
    """
    shards = [_map_file(path) for path in sorted((folder / "data").glob(f"{name}-*.arrow"))]
    found = sum(map(len, shards))
    if found != samples:
        raise ValueError(
            f"{folder}: the split {name} has {found} samples, {samples} were written; copy or prepare the data again"
        )
    return concatenate_datasets(shards)


def _map_file(path: Path) -> Dataset:
    try:
        return Dataset.from_file(str(path))
    except (pa.ArrowInvalid, OSError) as error:
        raise ValueError(f"{path} is damaged: {error}; copy or prepare the data again") from error


def _bits(mask: Mask) -> str:
    return "".join(map(str, mask))


def _mask(bits: str) -> Mask:
    return tuple(int(bit) for bit in bits)
