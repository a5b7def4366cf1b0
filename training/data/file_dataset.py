"""What datasets share whose labels and features are files."""

import logging
import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import ClassVar

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, List, Value
from tqdm.auto import tqdm

from ...configuration.configuration_limssr import TEXT
from ...processing.recipes_limssr import Recipe
from .aqa_data import AqaData, MissingFeature, MissingSummary, build_split, not_given
from .sources.files import (
    ODDITIES,
    SUFFIXES,
    FeatureFileError,
    FeatureSource,
    FileSource,
    Reader,
    feature_path,
    open_array,
    refusing,
)
from .sources.labels import LabelError, Labels, check_apart, check_range, read_label_table
from .sources.tables import TableSource
from .sources.walk import is_hidden, walk_files

logger = logging.getLogger(__name__)

EXAMINED_FILES = 100  # of a modality without a given feature size
RECIPE_FILE = "recipe.json"  # beside the folders of features that a recipe made


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
        reader = RowReader(labels, {name: _in_memory(source.open()) for name, source in self.sources(labels).items()})
        splits = {}
        for name, split in labels.splits.items():
            positions = tqdm(range(len(split)), desc=f"reading {name}", unit="sample", disable=None)
            rows = [row for position in positions if (row := reader.read(name, position)) is not None]
            if not rows:
                raise ValueError(f"no sample of the split {name!r} has any feature; {reader.missing}")
            splits[name] = Dataset(pa.concat_tables(rows))
        return replace(labels, splits=DatasetDict(splits), missing=reader.missing)


class RowReader:
    """Reads samples one by one: the labels of a sample together with its features.

    Args:
        labels: result of `FileDataset.read_labels`, or a dataset that has all its columns.
        readers: reader of each modality without a column.

    Attributes:
        features: type of each column.
        missing: missing features and dropped samples so far.
    """

    def __init__(self, labels: AqaData, readers: Mapping[str, Reader]) -> None:
        self.labels, self.readers = labels, readers
        self.features = Features(next(iter(labels.splits.values())).features)
        for name, size in labels.modalities.items():
            if name in readers and name in self.features:
                raise ValueError(f"the modality {name!r} is called like a column of the labels; rename one of them")
            if name in readers:
                self.features[name] = List(List(Value("float32"), length=size))
            elif name not in self.features:
                columns = ", ".join(self.features)
                raise ValueError(f"there is no column of texts for the modality {name!r}; there are {columns}")
        self.missing = MissingSummary(samples=sum(map(len, labels.splits.values())))
        self._schema = self.features.arrow_schema
        self._splits = {name: split.with_format("arrow") for name, split in labels.splits.items()}

    def read(self, split: str, position: int) -> pa.Table | None:
        """Read a sample as a table of one row; None, and noted as dropped, if it has no modality."""
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

    def _read_features(self, modality: str, sample_id: str) -> pa.Array:
        try:
            with refusing(f"sample {sample_id}", f"readable as {modality}"):
                clips, oddities = self.readers[modality](sample_id)
        except FeatureFileError as error:
            self.missing.features.append(MissingFeature(sample_id, modality, error.cause, str(error)))
            return pa.nulls(1)
        self.missing.odd += [MissingFeature(sample_id, modality, oddity, ODDITIES[oddity]) for oddity in oddities]
        return clips


def _in_memory(read: Reader) -> Reader:
    """Copy what is read: a process cannot keep thousands of files mapped."""

    def read_copy(sample_id: str) -> tuple[pa.ListArray, list[str]]:
        clips, oddities = read(sample_id)
        return clips.copy_to(pa.default_cpu_memory_manager()), oddities

    return read_copy


def locate(folder: str | Path, place: str | Path) -> Path:
    """Path of labels or features: a relative one starts at the folder of the dataset, `~` at the home folder."""
    return Path(folder) / os.path.expanduser(place)


def find_recipe(places: Iterable[Path]) -> Recipe | None:
    """The recipe that made the features at these places, where a recipe lies beside their folders.

    Raises:
        ValueError: they were made with several recipes, or a file is no recipe.
    """
    files = dict.fromkeys(place.parent / RECIPE_FILE for place in places if place.is_dir())
    recipes = {path: Recipe.load(path) for path in files if path.is_file()}
    if len({recipe.digest for recipe in recipes.values()}) > 1:
        raise ValueError(f"features of several recipes: {', '.join(map(str, recipes))}; extract all with the same one")
    return next(iter(recipes.values()), None)


def check_made_by(recipe: Recipe | None, sources: Mapping[str, FeatureSource]) -> dict[str, FeatureSource]:
    """The same sources, which refuse files of another recipe."""
    checked = dict(sources)
    for name in () if recipe is None else recipe.modalities:
        if isinstance(source := sources.get(name), FileSource):
            checked[name] = replace(source, recipe_digest=recipe.digest)
    return checked


def all_sample_ids(splits: Mapping[str, Dataset]) -> list[str]:
    """Ids of all samples in the order of the splits."""
    return [sample_id for split in splits.values() for sample_id in split.select_columns(["sample_id"])["sample_id"]]


def build_label_splits(labels: Mapping[str, Labels], score_names: Sequence[str]) -> DatasetDict:
    """Build splits without features from ids, scores and further columns; LabelError if a sample is in two splits."""
    check_apart(labels)
    splits = {}
    for split, table in labels.items():
        scores = {name: table.columns[name] for name in score_names}
        extra = {name: values.astype(np.float32) for name, values in table.columns.items() if name not in scores}
        extra |= {name: pa.array(values, pa.string()) for name, values in table.texts.items()}
        splits[split] = build_split(table.sample_ids, scores, {}, extra)
    return DatasetDict(splits)


def hold_out_fold(labels: Labels, column: str, fold: int) -> dict[str, Labels]:
    """Divide samples into `train` and `test`, which has those with this fold in a column of whole numbers.

    Raises:
        LabelError: no sample is in the fold, or every one is.
    """
    folds = labels.texts[column]
    rows = {"train": [], "test": []}
    for row, found in enumerate(folds):
        rows["test" if found == str(fold) else "train"].append(row)
    if not rows["train"] or not rows["test"]:
        known = ", ".join(sorted({str(found) for found in folds}))
        raise LabelError(f"{labels.path}: fold is {fold!r}, the folds of {column} are {known}; give one of several")
    return {split: labels.select(chosen) for split, chosen in rows.items()}


def choose_scores(dataset: str, scores: str | Sequence[str] | None, allowed: Iterable[str]) -> list[str]:
    """Names of the scores to learn, by default all; ValueError if there is none, or one is repeated or unknown."""
    allowed = list(allowed)
    chosen = allowed if scores is None else [scores] if isinstance(scores, str) else list(scores)
    if not chosen or len(set(chosen)) < len(chosen) or not set(chosen) <= set(allowed):
        raise ValueError(f"{dataset}: scores is {chosen}, allowed: one or more of {', '.join(allowed)}")
    return chosen


def choose_modalities(
    dataset: str,
    wanted: Mapping[str, int | str | None] | Sequence[str] | None,
    default: Mapping[str, int | None],
    features: Mapping[str, str | Path],
) -> dict[str, int | str | None]:
    """Size of each modality, None where it is not given.

    Args:
        dataset: name of the dataset, for error messages.
        wanted: sizes by name, or names; by default all of `default`.
        default: sizes by name.
        features: places by name; ValueError if one belongs to no modality.
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


class ModalityFolders:
    """Mixin of a `FileDataset` with a subfolder of feature files for each modality: `<modality>/<id>.npy`.

    It uses the attributes `name`, `folder`, `modalities`, `features` and `zeros_are_missing`, see `Folder`.
    """

    def sources(self, labels: AqaData) -> dict[str, FeatureSource]:
        """Source of each modality of features."""
        rules = {"zeros_are_missing": self.zeros_are_missing}
        sizes = {name: size for name, size in labels.modalities.items() if size != TEXT}
        return {name: FileSource(self._place(name), size, **rules) for name, size in sizes.items()}

    def sizes(self, splits: DatasetDict) -> dict[str, int | str]:
        """Feature size of each modality, or `"text"`; by default that of most of the first files.

        Raises:
            ValueError: there is no modality, a size is wrong, a modality has no file or `features` names another one.
        """
        known = self._known_sizes()
        sizes = choose_modalities(self.name, self.modalities, known, self.features)
        for name, size in sizes.items():
            size = known.get(name) if size is None else size
            sizes[name] = self._width(name, all_sample_ids(splits)) if size is None else size
            if size not in (None, TEXT) and (type(size) is not int or size < 1):
                raise ValueError(
                    f"{self.name}: modality {name!r} has feature size {size!r}, expected 1 or more, or text"
                )
        return sizes

    def _known_sizes(self) -> dict[str, int | None]:
        """Default modalities, with their sizes where they are known before a file is read."""
        return dict.fromkeys(self._subfolders()) if self.modalities is None else {}

    def _place(self, modality: str) -> Path:
        return locate(self.folder, self.features.get(modality, modality))

    def _subfolders(self) -> list[str]:
        """Sorted names of the subfolders with a feature file at any depth, then those in `features`."""
        places = [place for place in sorted(self.folder.glob("*")) if place.is_dir() and not is_hidden(place.name)]
        found = [place.name for place in places if any(path.suffix in SUFFIXES for path in walk_files(place))]
        found += [name for name in self.features if not (self.folder / name).is_dir()]
        if not found:
            expected = f"subfolder of {' or '.join(SUFFIXES)} files; expected <modality>/<id>.npy"
            raise ValueError(f"{self.name}: {self.folder} has no {expected}")
        return found

    def _width(self, modality: str, sample_ids: Sequence[str]) -> int:
        """Width of most of the first readable files of a modality."""
        place, errors = self._place(modality), []
        counts = Counter(islice(_widths(place, sample_ids, errors), EXAMINED_FILES))
        if not counts:
            unreadable = [error for error in errors if error.cause != "missing file"]
            raise ValueError(
                f"{self.name}: {place} has no readable feature file of any sample; the first is "
                f"{(unreadable or errors)[0]}. Give the size of {modality!r} in modalities={{...}}, or leave the "
                "modality out"
            )
        width = counts.most_common(1)[0][0]
        if len(counts) > 1:
            message = "%s: features of %r differ in width, %s; expected is %d"
            logger.warning(message, self.name, modality, dict(counts), width)
        return width


def _widths(place: Path, sample_ids: Iterable[str], errors: list[FeatureFileError]) -> Iterator[int]:
    """Widths of the features that can be read; what is wrong with the others is added to `errors`."""
    for sample_id in sample_ids:
        try:
            shape = open_array(feature_path(place, sample_id)).shape
        except FeatureFileError as error:
            errors.append(error)
            continue
        shape = shape[1:] if len(shape) == 3 and shape[0] == 1 else shape  # as `drop_leading_one`
        if len(shape) == 2 and shape[1]:
            yield shape[1]
        else:
            errors.append(FeatureFileError(f"{place / sample_id}: the array has shape {list(shape)}"))


@dataclass
class PublishedDataset(FileDataset):
    """A dataset with label files and features under published names.

    Args:
        folder: folder of the label files and the features.
        scores: scores to learn; the others stay as further columns.
        modalities: modalities to use: names, or sizes by name if the features are not the published ones.
        features: other places of features: modality -> folder with one file a sample, or pickled table. A relative
            path starts at `folder`, here and in the following.
        train_labels: label file of the training split.
        test_labels: label file of the test split.
        max_clips: clips that a processor keeps.
        zeros_are_missing: take features that are all zero for missing.
    """

    folder: str | Path
    scores: list[str] | None = None
    modalities: dict[str, int] | list[str] | None = None
    features: dict[str, str] = field(default_factory=dict)
    train_labels: str = "train.txt"
    test_labels: str = "test.txt"
    max_clips: int = 0
    zeros_are_missing: bool = False

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
        return self.transform_labels(read_label_table(locate(self.folder, name), self.label_columns))

    def transform_labels(self, labels: Labels) -> Labels:
        """Labels of the dataset, given those of a file."""
        return labels

    def sizes(self, splits: DatasetDict) -> dict[str, int]:
        """Feature size of each modality."""
        return dict(self.modalities)

    def read_labels(self) -> AqaData:
        labels = {"train": self.read_split(self.train_labels), "test": self.read_split(self.test_labels)}
        for split, table in labels.items():
            for name, highest in self.score_ranges.items():
                check_range(table, name, 0, highest)
            found, official = len(table.sample_ids), self.official_counts[split]
            if found != official:
                logger.warning(
                    "%s: the split %s has %d samples (%s), the official one has %d; results cannot be compared with "
                    "published ones",
                    *(self.name, split, found, table.path, official),
                )
        splits, recipe = build_label_splits(labels, self.scores), self._find_recipe()
        return AqaData(
            splits=splits,
            modalities=self.sizes(splits),
            score_names=self.scores,
            score_minimums=[0.0] * len(self.scores),
            score_ranges=[float(self.score_ranges[name]) for name in self.scores],
            max_clips=self.max_clips,
            description=f"{self.title}, official split",
            recipe=None if recipe is None else recipe.to_dict(),
        )

    def sources(self, labels: AqaData) -> dict[str, FeatureSource]:
        sources = {name: self.source(name, place) for name, place in self.features.items()}
        return check_made_by(self._find_recipe(), sources)

    def _find_recipe(self) -> Recipe | None:
        return find_recipe(locate(self.folder, place) for place in self.features.values())

    def source(self, modality: str, place: str) -> FeatureSource:
        """Source of a modality at a place: a folder of files or a table."""
        path, size = locate(self.folder, place), self.modalities[modality]
        is_folder = path.is_dir() or not path.suffix
        if is_folder:
            return FileSource(path, size, self.average_views, self.zeros_are_missing)
        return TableSource(path, size, self.zeros_are_missing)
