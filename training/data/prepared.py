"""Data that `prepare.py` wrote: any dataset, converted once to Arrow files."""

import csv
import hashlib
import json
import logging
import re
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from datasets import Dataset, DatasetDict, concatenate_datasets
from huggingface_hub import snapshot_download
from huggingface_hub.utils import HFValidationError

from ..utils.errors import brief
from ..utils.files import atomic_write_text, cache_folder, read_json
from .aqa_data import AqaData, MissingFeature, MissingSummary
from .sources.walk import is_hidden

logger = logging.getLogger(__name__)

DESCRIPTION_FILE, MISSING_FILE, CHECKSUM_FILE = "aqa_data.json", "missing.csv", "checksums.sha256"
CHECKSUM_LINE = re.compile(r"([0-9a-f]{64})  (\S.*)")
ADVICE = "copy or prepare the data again, or give verify=false among its options"
MISSING_COLUMNS = ("sample_id", "modality", "cause")
PLAIN_FIELDS = ("modalities", "score_names", "score_minimums", "score_ranges", "max_clips", "description", "leaky")
PLAIN_FIELDS += ("group_column",)
OTHER_FIELDS = ("splits", "best_attainable", "samples", "dropped", "odd")


@dataclass
class Prepared:
    """The result of `prepare.py`. Its files are mapped into memory and never loaded as a whole.

        OUT/
            data/<dataset>-<split>-00000-of-00004.arrow     rows; `datasets.load_dataset(OUT)` reads them too
            aqa_data.json                                   modalities, scores and their ranges, size of each split
            missing.csv                                     each missing feature with its cause
            checksums.sha256                                SHA-256 of each file

    Args:
        folder: that folder, or the name of a dataset repository on the Hub.
        revision: branch, tag or commit of the repository.
        verify: compare the files with their checksums. A file is read once for this; it is read again when its size or
            time of change differs from then.
    """

    folder: str | Path
    revision: str | None = None
    verify: bool = True

    def load(self) -> AqaData:
        """Map the files into memory.

        Raises:
            FileNotFoundError: the folder holds no prepared data.
            ValueError: a file is damaged or missing, or another version wrote it.
        """
        folder = self._fetch()
        if self.verify:
            verify_checksums(folder)
        description = read_description(folder)
        with (folder / MISSING_FILE).open(encoding="utf-8", newline="") as stream:
            features = [MissingFeature(**row, detail="when the data was prepared") for row in csv.DictReader(stream)]
        splits = {name: map_split(folder, name, count) for name, count in description["splits"].items()}
        return AqaData(
            splits=DatasetDict(splits),
            **{name: description[name] for name in PLAIN_FIELDS},
            recipe=description.get("recipe"),
            best_attainable={tuple(mask): metrics for mask, metrics in description["best_attainable"]} or None,
            missing=MissingSummary(
                description["samples"],
                features,
                description["dropped"],
                [MissingFeature(*each) for each in description["odd"]],
            ),
        )

    def _fetch(self) -> Path:
        """The folder, or the cached copy of the repository."""
        folder = Path(self.folder)
        if not folder.is_dir():
            files = [DESCRIPTION_FILE, MISSING_FILE, CHECKSUM_FILE, "data/*.arrow"]
            try:
                place = snapshot_download(
                    str(self.folder), repo_type="dataset", revision=self.revision, allow_patterns=files
                )
            except HFValidationError:
                raise FileNotFoundError(
                    f"prepared: there is no folder {folder}, and no repository of the Hub can be called so"
                ) from None
            folder = Path(place)
        if not (folder / DESCRIPTION_FILE).is_file():
            raise FileNotFoundError(
                f"prepared: there is no {folder / DESCRIPTION_FILE}; write it with `limssr prepare`"
            )
        return folder


def write_description(out: Path, data: AqaData, **about: Any) -> None:
    """Write what `Prepared` reads beside the rows; `about` is added to the JSON file."""
    with (out / MISSING_FILE).open("w", encoding="utf-8", newline="") as stream:
        rows = [astuple(each)[: len(MISSING_COLUMNS)] for each in data.missing.features]
        csv.writer(stream, lineterminator="\n").writerows([MISSING_COLUMNS, *rows])
    description = {name: getattr(data, name) for name in PLAIN_FIELDS} | {
        "best_attainable": list((data.best_attainable or {}).items()),
        "samples": data.missing.samples,
        "dropped": data.missing.dropped,
        "odd": [astuple(each) for each in data.missing.odd],
        "recipe": data.recipe,
        **about,
    }
    text = json.dumps(description, indent=2, ensure_ascii=False)
    (out / DESCRIPTION_FILE).write_text(text + "\n", encoding="utf-8")


def read_description(folder: Path) -> dict[str, Any]:
    """Read the JSON file of prepared data; ValueError if it is damaged or of another version."""
    path = folder / DESCRIPTION_FILE
    try:
        description = read_json(path)
    except ValueError as error:
        raise ValueError(f"{error}: it is damaged; copy or prepare the data again") from None
    if lacking := [name for name in (*PLAIN_FIELDS, *OTHER_FIELDS) if name not in description]:
        raise ValueError(
            f"{path} says nothing of {', '.join(lacking)}: another version of `limssr prepare` wrote it; "
            "prepare the data again"
        )
    return description


def verify_checksums(folder: Path) -> None:
    """Compare the files that are read with `checksums.sha256`, those that changed since the last time.

    Raises:
        ValueError: a file has another content, or no checksum.
    """
    expected = _read_checksums(folder / CHECKSUM_FILE)
    memory = cache_folder() / f"verified-{hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:32]}.json"
    try:
        before = read_json(memory)
    except (OSError, ValueError):
        before = {}
    verified = {}
    for path in [folder / DESCRIPTION_FILE, folder / MISSING_FILE, *sorted((folder / "data").glob("*.arrow"))]:
        name = path.relative_to(folder).as_posix()
        if is_hidden(path.name):
            continue
        if name not in expected:
            raise ValueError(f"{path} is not among the {CHECKSUM_FILE} of the prepared data; {ADVICE}")
        status = path.stat()
        verified[name] = [expected[name], status.st_size, status.st_mtime_ns]
        if before.get(name) == verified[name]:
            continue
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != expected[name]:
                raise ValueError(f"{path} is damaged: it has changed since the data was prepared; {ADVICE}")
    if verified != before:
        try:
            atomic_write_text(memory, json.dumps(verified))
        except OSError as error:
            logger.warning("checksums will be verified again next time: %s", error)


def _read_checksums(path: Path) -> dict[str, str]:
    """Name of a file -> its SHA-256."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} cannot be read: {error}; {ADVICE}") from error
    found = [CHECKSUM_LINE.fullmatch(line) for line in lines]
    if not all(found):
        raise ValueError(f"{path} is damaged, line {found.index(None) + 1}; {ADVICE}")
    return {line[2]: line[1] for line in found}


def map_split(folder: Path, name: str, samples: int) -> Dataset:
    """Rows of all files of a split; ValueError if some are missing or a file is damaged."""
    shards = []
    for path in sorted((folder / "data").glob(f"*-{name}*.arrow")):
        if is_hidden(path.name):
            continue
        try:
            shards.append(Dataset.from_file(str(path)))
            shards[-1].data.table.validate(full=True)  # offsets and texts, which Arrow otherwise believes
        except Exception as error:  # Arrow and datasets raise whatever the bytes lead to
            raise ValueError(f"{path} is damaged: {brief(error)}; copy or prepare the data again") from error
    found = sum(map(len, shards))
    if found != samples:
        raise ValueError(
            f"{folder}: the split {name} has {found} samples, {samples} were written; copy or prepare the data again"
        )
    return concatenate_datasets(shards)
