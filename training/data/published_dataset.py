"""What FS1000, Fis-V and Rhythmic Gymnastics share: text files of labels, features under published names."""

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from .aqa_data import AqaData
from .feature_sources import FeatureSource, FileSource, TableSource
from .file_dataset import FileDataset, all_sample_ids, build_index, choose_modalities, choose_scores
from .label_files import Labels, check_range, compare_counts, read_label_table


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
