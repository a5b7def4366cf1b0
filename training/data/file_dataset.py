"""What datasets share whose labels and features lie in files."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, List, Value
from tqdm.auto import tqdm

from ...configuration.configuration_limssr import TEXT
from .aqa_data import AqaData, build_split, feature_column
from .missing import MissingFeature, MissingSummary, nulls
from .sources.files import FeatureFileError, FeatureSource, FileSource, ReadSample
from .sources.labels import Labels, check_apart, check_range, compare_counts, read_label_table
from .sources.tables import TableSource


class FileDataset(ABC):
    """A dataset that knows its samples before any feature is read, and where the features of each one lie."""

    @abstractmethod
    def index(self) -> AqaData:
        """Everything but the features: the splits lack the columns of the modalities that `sources` will read."""

    @abstractmethod
    def sources(self, index: AqaData) -> list[FeatureSource]:
        """Where the features of the samples of `index` lie; for each sample and modality at most one source."""

    def load(self) -> AqaData:
        """Read everything into memory, one table or one file at a time."""
        index = self.index()
        return read_features_into(index, self.sources(index))


def all_sample_ids(splits: Mapping[str, Dataset]) -> list[str]:
    """Ids of all samples, split after split."""
    return [sample_id for split in splits.values() for sample_id in split.select_columns(["sample_id"])["sample_id"]]


def build_index(labels: Mapping[str, Labels], score_names: Sequence[str]) -> DatasetDict:
    """Splits without features: ids, the scores, and every other column of the labels.

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


def read_features_into(index: AqaData, sources: Iterable[FeatureSource]) -> AqaData:
    """The dataset with its features in memory, without the samples that have no modality.

    Raises:
        ValueError: a split has no sample with any modality.
    """
    missing = MissingSummary(samples=sum(len(split) for split in index.splits.values()))
    for split in index.splits.values():
        missing.features += nulls(split, [name for name in index.modalities if name in split.features])
    cells: dict[str, dict[str, pa.ListArray]] = {}
    for source in sources:
        with source.opened() as read:
            for sample_id in tqdm(source.sample_ids, desc=f"reading {source.modality}", unit="sample", disable=None):
                cell = read_cell(read, sample_id, source.modality, missing)
                if cell is not None:  # in memory of its own: a process may not have thousands of files open
                    cell = cell.copy_to(pa.default_cpu_memory_manager())
                    cells.setdefault(source.modality, {})[sample_id] = cell
    splits = {name: _add_features(split, index, cells, missing, name) for name, split in index.splits.items()}
    return replace(index, splits=DatasetDict(splits), missing=missing)


def read_cell(read: ReadSample, sample_id: str, modality: str, missing: MissingSummary) -> pa.ListArray | None:
    """One row of a feature column, or None with an entry in `missing`."""
    try:
        return read(sample_id)
    except FeatureFileError as error:
        missing.features.append(MissingFeature(sample_id, modality, error.cause, str(error)))
        return None


def features_with(split: Dataset, modalities: Mapping[str, int | str]) -> Features:
    """The columns of a split and those of the modalities that it lacks.

    Raises:
        ValueError: a modality of text has no column.
    """
    added = {name: size for name, size in modalities.items() if name not in split.features}
    if spoken := [name for name, size in added.items() if size == TEXT]:
        raise ValueError(
            f"there is no column of texts for the modality {spoken[0]!r}; there are {', '.join(split.features)}"
        )
    columns = {name: List(List(Value("float32"), length=size)) for name, size in added.items()}
    return Features({**split.features, **columns})


def choose_scores(dataset: str, scores: str | Sequence[str] | None, allowed: Iterable[str]) -> list[str]:
    """The scores that were asked for, by default all.

    Raises:
        ValueError: none, one twice, or one that the dataset does not have.
    """
    allowed = list(allowed)
    chosen = allowed if scores is None else [scores] if isinstance(scores, str) else list(scores)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(allowed):
        raise ValueError(f"{dataset}: scores is {chosen}, allowed: one or more of {', '.join(allowed)}")
    return chosen


def choose_modalities(
    dataset: str,
    modalities: Mapping[str, int] | Sequence[str] | None,
    features: Mapping[str, str | Path],
    published_sizes: Mapping[str, int],
    published_places: Mapping[str, str],
) -> tuple[dict[str, int], dict[str, str]]:
    """Feature size and place of the modalities that were asked for, by default those that were published.

    Args:
        dataset: begins the message of an error.
        modalities: sizes by name, or names alone where the published sizes are meant.
        features: places by name, instead of those that were published.
        published_sizes: by name.
        published_places: by name.

    Raises:
        ValueError: a modality has no size or no place, or a place no modality.
    """
    if modalities is None:
        sizes = dict(published_sizes)
    elif isinstance(modalities, Mapping):
        sizes = dict(modalities)
    else:
        names = [modalities] if isinstance(modalities, str) else list(modalities)
        sizes = {name: published_sizes.get(name) for name in names}
    places = {**published_places, **{name: str(place) for name, place in features.items()}}
    for name, size in sizes.items():
        if type(size) is not int or size < 1:
            raise ValueError(f"{dataset}: modality {name!r} has feature size {size!r}; give one, modalities={{...}}")
        if name not in places:
            raise ValueError(f"{dataset}: say where the features of {name!r} are, features={{{name}: ...}}")
    if unknown := [name for name in features if name not in sizes]:
        raise ValueError(f"{dataset}: features names {unknown[0]!r}; the modalities are {', '.join(sizes) or 'none'}")
    if not sizes:
        raise ValueError(f"{dataset}: modalities is empty; name one or more")
    return sizes, {name: places[name] for name in sizes}


def _add_features(
    split: Dataset, index: AqaData, cells: dict[str, dict[str, pa.ListArray]], missing: MissingSummary, name: str
) -> Dataset:
    """The split with a column for each modality that it lacks, without the samples that have none."""
    features = features_with(split, index.modalities)
    table = split.with_format("arrow")[:]
    sample_ids = table["sample_id"].to_pylist()
    for modality in [name for name in features if name not in split.features]:
        null = feature_column(np.zeros((0, index.modalities[modality]), np.float32), [None])
        found = cells.get(modality, {})
        column = pa.chunked_array([found.get(sample_id, null) for sample_id in sample_ids], null.type)
        table = table.append_column(modality, column)
    kept = np.zeros(len(table), dtype=bool)
    for modality in index.modalities:
        kept |= table[modality].is_valid().to_numpy()
    dropped = [sample_id for sample_id, keep in zip(sample_ids, kept, strict=True) if not keep]
    missing.dropped += dropped
    if not kept.any():
        raise ValueError(f"no sample of the split {name!r} has any feature; {missing}")
    whole = Dataset(table.cast(features.arrow_schema))
    return whole if kept.all() else whole.select(np.flatnonzero(kept))


@dataclass
class PublishedDataset(FileDataset):
    """
    Args:
        folder: holds the label files and the features.
        scores: which scores a model learns; the others stay as further columns.
        modalities: which modalities are used: names, or sizes by name where the features are not the published ones.
        features: where features are that do not lie under the published names: modality -> a folder with one file
            a sample, or a pickled table; a relative path starts at `folder`.
        train_labels: the label file of the training split; a relative path starts at `folder`.
        test_labels: the label file of the test split.
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
    score_ranges: ClassVar[Mapping[str, float]]  # highest value of each score, the lowest being 0
    feature_sizes: ClassVar[Mapping[str, int]]
    feature_places: ClassVar[Mapping[str, str]]
    average_views: ClassVar[bool] = False

    def __post_init__(self) -> None:
        self.scores = choose_scores(self.name, self.scores, self.score_ranges)
        self.modalities, self.features = choose_modalities(
            self.name, self.modalities, self.features, self.feature_sizes, self.feature_places
        )

    @property
    @abstractmethod
    def official_counts(self) -> dict[str, int]:
        """Number of samples of each split as it was published."""

    def judge(self, labels: Labels) -> Labels:
        """The labels of this dataset, from those of the file."""
        return labels

    def index(self) -> AqaData:
        files = {"train": self.train_labels, "test": self.test_labels}
        labels = {
            split: self.judge(read_label_table(Path(self.folder) / name, self.label_columns))
            for split, name in files.items()
        }
        for table in labels.values():
            for name, highest in self.score_ranges.items():
                check_range(table, name, 0, highest)
        splits = build_index(labels, self.scores)
        compare_counts(self.name, labels, self.official_counts)
        return AqaData(
            splits=splits,
            modalities=dict(self.modalities),
            score_names=self.scores,
            score_minimums=[0.0] * len(self.scores),
            score_ranges=[float(self.score_ranges[name]) for name in self.scores],
            max_clips=self.max_clips,
            description=f"{self.title}, official split",
        )

    def sources(self, index: AqaData) -> list[FeatureSource]:
        sample_ids = all_sample_ids(index.splits)
        return [self._source(name, sample_ids, place) for name, place in self.features.items()]

    def _source(self, modality: str, sample_ids: Sequence[str], place: str) -> FeatureSource:
        path, size = Path(self.folder) / place, self.modalities[modality]
        if path.is_dir() or not path.suffix:
            return FileSource(modality, sample_ids, size, path, self.average_views)
        return TableSource(modality, sample_ids, size, path)
