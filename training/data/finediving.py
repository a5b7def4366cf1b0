"""FineDiving: 3,000 dives of 52 types with the judges' scores."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .aqa_data import AqaData
from .file_dataset import FileDataset, all_sample_ids, build_label_splits, choose_scores
from .sources.files import FeatureSource, ModalityFolders
from .sources.labels import LabelError, Labels, check_range, check_repeated, compare_counts
from .sources.tables import load_restricted

OFFICIAL_COUNTS = {"train": 2251, "test": 749}
ANNOTATIONS = "fine-grained_annotation_aqa.pkl"

# Highest value of each score, as in MTL-AQA, which is marked by the same rules; the lowest is 0. `execution` is the
# sum of the counted judges' marks.
SCORE_RANGES = {"score": 104.5, "execution": 30.0}


@dataclass
class FineDiving(FileDataset):
    """FineDiving from its annotations and your own features; none are published.

        FineDiving/
            Annotations/fine-grained_annotation_aqa.pkl     (competition, n) -> dive number, score, difficulty, ...
            Annotations/train_split.pkl                     2,251 keys
            Annotations/test_split.pkl                      749 keys
            video/<competition>/<n>.npy                     [clips, dim]; every subfolder with features is a modality

    The pickles may also be in `folder` itself. The id of a sample is `<competition>/<n>`. Further columns:
    `competition`, `dive_number`, `difficulty` and the score that is not learnt.

    Args:
        folder: folder as above.
        scores: `score` (final score, 0 to 104.5) and/or `execution` (final score / difficulty, 0 to 30).
        modalities: names, or sizes by name; by default all subfolders with features, as wide as their files.
        features: folders of modalities that are not subfolders of that name.
        max_clips: clips that a processor keeps; a dive has 96 frames.
    """

    folder: str | Path
    scores: list[str] | None = ("score",)
    modalities: dict[str, int] | list[str] | None = None
    features: dict[str, str] = field(default_factory=dict)
    max_clips: int = 96

    def __post_init__(self) -> None:
        self.scores = choose_scores("finediving", self.scores, SCORE_RANGES)
        self.folder = Path(self.folder)
        self.folders = ModalityFolders("finediving", self.folder, self.features)

    def read_labels(self) -> AqaData:
        path = self._find(ANNOTATIONS)
        annotations = load_restricted(path)
        if not isinstance(annotations, dict):
            raise LabelError(f"{path}: holds {type(annotations).__name__}, expected (competition, n) -> annotation")
        labels = {split: self._labels(split, annotations, path) for split in OFFICIAL_COUNTS}
        splits = build_label_splits(labels, self.scores)
        compare_counts("finediving", labels, OFFICIAL_COUNTS)
        return AqaData(
            splits=splits,
            modalities=self.folders.sizes(self.modalities, all_sample_ids(splits)),
            score_names=self.scores,
            score_minimums=[0.0] * len(self.scores),
            score_ranges=[SCORE_RANGES[name] for name in self.scores],
            max_clips=self.max_clips,
            description="FineDiving, official split",
        )

    def sources(self, labels: AqaData) -> dict[str, FeatureSource]:
        return self.folders.sources(labels.modalities)

    def _find(self, name: str) -> Path:
        places = [self.folder / "Annotations" / name, self.folder / name]
        found = next((path for path in places if path.is_file()), None)
        if found is None:
            raise FileNotFoundError(
                f"finediving: neither {places[0]} nor {places[1]} is there; give as folder the one that holds the "
                "annotations, which the authors hand out on request"
            )
        return found

    def _labels(self, split: str, annotations: dict, source: Path) -> Labels:
        path = self._find(f"{split}_split.pkl")
        keys = load_restricted(path)
        if not isinstance(keys, list | tuple) or not all(map(_is_key, keys)):
            raise LabelError(f"{path}: expected a list of (competition, n)")
        rows = [_dive(tuple(key), annotations, source) for key in keys]
        sample_ids = [f"{competition}/{number}" for competition, number in keys]
        check_repeated(path, sample_ids)
        names, scores, difficulties = (list(column) for column in zip(*rows, strict=True)) if rows else ([], [], [])
        score, difficulty = np.array(scores, dtype=np.float64), np.array(difficulties, dtype=np.float64)
        columns = {"score": score, "execution": score / difficulty, "difficulty": difficulty}
        texts = {"competition": [str(competition) for competition, _ in keys], "dive_number": names}
        labels = Labels(source, sample_ids, None, columns, texts)
        for name, highest in SCORE_RANGES.items():
            check_range(labels, name, 0, highest)
        return labels


def _is_key(key: Any) -> bool:
    return isinstance(key, list | tuple) and len(key) == 2 and all(isinstance(part, str | int) for part in key)


def _dive(key: tuple, annotations: dict, path: Path) -> tuple[str, float, float]:
    """Dive number, score and difficulty of a dive.

    Raises:
        LabelError: the dive has no annotation or a wrong one.
    """
    annotation: Any = annotations.get(key)
    if annotation is None:
        raise LabelError(f"{path}: there is no dive {key}, which a split lists; fetch the annotations again")
    try:
        number, score, difficulty = str(annotation[0]), float(annotation[1]), float(annotation[2])
    except (TypeError, ValueError, LookupError) as error:
        raise LabelError(f"{path}: dive {key} has {annotation!r}, expected dive number, score, difficulty") from error
    if not np.isfinite(score) or not difficulty > 0:
        raise LabelError(f"{path}: dive {key} has score {score} and difficulty {difficulty}, expected numbers above 0")
    return number, score, difficulty
