"""Rhythmic Gymnastics: routines with ball, clubs, hoop and ribbon."""

from dataclasses import dataclass, replace
from typing import ClassVar

from .aqa_data import AqaData
from .file_dataset import PublishedDataset, all_sample_ids
from .sources.files import FeatureSource
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

    The id of a routine begins with its apparatus (`Ball_001`); there are 200 and 50 of each. Scores: `total` by
    default (0 to 25: difficulty and execution less penalties), `difficulty` (0 to 15) and `execution` (0 to 10).
    Further columns: the other scores, `apparatus`.

    Args:
        apparatus: `Ball`, `Clubs`, `Hoop`, `Ribbon` or a list of them; all four by default.
        features: as everywhere, but `{apparatus}` in a path is replaced by the apparatus.
    """

    max_clips: int = 68
    scores: list[str] | None = ("total",)
    apparatus: str | list[str] = APPARATUS

    name: ClassVar = "rhythmic_gymnastics"
    title: ClassVar = "Rhythmic Gymnastics"
    # Published for the total alone. Execution is marked out of 10, which leaves 15 of 25 (highest available: 14.8).
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

    @property
    def official_counts(self) -> dict[str, int]:
        return {"train": 200 * len(self.apparatus), "test": 50 * len(self.apparatus)}

    def judge(self, labels: Labels) -> Labels:
        apparatus = [_apparatus_of(sample_id) for sample_id in labels.sample_ids]
        if None in apparatus:
            raise LabelError(
                f"{labels.where(apparatus.index(None))}: the id begins with none of {', '.join(APPARATUS)}"
            )
        rows = [row for row, name in enumerate(apparatus) if name in self.apparatus]
        if not rows:
            raise LabelError(f"{labels.path}: there is no routine with {', '.join(self.apparatus)}")
        return replace(labels, texts={"apparatus": apparatus}).select(rows)

    def index(self) -> AqaData:
        index = super().index()
        return replace(index, description=f"{self.title} ({', '.join(self.apparatus)}), official split")

    def sources(self, index: AqaData) -> list[FeatureSource]:
        sample_ids = all_sample_ids(index.splits)
        return [
            self._source(
                modality,
                [sample_id for sample_id in sample_ids if _apparatus_of(sample_id) == name],
                place.replace("{apparatus}", name),
            )
            for modality, place in self.features.items()
            for name in self.apparatus
        ]


def _apparatus_of(sample_id: str) -> str | None:
    return next((name for name in APPARATUS if sample_id.startswith(f"{name}_")), None)
