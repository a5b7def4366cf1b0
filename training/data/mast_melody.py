"""MAST melody: melodies sung from memory at an entrance exam, beside how they were played."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from .aqa_data import AqaData, feature_column
from .file_dataset import FileDataset, build_label_splits, hold_out_fold
from .sources.archives import find_array, read_archive
from .sources.files import FeatureFileError, FeatureSource, Reader
from .sources.labels import LabelError, Labels, check_range, read_label_csv

logger = logging.getLogger(__name__)

GRADINGS = ("expert_a_first", "expert_a_second", "expert_b", "expert_c_first", "expert_c_second")
LOWEST, HIGHEST = 1.0, 4.0
MODALITIES = ("performance", "reference")
FEATURE_SIZE = 4
RUBATO = 0.03  # standard deviation, as a share of the melody


def resample(contour: np.ndarray, count: int, where: str) -> np.ndarray:
    """A contour at `count` equally spaced moments from its first to its last pitch, float64 (count, 2).

    Silences within get the pitch on the line between their neighbours, so that two renditions of a melody can be
    compared moment by moment, and keep their voiced share.

    Args:
        contour: (steps, 2), semitones above any pitch, NaN where there is none, and the voiced share of each step.
        count: number of moments.
        where: start of an error message.

    Raises:
        FeatureFileError: the contour is not of this shape, is infinite somewhere, or has no pitch at all.
    """
    if contour.ndim != 2 or contour.shape[1] != 2 or contour.dtype.kind != "f":
        raise FeatureFileError(f"{where}: shape {list(contour.shape)} of {contour.dtype}, expected numbers [steps, 2]")
    if np.isinf(contour).any():
        raise FeatureFileError(f"{where}: a step is infinite, expected a number or NaN", "non-finite")
    semitones, share = contour.T  # each (steps,)
    voiced = np.flatnonzero(~np.isnan(semitones))
    if not len(voiced):
        raise FeatureFileError(f"{where}: none of the {len(contour)} steps has a pitch", "empty")
    moments = np.linspace(voiced[0], voiced[-1], count)
    share = np.where(np.isnan(semitones), 0, share)
    return np.stack(
        [np.interp(moments, voiced, semitones[voiced]), np.interp(moments, np.arange(len(share)), share)], axis=1
    )


def encode_contour(contour: np.ndarray) -> np.ndarray:
    """Clips of a contour without gaps, one for each moment: float32 (clips, 4).

    Octaves above its median, so that a melody in another key looks the same; cosine and sine of the pitch class, which
    are equal an octave higher; the voiced share.
    """
    semitones, share = contour.T
    angle = 2 * np.pi * semitones / 12
    clips = [(semitones - np.median(semitones)) / 12, np.cos(angle), np.sin(angle), share]
    return np.stack(clips, axis=1).astype(np.float32)


def sing_otherwise(row: dict[str, Any], generator: np.random.Generator) -> dict[str, Any]:
    """A training row in another key, both contours alike, and sung with another rubato: its score is the same."""
    angle = generator.uniform(0, 2 * np.pi)
    rotation = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]], np.float32)
    changed = {name: np.array(row[name]) for name in MODALITIES if row.get(name) is not None}
    for clips in changed.values():
        clips[:, 1:3] = clips[:, 1:3] @ rotation  # pitch class, from its cosine and sine
    if "performance" in changed:
        changed["performance"] = _stretch(changed["performance"], *generator.normal(0, RUBATO, 2))
    return {**row, **changed}


def _stretch(clips: np.ndarray, bow: float, wave: float) -> np.ndarray:
    """Clips (clips, dim) at moments that run ahead or behind by up to about these shares of the whole."""
    time = np.linspace(0, 1, len(clips))
    moved = np.clip(time + bow * np.sin(np.pi * time) + wave * np.sin(2 * np.pi * time), 0, 1)
    return np.stack([np.interp(moved, time, column) for column in clips.T], axis=1).astype(np.float32)


@dataclass(frozen=True)
class ContourSource:
    """Contours of an archive as clips; of several recordings the median of each moment.

    Args:
        path: the archive.
        sample_ids: recordings of the archive in their order.
        recordings: sample id -> its recordings.
        clips: clips of a contour.
    """

    path: Path
    sample_ids: tuple[str, ...]
    recordings: dict[str, tuple[str, ...]]
    clips: int

    def open(self, cache: Path | None = None) -> Reader:
        """Read the archive; FeatureFileError if it cannot be used."""
        contours = read_archive(self.path, "contour", self.sample_ids)
        return partial(self._read, lru_cache(maxsize=None)(partial(self._encode, contours)))

    def _read(self, encode: Callable[[tuple[str, ...]], np.ndarray], sample_id: str) -> tuple[pa.ListArray, list[str]]:
        return feature_column(encode(self.recordings[sample_id]), [self.clips]), []

    def _encode(self, contours: dict[str, np.ndarray], recordings: tuple[str, ...]) -> np.ndarray:
        resampled = [
            resample(find_array(contours, recording, self.path), self.clips, f"{self.path}, {recording!r}")
            for recording in recordings
        ]
        return encode_contour(np.median(resampled, axis=0))


@dataclass
class MastMelody(FileDataset):
    """MAST melody: 996 sung performances of 39 melodies, each beside the melody as it was to be sung.

        mast_melody/
            labels.csv      sample_id,melody,kind,melody_fold, five gradings of 1 to 4, score; kind: performance or
                            reference
            contours.npz    n, contour: pitch in steps of 50 ms, in the order of labels.csv, see `encode_contour`

    Samples are the performances; one without a score is left out. `score` is the mean of five gradings by three
    experts, 1 to 4. Modalities: `performance`, its contour, and `reference`, the median of the 22 to 111 recordings of
    its melody, both stretched to the same number of clips, see `encode_contour`; the score lies in their comparison.
    Further columns: `melody`, `melody_fold` and `score_deviation`, the standard deviation of the gradings (divided by
    their number, not by one less). Validation holds back melodies, like the test split.
    Training draws another key and rubato in each epoch, see `sing_otherwise`.

    Source: https://github.com/barisbozkurt/MASTmelody_dataset, CC BY-NC-SA 4.0, for research. Bozkurt, Baysal and
    Yuret, "A dataset and baseline system for singing voice assessment", CMMR 2017.

    Args:
        folder: folder as above.
        fold: fold of the melodies that are the test split, 0 to 4.
        clips: clips of a contour.
    """

    folder: str | Path
    fold: int = 0
    clips: int = 32

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        if type(self.clips) is not int or self.clips < 2:
            raise ValueError(f"mast_melody: clips is {self.clips!r}, expected 2 or more")

    def read_labels(self) -> AqaData:
        table = read_label_csv(self.folder / "labels.csv", ["score", *GRADINGS], ["melody", "kind", "melody_fold"])
        check_range(table, "score", LOWEST, HIGHEST)
        self._sample_ids = tuple(table.sample_ids)
        self._references = _references(table)
        labels = hold_out_fold(_performances(table), "melody_fold", self.fold)
        for part in labels.values():
            for row, melody in enumerate(part.texts["melody"]):
                if melody not in self._references:
                    raise LabelError(f"{part.where(row)}: its melody {melody!r} has no reference")
        return AqaData(
            splits=build_label_splits(labels, ["score"]),
            modalities=dict.fromkeys(MODALITIES, FEATURE_SIZE),
            score_names=["score"],
            score_minimums=[LOWEST],
            score_ranges=[HIGHEST - LOWEST],
            max_clips=self.clips,
            description=(
                f"MAST melody, melodies of fold {self.fold} held out, pitch contours stretched to {self.clips} clips"
            ),
            group_column="melody",
            augment=sing_otherwise,
        )

    def sources(self, labels: AqaData) -> dict[str, FeatureSource]:
        rows = [row for split in labels.splits.values() for row in split.select_columns(["sample_id", "melody"])]
        recordings = {
            "performance": {row["sample_id"]: (row["sample_id"],) for row in rows},
            "reference": {row["sample_id"]: self._references[row["melody"]] for row in rows},
        }
        archive = self.folder / "contours.npz"
        return {
            name: ContourSource(archive, self._sample_ids, of_sample, self.clips)
            for name, of_sample in recordings.items()
        }


def _references(table: Labels) -> dict[str, tuple[str, ...]]:
    """References of each melody in their order; LabelError if a recording is of an unknown kind."""
    references: dict[str, list[str]] = {}
    for row, kind in enumerate(table.texts["kind"]):
        if kind not in MODALITIES:
            raise LabelError(f"{table.where(row)}: kind is {kind!r}, expected one of {', '.join(MODALITIES)}")
        if kind == "reference":
            references.setdefault(table.texts["melody"][row], []).append(table.sample_ids[row])
    return {melody: tuple(recordings) for melody, recordings in references.items()}


def _performances(table: Labels) -> Labels:
    """Performances with a score, and the deviation of their gradings in place of these."""
    performances = [row for row, kind in enumerate(table.texts["kind"]) if kind == "performance"]
    graded = [row for row in performances if not np.isnan(table.columns["score"][row])]
    if len(graded) < len(performances):
        left_out = len(performances) - len(graded)
        logger.warning("mast_melody: %d performances without a score are left out", left_out)
    chosen = table.select(graded)
    gradings = np.ma.masked_invalid([chosen.columns[name] for name in GRADINGS])  # (gradings, performances)
    chosen.columns = {
        "score": chosen.columns["score"],
        "score_deviation": gradings.std(axis=0).filled(np.nan),
    }
    del chosen.texts["kind"]
    return chosen
