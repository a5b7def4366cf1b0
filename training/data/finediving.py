"""FineDiving: 3,000 dives of 52 types with the judges' scores."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from .file_dataset import ModalityFolders, PublishedDataset, choose_scores
from .sources.labels import LabelError, Labels, check_repeated
from .sources.pickles import load_restricted

ANNOTATIONS = "fine-grained_annotation_aqa.pkl"


@dataclass
class FineDiving(ModalityFolders, PublishedDataset):
    """FineDiving from its annotations and your own features; none are published.

        FineDiving/
            Annotations/fine-grained_annotation_aqa.pkl     (competition, n) -> dive number, score, difficulty, ...
            Annotations/train_split.pkl                     2,251 keys
            Annotations/test_split.pkl                      749 keys
            video/<competition>/<n>.npy                     [clips, dim]; every subfolder with features is a modality

    The pickles may also be in `folder` itself. The id of a sample is `<competition>/<n>`. Scores: `score`, the default
    (final score, 0 to 104.5), and `execution` (final score / difficulty, 0 to 30). Further columns: `competition`,
    `dive_number`, `difficulty` and the other score.

    Args:
        modalities: names, or sizes by name; by default all subfolders with features, as wide as their files.
        features: folders of modalities that are not subfolders of that name.
    """

    scores: list[str] | None = ("score",)
    train_labels: str = "train_split.pkl"
    test_labels: str = "test_split.pkl"
    max_clips: int = 96

    name: ClassVar = "finediving"
    title: ClassVar = "FineDiving"
    # As in MTL-AQA, which is marked by the same rules; `execution` is the sum of the counted judges' marks.
    score_ranges: ClassVar = {"score": 104.5, "execution": 30.0}
    official_counts: ClassVar = {"train": 2251, "test": 749}

    def __post_init__(self) -> None:
        self.scores = choose_scores(self.name, self.scores, self.score_ranges)
        self.folder = Path(self.folder)

    def read_split(self, name: str) -> Labels:
        source, path = self._find(ANNOTATIONS), self._find(name)
        annotations, keys = load_restricted(source), load_restricted(path)
        if not isinstance(annotations, dict):
            raise LabelError(f"{source}: holds {type(annotations).__name__}, expected (competition, n) -> annotation")
        if not isinstance(keys, list | tuple) or not all(map(_is_key, keys)):
            raise LabelError(f"{path}: expected a list of (competition, n)")
        rows = [_dive(tuple(key), annotations, source) for key in keys]
        sample_ids = [f"{competition}/{number}" for competition, number in keys]
        check_repeated(path, sample_ids)
        score, difficulty = (np.array([row[column] for row in rows], dtype=np.float64) for column in (1, 2))
        columns = {"score": score, "execution": score / difficulty, "difficulty": difficulty}
        texts = {"competition": [str(competition) for competition, _ in keys], "dive_number": [row[0] for row in rows]}
        return Labels(source, sample_ids, None, columns, texts)

    def _find(self, name: str) -> Path:
        places = [self.folder / "Annotations" / name, self.folder / name]
        found = next((path for path in places if path.is_file()), None)
        if found is None:
            raise FileNotFoundError(
                f"finediving: neither {places[0]} nor {places[1]} is there; give as folder the one that holds the "
                "annotations, which the authors hand out on request"
            )
        return found


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
