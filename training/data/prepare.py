"""Conversion of a dataset to Arrow files by the builder of `datasets`.

OUT/
    README.md               dataset card; tells `datasets.load_dataset(OUT)` where the splits are
    data/<dataset>-<split>-00000-of-00004.arrow
    aqa_data.json           modalities, scores and their ranges: what `AqaData` holds beside its rows
    missing.csv             each missing feature with its cause
    checksums.sha256        checksums of the files above, for `sha256sum --check checksums.sha256`
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from datasets import ArrowBasedBuilder, DatasetInfo, SplitGenerator
from datasets.builder import Key
from datasets.exceptions import DatasetGenerationError
from datasets.info import DatasetInfosDict
from datasets.utils.py_utils import convert_file_size_to_int
from huggingface_hub import DatasetCard, DatasetCardData

from ..utils.records import without_paths
from . import REGISTRY, AqaData, build, report_missing
from .file_dataset import FileDataset, RowReader
from .missing import MissingFeature, MissingSummary
from .prepared import DESCRIPTION_FILE, Prepared, read_description, write_description
from .sources.files import FeatureSource, Reader

NO_FOLDER = "-"
CHECKSUM_FILE = "checksums.sha256"
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

## Splits

{splits}

## Scores

{scores}

## Modalities

{modalities}

## Columns

{columns}

{missing} `missing.csv` lists each sample, modality and cause. `sha256sum --check checksums.sha256` verifies the files.
"""


class PreparedBuilder(ArrowBasedBuilder):
    """Writes the samples of a dataset, each as its own record batch.

    `datasets` replaces `open`, `Path` and others in a builder's module by versions for URLs, so this module opens no
    file by itself.

    Args:
        name: name of the dataset; the files are named after it.
        labels: result of `FileDataset.read_labels`, or a dataset that has all its columns.
        readers: reader of each modality without a column.
        scratch: folder for temporary files.
    """

    def __init__(self, name: str, labels: AqaData, readers: dict[str, Reader], scratch: Path) -> None:
        self.labels, self.readers, self.notes = labels, readers, scratch / "missing"
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

    def _generate_tables(self, split: str, positions: list[int]) -> Iterator[tuple[Key, pa.Table]]:
        reader = RowReader(self.labels, self.readers)
        nothing = self.info.features.arrow_schema.empty_table()
        for position in positions:
            yield Key(0, position), nothing  # `datasets` holds a table until the next one comes; samples are large
            row = reader.read(split, position)
            if row is not None:
                yield Key(0, position), row
            del row
        note = {"features": [asdict(each) for each in reader.missing.features], "dropped": reader.missing.dropped}
        (self.notes / f"{split}-{min(positions, default=0):012}.json").write_text(json.dumps(note), encoding="utf-8")

    def missing(self) -> MissingSummary:
        """What all processes found missing, in the order of the samples."""
        summary = MissingSummary(samples=sum(map(len, self.labels.splits.values())))
        for split in self.labels.splits:
            for path in sorted(self.notes.glob(f"{split}-*.json")):
                note = json.loads(path.read_text(encoding="utf-8"))
                summary.features += [MissingFeature(**each) for each in note["features"]]
                summary.dropped += note["dropped"]
        return summary


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
    """Write a dataset as Arrow files. `out` appears when it is complete; data that is complete is left as it is.

    Args:
        dataset: key of `REGISTRY`.
        folder: option `folder` of the dataset; `-` for a dataset that reads none.
        out: new or empty folder.
        options: other options of the dataset.
        num_proc: number of processes.
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
    with scratch_folder(out) as scratch:
        readers = open_sources(sources, scratch / "tables", num_proc)
        builder = PreparedBuilder(dataset, labels, readers, scratch)
        try:
            builder.download_and_prepare(str(scratch / "data"), num_proc=num_proc, max_shard_size=max_shard_size)
        except (DatasetGenerationError, OSError, RuntimeError) as error:
            raise OSError(f"{out} could not be written: {_reason(error)}") from error
        data = replace(labels, missing=builder.missing())
        report_missing(data, list_missing, require_complete)
        complete = scratch / out.name
        complete.mkdir()
        (scratch / "data").rename(complete / "data")
        write_metadata(complete, data, dataset, builder.info, fingerprint)
        complete.rename(out)
    print(f"{out} is ready", flush=True)


def open_dataset(dataset: str, folder: str, options: dict[str, Any]) -> tuple[AqaData, dict[str, FeatureSource]]:
    """Labels of a dataset and the sources of its features; generated data has them in its columns already."""
    if "folder" in options:
        raise ValueError("give the folder of the dataset as FOLDER, not among the options")
    takes_folder = dataset not in REGISTRY or "folder" in REGISTRY[dataset].__dataclass_fields__
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
    content = json.dumps([dataset, without_paths(options), scores, columns])
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


@contextmanager
def scratch_folder(out: Path) -> Iterator[Path]:
    """A temporary folder beside `out` with a name of its own; those that killed runs left behind are removed.

    Worker processes can outlive a killed run, so the next one never writes to the same place.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{out.name}.preparing-"
    for left in out.parent.iterdir():
        if left.name.startswith(prefix):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=prefix, dir=out.parent) as scratch:
        scratch = out.parent / scratch
        (scratch / "tables").mkdir()
        (scratch / "missing").mkdir()
        yield scratch


def open_sources(sources: dict[str, FeatureSource], folder: Path, num_proc: int) -> dict[str, Reader]:
    """Open all sources, in several processes: a large table takes minutes to read."""
    caches = [folder / str(number) for number in range(len(sources))]
    if num_proc == 1:
        return {name: source.open(cache) for (name, source), cache in zip(sources.items(), caches, strict=True)}
    with ProcessPoolExecutor(num_proc) as pool:
        return dict(zip(sources, pool.map(_open, sources.values(), caches), strict=True))


def _open(source: FeatureSource, cache: Path) -> Reader:
    return source.open(cache)


def _reason(error: Exception) -> str:
    """The first error of a chain; `datasets` raises the last one, and from a process its traceback as text."""
    first, *_ = str(error.__cause__ or error).split("\n\nThe above exception")
    return first.strip().splitlines()[-1]


def write_metadata(out: Path, data: AqaData, dataset: str, info: DatasetInfo, fingerprint: str) -> None:
    """Write everything beside the rows.

    Raises:
        ValueError: a split has no row.
    """
    counts = {split: rows.num_examples for split, rows in info.splits.items()}
    for split, count in counts.items():
        if not count:
            raise ValueError(f"no sample of the split {split!r} has any feature; {data.missing}")
    (out / "data" / "dataset_info.json").unlink()  # the card says the same
    write_description(out, data, splits=counts, dataset=dataset, fingerprint=fingerprint)
    (out / "README.md").write_text(dataset_card(out.name, data, info), encoding="utf-8")
    (out / CHECKSUM_FILE).write_text(checksums(out), encoding="utf-8")


def dataset_card(title: str, data: AqaData, info: DatasetInfo) -> str:
    """Dataset card with the metadata that `datasets.load_dataset` reads."""
    files = [{"split": split, "path": f"data/{info.dataset_name}-{split}*.arrow"} for split in info.splits]
    metadata = DatasetCardData(
        tags=["action-quality-assessment", "missing-modalities", "limssr"],
        configs=[{"config_name": "default", "data_files": files}],
    )
    DatasetInfosDict({"default": info}).to_dataset_card_data(metadata)
    scores = zip(data.score_names, data.score_minimums, data.score_ranges, strict=True)
    text = CARD.format(
        title=title,
        description=data.description,
        leaky="\n**The features reveal the label.**\n" if data.leaky else "",
        splits=_table(["split", "samples"], [(name, split.num_examples) for name, split in info.splits.items()]),
        scores=_table(["score", "lowest", "highest"], [(name, low, low + size) for name, low, size in scores]),
        modalities=_modalities(data),
        columns=_table(["column", "type"], [(name, f"`{kind}`") for name, kind in info.features.items()]),
        missing=_missing(data.missing),
    )
    return str(DatasetCard(f"---\n{metadata.to_yaml()}\n---\n{text}"))


def _modalities(data: AqaData) -> str:
    counted = data.missing.counts()
    rows = []
    for name, size in data.modalities.items():
        causes = ", ".join(f"{count} {cause}" for cause, count in counted.get(name, {}).items())
        rows.append((name, size, causes or "none"))
    return _table(["modality", "feature size", f"missing of {data.missing.samples} samples"], rows)


def _missing(missing: MissingSummary) -> str:
    if not missing.features:
        return "No feature is missing."
    left_out = f"; {len(missing.dropped)} samples had none and were left out" if missing.dropped else ""
    return f"{len(missing.features)} features are missing{left_out}."


def _table(heads: list[str], rows: list[tuple]) -> str:
    """Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    cells = [[f"{cell:g}" if isinstance(cell, float) else str(cell) for cell in line] for line in lines]
    return "\n".join(f"| {' | '.join(line)} |" for line in cells)


def checksums(out: Path) -> str:
    """SHA-256 of every file in the format of `sha256sum`; each file is flushed to disk."""
    lines = []
    for path in sorted(out.rglob("*.*")):
        with path.open("rb") as file:
            os.fsync(file.fileno())  # before the folder gets its final name
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        lines.append(f"{digest}  {path.relative_to(out).as_posix()}\n")
    return "".join(lines)
