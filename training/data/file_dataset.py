"""What datasets share whose labels and features are files."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features
from tqdm.auto import tqdm

from ...configuration.configuration_limssr import TEXT
from .aqa_data import AqaData, build_split, clips_feature
from .missing import MissingFeature, MissingSummary, not_given
from .sources.files import FeatureFileError, FeatureSource, FileSource, Reader, choose_modalities
from .sources.labels import Labels, check_apart, check_range, compare_counts, read_label_table
from .sources.tables import TableSource


class FileDataset(ABC):
    """A dataset that knows its samples before it reads a feature."""

    @abstractmethod
    def read_labels(self) -> AqaData:
        """Read everything but the features; the splits lack the columns of the modalities in `sources`."""

    @abstractmethod
    def sources(self, labels: AqaData) -> dict[str, FeatureSource]:
        """Source of the features of each modality without a column, given the result of `read_labels`."""

    def load(self) -> AqaData:
        """Read everything into memory; a sample without any modality is left out.

        Raises:
            ValueError: the labels or a table cannot be used, or a split has no sample with any modality.
        """
        labels = self.read_labels()
        readers = {name: _in_memory(source.open()) for name, source in self.sources(labels).items()}
        rows = RowReader(labels, readers)
        splits = DatasetDict({name: Dataset(pa.concat_tables(rows.read_split(name))) for name in labels.splits})
        return replace(labels, splits=splits, missing=rows.missing)


class RowReader:
    """Reads samples one by one: the labels of a sample together with its features.

    Args:
        labels: result of `FileDataset.read_labels`, or a dataset that has all its columns.
        readers: reader of each modality without a column.

    Attributes:
        features: all columns, those of the modalities included.
        missing: what was found missing so far.
    """

    def __init__(self, labels: AqaData, readers: Mapping[str, Reader]) -> None:
        self.labels, self.readers = labels, readers
        self.features = complete_features(labels)
        self.missing = MissingSummary(samples=sum(map(len, labels.splits.values())))
        self._schema = self.features.arrow_schema
        self._splits = {name: split.with_format("arrow") for name, split in labels.splits.items()}

    def read(self, split: str, position: int) -> pa.Table | None:
        """Read a sample as a table of one row, or note that it has no modality and return None."""
        row = self._splits[split][position : position + 1]
        sample_id = row["sample_id"][0].as_py()
        available = False
        for modality in self.labels.modalities:
            if modality in self.readers:
                row = row.append_column(modality, self._read_features(modality, sample_id))
            elif not row[modality][0].is_valid:
                self.missing.features.append(not_given(sample_id, modality))
            available |= row[modality][0].is_valid
        if available:
            return row.cast(self._schema)
        self.missing.dropped.append(sample_id)
        return None

    def read_split(self, split: str) -> list[pa.Table]:
        """Read all samples of a split.

        Raises:
            ValueError: none has any modality.
        """
        positions = tqdm(range(len(self.labels.splits[split])), desc=f"reading {split}", unit="sample", disable=None)
        rows = [row for position in positions if (row := self.read(split, position)) is not None]
        if not rows:
            raise ValueError(f"no sample of the split {split!r} has any feature; {self.missing}")
        return rows

    def _read_features(self, modality: str, sample_id: str) -> pa.Array:
        try:
            return self.readers[modality](sample_id)
        except FeatureFileError as error:
            self.missing.features.append(MissingFeature(sample_id, modality, error.cause, str(error)))
            return pa.nulls(1)


def complete_features(labels: AqaData) -> Features:
    """Columns of a dataset's splits and of the modalities that are still to be read.

    Raises:
        ValueError: a text modality has no column.
    """
    features = Features(next(iter(labels.splits.values())).features)
    for name, size in labels.modalities.items():
        if name not in features and size == TEXT:
            raise ValueError(f"there is no column of texts for the modality {name!r}; there are {', '.join(features)}")
        features.setdefault(name, clips_feature(size))
    return features


def _in_memory(read: Reader) -> Reader:
    """A reader whose values are copies, because a process cannot keep thousands of files mapped."""
    return lambda sample_id: read(sample_id).copy_to(pa.default_cpu_memory_manager())


def all_sample_ids(splits: Mapping[str, Dataset]) -> list[str]:
    """Ids of all samples, split after split."""
    return [sample_id for split in splits.values() for sample_id in split.select_columns(["sample_id"])["sample_id"]]


def build_label_splits(labels: Mapping[str, Labels], score_names: Sequence[str]) -> DatasetDict:
    """Build splits without features: ids, scores and every other column of the labels.

    Raises:
        LabelError: a sample is in two splits.
    """
    check_apart(labels)
    splits = {}
    for split, table in labels.items():
        scores = {name: table.columns[name] for name in score_names}
        extra = {name: values.astype(np.float32) for name, values in table.columns.items() if name not in scores}
        extra |= {name: pa.array(values, pa.string()) for name, values in table.texts.items()}
        splits[split] = build_split(table.sample_ids, scores, {}, extra)
    return DatasetDict(splits)


def choose_scores(dataset: str, scores: str | Sequence[str] | None, allowed: Iterable[str]) -> list[str]:
    """Names of the scores to learn, by default all.

    Raises:
        ValueError: none is given, one is given twice, or the dataset does not have one.
    """
    allowed = list(allowed)
    chosen = allowed if scores is None else [scores] if isinstance(scores, str) else list(scores)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(allowed):
        raise ValueError(f"{dataset}: scores is {chosen}, allowed: one or more of {', '.join(allowed)}")
    return chosen


@dataclass
class PublishedDataset(FileDataset):
    """A dataset with text files of labels and features under published names.

    Args:
        folder: folder of the label files and the features.
        scores: scores to learn; the others stay as further columns.
        modalities: modalities to use: names, or sizes by name where the features are not the published ones.
        features: places of features other than the published ones: modality -> folder with one file a sample, or
            pickled table; a relative path starts at `folder`.
        train_labels: label file of the training split; a relative path starts at `folder`.
        test_labels: label file of the test split.
        max_clips: clips that a processor keeps.
    """

    folder: str | Path
    scores: list[str] | None = None
    modalities: dict[str, int] | list[str] | None = None
    features: dict[str, str] = field(default_factory=dict)
    train_labels: str = "train.txt"
    test_labels: str = "test.txt"
    max_clips: int = 0

    name: ClassVar[str]
    title: ClassVar[str]
    label_columns: ClassVar[tuple[str, ...]]
    score_ranges: ClassVar[Mapping[str, float]]  # highest value of each score; the lowest is 0
    official_counts: ClassVar[Mapping[str, int]]  # published number of samples of each split
    feature_sizes: ClassVar[Mapping[str, int]]
    feature_places: ClassVar[Mapping[str, str]]
    average_views: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.scores = choose_scores(self.name, self.scores, self.score_ranges)
        self.modalities = choose_modalities(self.name, self.modalities, self.feature_sizes, self.features)
        places = {**self.feature_places, **self.features}
        for name, size in self.modalities.items():
            if type(size) is not int or size < 1:
                raise ValueError(
                    f"{self.name}: modality {name!r} has feature size {size!r}; give one, modalities={{...}}"
                )
            if name not in places:
                raise ValueError(f"{self.name}: say where the features of {name!r} are, features={{{name}: ...}}")
        self.features = {name: str(places[name]) for name in self.modalities}

    def read_split(self, name: str) -> Labels:
        """Read the labels of a split, given the name of its file."""
        return self.transform_labels(read_label_table(Path(self.folder) / name, self.label_columns))

    def transform_labels(self, labels: Labels) -> Labels:
        """Labels of the dataset, given those of a file."""
        return labels

    def sizes(self, splits: DatasetDict) -> dict[str, int]:
        """Feature size of each modality."""
        return dict(self.modalities)

    def read_labels(self) -> AqaData:
        labels = {"train": self.read_split(self.train_labels), "test": self.read_split(self.test_labels)}
        for table in labels.values():
            for name, highest in self.score_ranges.items():
                check_range(table, name, 0, highest)
        splits = build_label_splits(labels, self.scores)
        compare_counts(self.name, labels, self.official_counts)
        return AqaData(
            splits=splits,
            modalities=self.sizes(splits),
            score_names=self.scores,
            score_minimums=[0.0] * len(self.scores),
            score_ranges=[float(self.score_ranges[name]) for name in self.scores],
            max_clips=self.max_clips,
            description=f"{self.title}, official split",
        )

    def sources(self, labels: AqaData) -> dict[str, FeatureSource]:
        return {name: self.source(name, place) for name, place in self.features.items()}

    def source(self, modality: str, place: str) -> FeatureSource:
        """Source of a modality at a place: a folder of files or a table."""
        path, size = Path(self.folder) / place, self.modalities[modality]
        is_folder = path.is_dir() or not path.suffix
        return FileSource(path, size, self.average_views) if is_folder else TableSource(path, size)
