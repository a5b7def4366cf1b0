"""MAST melody: melodies sung from memory at an entrance exam, beside how they were played."""

import logging
import zlib
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from .aqa_data import AqaData, feature_column
from .file_dataset import FileDataset, build_label_splits, hold_out_fold
from .sources.archives import find_array, read_archive
from .sources.files import FeatureFileError, FeatureSource, Reader, check_clips
from .sources.labels import LabelError, Labels, check_range, read_label_csv

logger = logging.getLogger(__name__)

GRADINGS = ("expert_a_first", "expert_a_second", "expert_b", "expert_c_first", "expert_c_second")
LOWEST, HIGHEST = 1.0, 4.0
MODALITIES = ("performance", "reference")
LONGEST_CONTOUR = 213  # steps


def encode_contour(contour: np.ndarray, clip_steps: int, where: str) -> np.ndarray:
    """Clips of a contour: float32 (clips, 2 * clip_steps).

    The first `clip_steps` features are semitones above the median of the contour, so that a melody in another key
    looks the same; they are 0 where there is no pitch. The others say what share of each step has a pitch. Steps past
    the end have none.

    Args:
        contour: (steps, 2), semitones above any pitch, NaN where there is none, and the voiced share of each step.
        clip_steps: steps in a clip.
        where: start of an error message.

    Raises:
        FeatureFileError: the contour is not of this shape, is infinite somewhere, or has no pitch at all.
    """
    if contour.ndim != 2 or contour.shape[1] != 2 or contour.dtype.kind != "f":
        raise FeatureFileError(f"{where}: shape {list(contour.shape)} of {contour.dtype}, expected numbers [steps, 2]")
    if np.isinf(contour).any():
        raise FeatureFileError(f"{where}: a step is infinite, expected a number or NaN", "non-finite")
    semitones, share = contour.T  # each (steps,)
    silent = np.isnan(semitones)
    if silent.all():
        raise FeatureFileError(f"{where}: none of the {len(contour)} steps has a pitch", "empty")
    relative = np.where(silent, 0, semitones - np.median(semitones[~silent]))
    steps = np.stack([relative, np.where(silent, 0, share)])  # (2, steps)
    steps = np.pad(steps, [(0, 0), (0, -len(contour) % clip_steps)])
    clips = steps.reshape(2, -1, clip_steps).swapaxes(0, 1).reshape(-1, 2 * clip_steps)  # (clips, 2 * clip_steps)
    return check_clips(clips, where)[0]


@dataclass(frozen=True)
class ContourSource:
    """Contours of an archive as clips.

    Args:
        path: the archive.
        sample_ids: recordings of the archive in their order.
        recordings: sample id -> its recording.
        clip_steps: steps in a clip.
    """

    path: Path
    sample_ids: tuple[str, ...]
    recordings: dict[str, str]
    clip_steps: int

    def open(self, cache: Path | None = None) -> Reader:
        """Read the archive; FeatureFileError if it cannot be used."""
        return partial(self._read, read_archive(self.path, "contour", self.sample_ids))

    def _read(self, contours: dict[str, np.ndarray], sample_id: str) -> tuple[pa.ListArray, list[str]]:
        recording = self.recordings[sample_id]
        contour = find_array(contours, recording, self.path)
        clips = encode_contour(contour, self.clip_steps, f"{self.path}, {recording!r}")
        return feature_column(clips, [len(clips)]), []


@dataclass
class MastMelody(FileDataset):
    """MAST melody: 996 sung performances of 39 melodies, each beside the melody as it was to be sung.

        mast_melody/
            labels.csv      sample_id,melody,kind,melody_fold, five gradings of 1 to 4, score; kind: performance or
                            reference
            contours.npz    n, contour: pitch in steps of 50 ms, in the order of labels.csv, see `encode_contour`

    Samples are the performances; one without a score is left out. `score` is the mean of five gradings by three
    experts, 1 to 4. Modalities: `performance` and `reference`, the contours of the performance and of a recording of
    its melody, as clips of the same kind; the score lies in their comparison. A melody has 22 to 111 references:
    training draws one for each performance from `seed` and the sample id, the test split takes the first one in
    `labels.csv`.

    Further columns: `melody`, `melody_fold`, `reference_id` and `score_deviation`, the standard deviation of the
    gradings (divided by their number, not by one less). Validation holds back melodies, like the test split.

    Source: https://github.com/barisbozkurt/MASTmelody_dataset, CC BY-NC-SA 4.0, for research. Bozkurt, Baysal and
    Yuret, "A dataset and baseline system for singing voice assessment", CMMR 2017.

    Args:
        folder: folder as above.
        fold: fold of the melodies that are the test split, 0 to 4.
        clip_steps: steps of 50 ms in a clip, which has twice as many features.
        seed: seed of the references of the training split.
    """

    folder: str | Path
    fold: int = 0
    clip_steps: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        self.folder = Path(self.folder)
        if type(self.clip_steps) is not int or self.clip_steps < 1:
            raise ValueError(f"mast_melody: clip_steps is {self.clip_steps!r}, expected 1 or more")

    def read_labels(self) -> AqaData:
        table = read_label_csv(self.folder / "labels.csv", ["score", *GRADINGS], ["melody", "kind", "melody_fold"])
        check_range(table, "score", LOWEST, HIGHEST)
        self._sample_ids = tuple(table.sample_ids)
        references = _references(table)
        labels = hold_out_fold(_performances(table), "melody_fold", self.fold)
        for split, part in labels.items():
            part.texts["reference_id"] = [
                self._choose(references, part, row, split) for row in range(len(part.sample_ids))
            ]
        return AqaData(
            splits=build_label_splits(labels, ["score"]),
            modalities=dict.fromkeys(MODALITIES, 2 * self.clip_steps),
            score_names=["score"],
            score_minimums=[LOWEST],
            score_ranges=[HIGHEST - LOWEST],
            max_clips=-(-LONGEST_CONTOUR // self.clip_steps),
            description=(
                f"MAST melody, melodies of fold {self.fold} held out, pitch contours in semitones from their median, "
                f"{self.clip_steps} steps of 50 ms a clip"
            ),
            group_column="melody",
        )

    def sources(self, labels: AqaData) -> dict[str, FeatureSource]:
        rows = [row for split in labels.splits.values() for row in split.select_columns(["sample_id", "reference_id"])]
        recordings = {
            "performance": {row["sample_id"]: row["sample_id"] for row in rows},
            "reference": {row["sample_id"]: row["reference_id"] for row in rows},
        }
        archive = self.folder / "contours.npz"
        return {
            name: ContourSource(archive, self._sample_ids, of_sample, self.clip_steps)
            for name, of_sample in recordings.items()
        }

    def _choose(self, references: dict[str, list[str]], labels: Labels, row: int, split: str) -> str:
        """Reference of a performance."""
        melody = labels.texts["melody"][row]
        if melody not in references:
            raise LabelError(f"{labels.where(row)}: its melody {melody!r} has no reference")
        if split == "test":
            return references[melody][0]
        draw = zlib.crc32(f"reference/{self.seed}/{labels.sample_ids[row]}".encode())
        return references[melody][draw % len(references[melody])]


def _references(table: Labels) -> dict[str, list[str]]:
    """References of each melody in their order; LabelError if a recording is of an unknown kind."""
    references: dict[str, list[str]] = {}
    for row, kind in enumerate(table.texts["kind"]):
        if kind not in MODALITIES:
            raise LabelError(f"{table.where(row)}: kind is {kind!r}, expected one of {', '.join(MODALITIES)}")
        if kind == "reference":
            references.setdefault(table.texts["melody"][row], []).append(table.sample_ids[row])
    return references


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
