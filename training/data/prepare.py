"""Conversion of a dataset to Arrow files by a builder of `datasets`; `Prepared` shows the result."""

import hashlib
import inspect
import json
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import ArrowBasedBuilder, DatasetInfo, SplitGenerator
from datasets.exceptions import DatasetGenerationError
from datasets.info import DatasetInfosDict
from datasets.utils.py_utils import convert_file_size_to_int
from huggingface_hub import DatasetCard, DatasetCardData

from ..utils.files import scratch_folder, without_paths
from ..utils.locks import lock
from ..utils.markdown import markdown_table
from ..utils.workers import end_with_parent
from . import AqaData, build, dataset_class, report_missing
from .aqa_data import MissingFeature, MissingSummary
from .file_dataset import FileDataset, RowReader
from .prepared import CHECKSUM_FILE, DESCRIPTION_FILE, Prepared, read_description, write_description
from .sources.files import FeatureSource, Reader
from .sources.walk import walk_files

logger = logging.getLogger(__name__)
NO_FOLDER = "-"
CARD = """
# {title}

{description}. Prepared with [limssr](https://arxiv.org/abs/2605.00434) for action quality assessment: each row is a
performance, with the judges' scores and one nullable column of feature clips for each modality.
{leaky}
```python
from datasets import load_dataset

rows = load_dataset("{title}")  # this folder, or the name of the repository
```

`training/train.py --dataset prepared --data_options folder={title}` trains on it. The licence is that of the original
data.

{scores}

{modalities}

{missing} `missing.csv` lists each sample, modality and cause. `sha256sum --check checksums.sha256` verifies the files.
"""


class PreparedBuilder(ArrowBasedBuilder):
    """Writes the samples of a dataset, each as its own record batch.

    `datasets` replaces `open` and `Path` in a builder's module by versions for URLs; this module uses neither.

    Args:
        name: name of the dataset, and start of the file names.
        labels, readers: see `RowReader`.
        scratch: folder for temporary files.
    """

    def __init__(self, name: str, labels: AqaData, readers: dict[str, Reader], scratch: Path) -> None:
        self.labels, self.readers, self.notes, self.launcher = labels, readers, scratch / "missing", os.getpid()
        self.notes.mkdir()
        features = RowReader(labels, readers).features
        super().__init__(str(scratch / "cache"), dataset_name=name, features=features, writer_batch_size=1)

    def _info(self) -> DatasetInfo:
        return DatasetInfo()

    def _split_generators(self, dl_manager: Any) -> list[SplitGenerator]:
        """Splits with their row numbers, a list that `datasets` divides among the processes."""
        return [
            SplitGenerator(split, {"split": split, "positions": list(range(len(rows)))})
            for split, rows in self.labels.splits.items()
        ]

    def _generate_tables(self, split: str, positions: list[int]) -> Iterator[tuple[int, pa.Table]]:
        if os.getpid() != self.launcher:
            end_with_parent(self.launcher)
        reader = RowReader(self.labels, self.readers)
        nothing = self.info.features.arrow_schema.empty_table()
        for position in positions:
            yield position, nothing  # `datasets` holds a table until the next one comes, and samples are large
            row = reader.read(split, position)
            if row is not None:
                yield position, row
            del row
        note = self.notes / f"{split}-{positions[0]:012}.json"
        note.write_text(json.dumps(asdict(reader.missing)), encoding="utf-8")

    def missing(self) -> MissingSummary:
        """What all processes found missing, in the order of the samples."""
        paths = [path for split in self.labels.splits for path in sorted(self.notes.glob(f"{split}-*.json"))]
        notes = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        return MissingSummary(
            samples=notes[0]["samples"],
            features=[MissingFeature(**each) for note in notes for each in note["features"]],
            dropped=[sample_id for note in notes for sample_id in note["dropped"]],
            odd=[MissingFeature(**each) for note in notes for each in note["odd"]],
        )


def prepare_data(
    dataset: str,
    folder: str,
    out: Path,
    options: dict[str, Any] | None = None,
    num_proc: int = 1,
    max_shard_size: int | str = "500MB",
    list_missing: bool = False,
    require_complete: bool = False,
) -> None:
    """Write a dataset as Arrow files. `out` appears when it is complete; complete data is left as it is.

    Args:
        dataset: see `dataset_class`.
        folder: option `folder` of the dataset; `-` for a dataset that reads none.
        out: new or empty folder.
        options: other options of the dataset.
        num_proc: number of processes that read samples.
        max_shard_size: largest size of a file, such as `500MB`.
        list_missing: print each missing feature.
        require_complete: raise an error if anything is missing.

    Raises:
        ValueError, OSError: the dataset or the folder cannot be used; the message says why.
    """
    if num_proc < 1:
        raise ValueError(f"`num_proc` is {num_proc}, expected 1 or more")
    convert_file_size_to_int(max_shard_size)  # raises ValueError
    out = out.resolve()
    labels, sources = open_dataset(dataset, folder, options or {})
    fingerprint = fingerprint_of(labels, dataset, options or {})
    if is_prepared(out, fingerprint):
        report_missing(Prepared(out).load(), list_missing, require_complete)
        print(f"{out} is complete already", flush=True)
        return
    with lock(out.with_name(f".{out.name}.lock")), scratch_folder(out) as scratch:
        readers = {
            name: source.open(scratch / f"table-{number}") for number, (name, source) in enumerate(sources.items())
        }
        builder = PreparedBuilder(dataset, labels, readers, scratch)
        try:
            builder.download_and_prepare(str(scratch / "data"), num_proc=num_proc, max_shard_size=max_shard_size)
        except (DatasetGenerationError, OSError, RuntimeError) as error:
            raise OSError(f"{out} could not be written: {_reason(error)}") from error
        data = replace(labels, missing=builder.missing())
        report_missing(data, list_missing, require_complete)
        if data.augment is not None:
            logger.warning("%s changes its training rows anew in every epoch; prepared data do not", dataset)
        complete = scratch / "complete"
        complete.mkdir()
        (scratch / "data").rename(complete / "data")
        write_metadata(complete, out.name, data, builder.info, dataset=dataset, fingerprint=fingerprint)
        complete.rename(out)
    print(f"{out} is ready", flush=True)


def open_dataset(dataset: str, folder: str, options: dict[str, Any]) -> tuple[AqaData, dict[str, FeatureSource]]:
    """Labels of a dataset and sources of its features; a dataset without files has all its columns at once."""
    if "folder" in options:
        raise ValueError("give the folder of the dataset as FOLDER, not among the options")
    takes_folder = "folder" in inspect.signature(dataset_class(dataset)).parameters
    if not takes_folder and folder != NO_FOLDER:
        raise ValueError(f"the dataset {dataset!r} reads no folder; give {NO_FOLDER} in its place")
    built = build(dataset, **({"folder": folder} if takes_folder else {}), **options)
    if not isinstance(built, FileDataset):
        return built.load(), {}
    labels = built.read_labels()
    return labels, built.sources(labels)


def fingerprint_of(labels: AqaData, dataset: str, options: dict[str, Any]) -> str:
    """Checksum of what is prepared: the dataset, its options and its labels."""
    columns = {
        split: rows.remove_columns([name for name in labels.modalities if name in rows.column_names]).to_dict()
        for split, rows in labels.splits.items()
    }
    scores = [labels.score_names, labels.score_minimums, labels.score_ranges, labels.modalities]
    recipe = [] if labels.recipe is None else [labels.recipe]
    content = json.dumps([dataset, without_paths(options), scores, columns, *recipe])
    return hashlib.sha256(content.encode()).hexdigest()


def is_prepared(out: Path, fingerprint: str) -> bool:
    """Whether a folder holds exactly this data.

    Raises:
        FileExistsError: the folder holds something else.
    """
    if not out.exists() or not any(out.iterdir()):
        return False
    if not (out / DESCRIPTION_FILE).is_file():
        raise FileExistsError(f"{out} is not empty, and what is in it is no prepared data; name another folder")
    if read_description(out).get("fingerprint") != fingerprint:
        raise FileExistsError(
            f"{out} holds data that was prepared from other labels or with other options; name another folder or "
            "remove it"
        )
    return True


def _reason(error: Exception) -> str:
    """The first error of a chain; `datasets` raises the last one, and from a process its traceback as text."""
    first, *_ = str(error.__cause__ or error).split("\n\nThe above exception")
    return first.strip().splitlines()[-1]


def write_metadata(out: Path, title: str, data: AqaData, info: DatasetInfo, **about: str) -> None:
    """Write everything beside the rows; `about` is added to `aqa_data.json`.

    Raises:
        ValueError: a split has no row.
    """
    counts = {split: rows.num_examples for split, rows in info.splits.items()}
    for split, count in counts.items():
        if not count:
            raise ValueError(f"no sample of the split {split!r} has any feature; {data.missing}")
    (out / "data" / "dataset_info.json").unlink()  # the card says the same
    write_description(out, data, splits=counts, **about)
    (out / "README.md").write_text(dataset_card(title, data, info), encoding="utf-8")
    (out / CHECKSUM_FILE).write_text(checksums(out), encoding="utf-8")


def dataset_card(title: str, data: AqaData, info: DatasetInfo) -> str:
    """Dataset card with the metadata that `datasets.load_dataset` reads."""
    files = [{"split": split, "path": f"data/{info.dataset_name}-{split}*.arrow"} for split in info.splits]
    metadata = DatasetCardData(
        tags=["action-quality-assessment", "missing-modalities", "limssr"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(metadata)
    missing, counts = data.missing, data.missing.counts()
    modalities = [
        (name, size, ", ".join(f"{count} {cause}" for cause, count in counts.get(name, {}).items()))
        for name, size in data.modalities.items()
    ]
    ranges = zip(data.score_names, data.score_minimums, data.score_ranges, strict=True)
    left_out = f"; {len(missing.dropped)} samples had none and were left out" if missing.dropped else ""
    text = CARD.format(
        title=title,
        description=data.description,
        leaky="\n**The features reveal the label.**\n" if data.leaky else "",
        scores=markdown_table(
            [("score", "lowest", "highest"), *((name, low, low + size) for name, low, size in ranges)]
        ),
        modalities=markdown_table([("modality", "size", f"missing of {missing.samples} samples"), *modalities]),
        missing=f"{len(missing.features)} features are missing{left_out}.",
    )
    return str(DatasetCard(f"---\n{metadata.to_yaml()}\n---\n{text}"))


def checksums(out: Path) -> str:
    """SHA-256 of every file in the format of `sha256sum`; each file is flushed to disk."""
    lines = []
    for path in sorted(walk_files(out)):
        with path.open("rb") as file:
            os.fsync(file.fileno())  # before the folder gets its final name
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        lines.append(f"{digest}  {path.relative_to(out).as_posix()}\n")
    return "".join(lines)
