"""Rhythmic Gymnastics: routines with ball, clubs, hoop and ribbon."""

from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from .aqa_data import AqaData
from .file_dataset import PublishedDataset
from .sources.files import FeatureSource, Reader
from .sources.labels import LabelError, Labels

APPARATUS = ("Ball", "Clubs", "Hoop", "Ribbon")


@dataclass
class RhythmicGymnastics(PublishedDataset):
    """Rhythmic Gymnastics (RG) from its published label files and feature tables.

        RG/
            train.txt                               800 lines below a header: id Difficulty Execution Total ...
            test.txt                                200 lines below a header
            RG-feature/<apparatus>_rgb_VST.npy      pickled table id -> [clips, 1024], Video Swin: `video`
            RG-feature/<apparatus>_audio_AST.npy    id -> [clips, 768], AST: `audio`
            RG-feature/<apparatus>_flow_I3D.npy     id -> [clips, 1024], I3D: `flow`

    The id of a routine starts with its apparatus (`Ball_001`); each apparatus has 200 training and 50 test routines.
    Scores: `total`, the default (0 to 25: difficulty and execution less penalties), `difficulty` (0 to 15) and
    `execution` (0 to 10). Further columns: the other scores and `apparatus`.

    Args:
        apparatus: `Ball`, `Clubs`, `Hoop`, `Ribbon` or a list of them; by default all four.
        features: as in `PublishedDataset`, with `{apparatus}` in a path replaced by the apparatus.
    """

    max_clips: int = 68
    scores: list[str] | None = ("total",)
    apparatus: str | list[str] = APPARATUS

    name: ClassVar = "rhythmic_gymnastics"
    # Published for the total only. Execution is marked out of 10, which leaves 15 of 25 (highest observed: 14.8).
    score_ranges: ClassVar = {"difficulty": 15, "execution": 10, "total": 25}
    label_columns: ClassVar = tuple(score_ranges)
    feature_sizes: ClassVar = {"video": 1024, "audio": 768, "flow": 1024}
    feature_places: ClassVar = {
        "video": "RG-feature/{apparatus}_rgb_VST.npy",
        "audio": "RG-feature/{apparatus}_audio_AST.npy",
        "flow": "RG-feature/{apparatus}_flow_I3D.npy",
    }

    def __post_init__(self) -> None:
        super().__post_init__()
        self.apparatus = [self.apparatus] if isinstance(self.apparatus, str) else list(self.apparatus)
        if not self.apparatus or not set(self.apparatus) <= set(APPARATUS):
            raise ValueError(
                f"{self.name}: apparatus is {self.apparatus}, allowed: one or more of {', '.join(APPARATUS)}"
            )

        self.title = f"Rhythmic Gymnastics ({', '.join(self.apparatus)})"
        self.official_counts = {"train": 200 * len(self.apparatus), "test": 50 * len(self.apparatus)}

    def transform_labels(self, labels: Labels) -> Labels:
        apparatus = [_apparatus_of(sample_id) for sample_id in labels.sample_ids]
        for row, name in enumerate(apparatus):
            if name not in APPARATUS:
                raise LabelError(f"{labels.where(row)}: the id begins with none of {', '.join(APPARATUS)}")
        rows = [row for row, name in enumerate(apparatus) if name in self.apparatus]
        if not rows:
            raise LabelError(f"{labels.path}: there is no routine with {', '.join(self.apparatus)}")
        return replace(labels, texts={"apparatus": apparatus}).select(rows)

    def sources(self, labels: AqaData) -> dict[str, FeatureSource]:
        return {
            modality: ApparatusSource(
                {name: self.source(modality, place.replace("{apparatus}", name)) for name in self.apparatus}
            )
            for modality, place in self.features.items()
        }


@dataclass(frozen=True)
class ApparatusSource:
    """The features of one modality, with a source for each apparatus."""

    source_of: dict[str, FeatureSource]

    def open(self, cache: Path | None = None) -> Reader:
        readers = {
            name: source.open(None if cache is None else cache.with_name(f"{cache.name}-{name}"))
            for name, source in self.source_of.items()
        }
        return partial(_read, readers)


def _read(readers: dict[str, Reader], sample_id: str) -> tuple[pa.ListArray, list[str]]:
    return readers[_apparatus_of(sample_id)](sample_id)


def _apparatus_of(sample_id: str) -> str:
    return sample_id.partition("_")[0]
