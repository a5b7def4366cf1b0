"""PercePiano: 1,189 piano performances with listeners' ratings."""

import logging
from dataclasses import dataclass
from pathlib import Path

from .aqa_data import AqaData
from .file_dataset import FileDataset, build_label_splits, choose_scores, hold_out_fold
from .sources.archives import ArchiveSource
from .sources.files import FeatureSource
from .sources.labels import check_range, read_label_csv
from .sources.midi import FEATURE_SIZES, MidiSource

logger = logging.getLogger(__name__)

SCORES = (
    *("timing_stability", "articulation_length", "articulation_touch", "pedal_amount", "pedal_clarity"),
    *("timbre_variety", "timbre_depth", "timbre_brightness", "timbre_loudness", "dynamics_sophistication"),
    *("dynamics_range", "tempo", "space", "balance", "drama", "mood_valence", "mood_energy", "mood_imagination"),
    "interpretation",
)
LOWEST, HIGHEST = 1.0, 7.0
MACHINES = ("Score", "Score2")  # performers that are renderings of the score
GROUPS = {"performers_held_out": "performer", "segments_held_out": "segment"}
SOURCES = ("features", "midi")


@dataclass
class PercePiano(FileDataset):
    """PercePiano: segments of 4 to 16 bars by 22 performers, each rated by 4 to 19 listeners on 19 scales of 1 to 7.

        percepiano/
            labels.csv      sample_id,performer,segment,performer_fold,segment_fold, each score, each <score>_sd
            features.npz    n, timing, dynamics, pedal, pitch: half seconds in the order of labels.csv
            midi.zip        <sample_id>.mid; or a folder midi/

    Modalities, one clip each half second: `timing` (6 features), `dynamics` (5), `pedal` (4) and `pitch` (5), see
    `sources.midi`. Further columns: `performer`, `segment`, their folds, the scores that are not chosen and
    `<score>_deviation`, the standard deviation of the listeners (divided by their number, not by one less). Validation
    holds back performers, or segments, like the test split.

    Most of what tells two samples apart is the segment, so results on `segments_held_out` belong beside those on
    `performers_held_out`.

    Source: https://github.com/JonghoKimSNU/PercePiano, MIT licence. Park et al., "PercePiano: a benchmark for
    perceptual evaluation of piano performance", Scientific Reports 14 (2024).

    Args:
        folder: folder as above.
        split: `performers_held_out` or `segments_held_out`.
        fold: fold of the performers, or segments, that are the test split, 0 to 4.
        scores: scores to learn, by default all 19.
        human_only: leave out the two machine renderings of the score, `Score` and `Score2`.
        source: `features`, the archive, or `midi`, the same features from the notes themselves
            (`pip install "limssr[midi]"`).
        max_clips: clips that a processor keeps; the longest performance has 171.
    """

    folder: str | Path
    split: str = "performers_held_out"
    fold: int = 0
    scores: list[str] | None = None
    human_only: bool = False
    source: str = "features"
    max_clips: int = 171

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        for name, allowed in (("split", GROUPS), ("source", SOURCES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"percepiano: {name} is {getattr(self, name)!r}, allowed: {', '.join(allowed)}")
        self.scores = choose_scores("percepiano", self.scores, SCORES)

    def read_labels(self) -> AqaData:
        group = GROUPS[self.split]
        deviations = {f"{name}_sd": f"{name}_deviation" for name in SCORES}
        texts = ["performer", "segment", "performer_fold", "segment_fold"]
        table = read_label_csv(self.folder / "labels.csv", [*SCORES, *deviations], texts)
        self._sample_ids = tuple(table.sample_ids)
        for name in SCORES:
            check_range(table, name, LOWEST, HIGHEST)
        table.columns = {deviations.get(name, name): values for name, values in table.columns.items()}
        if self.human_only:
            people = [row for row, performer in enumerate(table.texts["performer"]) if performer not in MACHINES]
            table = table.select(people)
        labels = hold_out_fold(table, f"{group}_fold", self.fold)
        performances = "human performances" if self.human_only else "performances"
        return AqaData(
            splits=build_label_splits(labels, self.scores),
            modalities=dict(FEATURE_SIZES),
            score_names=self.scores,
            score_minimums=[LOWEST] * len(self.scores),
            score_ranges=[HIGHEST - LOWEST] * len(self.scores),
            max_clips=self.max_clips,
            description=(
                f"PercePiano, {performances}, {group}s of fold {self.fold} held out, notes and pedals each half second"
            ),
            group_column=group,
        )

    def sources(self, labels: AqaData) -> dict[str, FeatureSource]:
        if self.source == "midi":
            place = next((path for path in (self.folder / "midi", self.folder / "midi.zip") if path.exists()), None)
            if place is None:
                raise FileNotFoundError(f"percepiano: {self.folder} has neither a folder midi nor midi.zip")
            return {name: MidiSource(place, name) for name in FEATURE_SIZES}
        archive = self.folder / "features.npz"
        return {name: ArchiveSource(archive, name, size, self._sample_ids) for name, size in FEATURE_SIZES.items()}
