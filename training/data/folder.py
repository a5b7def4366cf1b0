"""Your own data: a CSV of labels and a subfolder of feature files for each modality."""

import json
import logging
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from datasets import DatasetDict

from ...configuration.configuration_limssr import TEXT
from ...processing.recipes_limssr import Recipe
from ...processing.recordings_limssr import Recording
from .aqa_data import AqaData
from .file_dataset import RECIPE_FILE, FileDataset, ModalityFolders, build_label_splits, check_made_by, locate
from .masked_dataset import row_extents
from .sources.files import FeatureSource
from .sources.labels import LabelError, Labels, check_range, parse_number, path_of_cell, read_csv, read_label_csv
from .sources.recordings import (
    COLUMN,
    PART,
    RECORDINGS,
    RecipeSource,
    find_recordings,
    read_recording,
    read_texts,
)

logger = logging.getLogger(__name__)

SPLITS = ("train", "validation", "test")


@dataclass
class Folder(ModalityFolders, FileDataset):
    """Your own data.

        my_data/
            labels.csv                  sample_id,score,split; a split is train, validation or test
            video/<sample_id>.npy       [clips, dim], or .safetensors with one tensor
            audio/<sample_id>.npy       any names, any number of modalities, any width
            recipe.json                 the recipe that made them, where `limssr extract` did

    With `recipe`, features are made of `recordings/<sample_id>.mp4` (any format of FFmpeg), or of the files that a
    column of `labels.csv` names, and of texts in a column of the modality's name, each time they are read; `limssr
    extract` or `limssr prepare` make them once.

    A sample may lack a file or a score. `validation` is optional. A sample id may contain slashes, for subfolders.

    Args:
        folder: folder as above.
        scores: score columns of `labels.csv`; by default all but `sample_id` and `split`. Other columns stay as text.
        score_ranges: lowest and highest value of each score by the judges' rules, `{score: [0, 100]}`. By default the
            lowest and highest of the training split, which then also limit the predictions.
        modalities: names, or sizes by name; by default all subfolders with feature files, as wide as their files.
            `{notes: text, video: null}`: `notes` is a text column of `labels.csv`, `video` as wide as its files.
        features: folders of modalities that are not subfolders of that name.
        labels: CSV file; a relative path starts at `folder`.
        max_clips: clips that a processor keeps.
        zeros_are_missing: take features that are all zero for missing.
        recipe: name or JSON file of a recipe; its modalities are made of recordings, or of texts.
        recordings: folder of the recordings; by default the column `recording` of `labels.csv` has their paths, and
            where there is none they are in `recordings/`. Relative paths start at `folder`. Columns `start` and `end`
            are the seconds of the part that counts.
        outside_paths: paths in that column may lead out of `folder`.
    """

    folder: str | Path
    scores: list[str] | None = None
    score_ranges: dict[str, list[float]] = field(default_factory=dict)
    modalities: dict[str, int | str | None] | list[str] | None = None
    features: dict[str, str] = field(default_factory=dict)
    labels: str = "labels.csv"
    max_clips: int = 128
    zeros_are_missing: bool = False
    recipe: str | Path | None = None
    recordings: str | None = None
    outside_paths: bool = False

    name: ClassVar = "folder"

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        self.scores = [self.scores] if isinstance(self.scores, str) else self.scores
        self.score_ranges = {name: _read_limits(name, limits) for name, limits in self.score_ranges.items()}

    def read_labels(self) -> AqaData:
        labels = self._read_csv()
        scores = list(labels["train"].columns)
        recipe = self._find_recipe()
        ranges = self._ranges(labels)
        splits = build_label_splits(labels, scores)
        return AqaData(
            splits=splits,
            modalities=self.sizes(splits),
            score_names=scores,
            score_minimums=[float(lowest) for lowest, _ in ranges],
            score_ranges=[float(highest - lowest) for lowest, highest in ranges],
            max_clips=self.max_clips,
            description=f"{self.folder.resolve().name}, own data",
            recipe=None if recipe is None else recipe.to_dict(),
        )

    def sources(self, labels: AqaData) -> dict[str, FeatureSource]:
        sources = super().sources(labels)
        if labels.recipe is None:
            return sources
        recipe = Recipe.load(labels.recipe)
        if self.recipe is None:  # made before
            return check_made_by(recipe, sources)
        recorded = [name for name in recipe.recorded if name in sources]
        recordings = self._find_recordings(labels.splits) if recorded else {}
        texts = read_texts(locate(self.folder, self.labels), [name for name in recipe.written if name in sources])
        contents = dict.fromkeys(recorded, recordings) | texts
        made = {name: RecipeSource(json.dumps(labels.recipe), name, each) for name, each in contents.items()}
        return sources | made

    def _known_sizes(self) -> dict[str, int | None]:
        return super()._known_sizes() if self.recipe is None else Recipe.load(self.recipe).feature_sizes

    def _find_recipe(self) -> Recipe | None:
        """The recipe asked for, or that of the features in the folder."""
        path = self.folder / RECIPE_FILE
        return Recipe.load(self.recipe or path) if self.recipe or path.is_file() else None

    def _find_recordings(self, splits: DatasetDict) -> dict[str, Recording]:
        """Sample id -> recording, without the samples that have none."""
        if self.recordings is not None or COLUMN not in splits["train"].column_names:
            return find_recordings(locate(self.folder, self.recordings or RECORDINGS))
        found = {}
        for row in chain.from_iterable(splits.values()):
            if row[COLUMN] is not None:
                part = (row.get(name) for name in PART)
                where = f"{self.folder / self.labels}, sample {row['sample_id']!r}"
                path = path_of_cell(self.folder, row[COLUMN], where, self.outside_paths)
                found[row["sample_id"]] = read_recording(path, *part, where)
        return found

    def load(self) -> AqaData:
        data = super().load()
        longest = {}
        for split in data.splits.values():
            for extent in row_extents(split, [name for name, size in data.modalities.items() if size != TEXT]):
                longest |= {name: max(clips, longest.get(name, 0)) for name, clips in extent.items()}
        if cropped := [f"{name} {clips}" for name, clips in longest.items() if clips > self.max_clips]:
            kept = f"max_clips={self.max_clips}"
            logger.warning("folder: samples have up to %s clips, of which %s are kept", ", ".join(cropped), kept)
        return data

    def _read_csv(self) -> dict[str, Labels]:
        path = locate(self.folder, self.labels)
        header, _ = read_csv(path)
        sizes = self.modalities if isinstance(self.modalities, dict) else {}
        text_modalities = [name for name, size in sizes.items() if size == TEXT]
        recipe = self._find_recipe()
        made_of = [] if recipe is None else [name for name in recipe.written if name not in text_modalities]
        others = [name for name in header if name not in ("sample_id", "split", *made_of)]
        no_scores = [*text_modalities, *([] if self.recipe is None else [COLUMN, *PART])]
        scores = [name for name in others if name not in no_scores] if self.scores is None else list(self.scores)
        texts = dict.fromkeys(["split", *text_modalities, *(name for name in others if name not in scores)])
        table = read_label_csv(path, scores, list(texts))
        if not scores:
            raise LabelError(f"{path}: there is no column of scores beside {', '.join(header)}")
        split = table.texts.pop("split")
        for row, name in enumerate(split):
            if name not in SPLITS:
                raise LabelError(f"{table.where(row)}: split is {name!r}, expected one of {', '.join(SPLITS)}")
        rows = {name: [row for row, value in enumerate(split) if value == name] for name in SPLITS}
        if lacking := [name for name in ("train", "test") if not rows[name]]:
            raise LabelError(f"{path}: no sample is in the split {lacking[0]}")
        return {name: table.select(rows[name]) for name in SPLITS if rows[name]}

    def _ranges(self, labels: dict[str, Labels]) -> list[tuple[float, float]]:
        """Lowest and highest value of each score."""
        train = labels["train"].columns
        if unknown := [name for name in self.score_ranges if name not in train]:
            raise ValueError(f"folder: score_ranges names {unknown[0]!r}; the scores are {', '.join(train)}")
        ranges = []
        for name, values in train.items():
            if name in self.score_ranges:
                lowest, highest = self.score_ranges[name]
                for table in labels.values():
                    check_range(table, name, lowest, highest)
            else:
                lowest, highest = _observed_range(name, values, labels["train"].path)
            ranges.append((lowest, highest))
        return ranges


def _read_limits(name: str, limits: Any) -> list[float]:
    """Lowest and highest value of a score; YAML reads a number such as 1e2 as a string."""
    if isinstance(limits, list | tuple) and len(limits) == 2:
        lowest, highest = (parse_number(str(limit), f"folder: score_ranges of {name!r}") for limit in limits)
        if lowest < highest:
            return [lowest, highest]
    raise ValueError(f"folder: score_ranges of {name!r} is {limits!r}, expected [lowest, highest]")


def _observed_range(name: str, values: np.ndarray, path: Path) -> tuple[float, float]:
    given = values[~np.isnan(values)]
    if not len(given) or given.min() == given.max():
        raise LabelError(f"{path}: {name} of the training samples has no two different values; nothing can be learnt")
    logger.warning(
        "folder: predictions of %s stay within %g to %g, as in the training split; "
        "score_ranges={%s: [lowest, highest]} says what is possible",
        *(name, given.min(), given.max(), name),
    )
    return given.min(), given.max()
