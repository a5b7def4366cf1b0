"""Features of piano performances from MIDI files: what is played in each half second."""

import io
import warnings
import zipfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ..aqa_data import feature_column
from .files import FeatureFileError, Reader, refusing

FEATURE_SIZES = {"timing": 6, "dynamics": 5, "pedal": 4, "pitch": 5}
CLIP_SECONDS = 0.5
PEDAL_STEPS = 25  # in a clip, at which the pedals are read
PEDAL_DOWN = 41  # of 127, the least value
SUSTAIN, SOFT = 64, 67  # controllers
NO_INTERVAL = 0.5  # seconds, for a clip with the last onset alone
SHORTEST = 0.01  # seconds added before a logarithm
SHORTEST_DIVISOR, LARGEST_ARTICULATION = 0.05, 10.0
LONGEST_SECONDS = 3600.0
LARGEST_BYTES = 2**22  # of a MIDI file; an hour of dense music has a tenth


def performance_features(notes: np.ndarray, sustain: np.ndarray, soft: np.ndarray) -> dict[str, np.ndarray]:
    """Features of each half second, counted from the first onset: modality -> float32 (clips, features).

    An onset is a moment at which one or more notes begin, in whole milliseconds; its interval is the time to the next.

        timing      notes that begin, onsets, log of the mean interval, deviation of the intervals (s), log of the mean
                    duration, articulation: mean duration over mean interval (0.05 s or more), at most 10
        dynamics    velocity: mean, deviation, highest, lowest, that of the highest note minus the mean
        pedal       sustain pedal: mean of 0 to 1, share of the time down, number of changes; soft pedal: mean
        pitch       MIDI number: mean, deviation, highest, lowest; number of pitch classes

    A clip in which no note begins has the timing (but no note and no onset), dynamics and pitch of the clip before.
    The last clip follows that of the last onset.

    Args:
        notes: (notes, 4), onset and end in seconds, MIDI number, velocity.
        sustain: changes of the sustain pedal in order, (changes, 2), time in seconds and value of 0 to 127.
        soft: the same of the soft pedal.
    """
    first = notes[:, 0].min()
    onsets = np.round(notes[:, 0] - first, 3)  # (notes,)
    moments = np.unique(onsets)
    intervals = np.diff(moments)  # (moments - 1,)
    count = int(moments[-1] / CLIP_SECONDS) + 2
    note_clips, moment_clips = ((times / CLIP_SECONDS).astype(int) for times in (onsets, moments))
    features = {name: np.zeros((count, size), np.float32) for name, size in FEATURE_SIZES.items()}
    for clip in range(count):
        played = notes[note_clips == clip]
        if not len(played):
            for name in ("timing", "dynamics", "pitch"):
                features[name][clip] = features[name][clip - 1]
            features["timing"][clip, :2] = 0
            continue
        features["timing"][clip] = _timing(played, (moment_clips == clip).sum(), intervals[moment_clips[:-1] == clip])
        features["dynamics"][clip] = _dynamics(played)
        features["pitch"][clip] = [*_summary(played[:, 2]), len(np.unique(played[:, 2] % 12))]
    times = first + np.arange(count * PEDAL_STEPS) * (CLIP_SECONDS / PEDAL_STEPS)
    features["pedal"][:] = _pedal(*(_values_at(times, pedal).reshape(count, PEDAL_STEPS) for pedal in (sustain, soft)))
    return features


def _timing(played: np.ndarray, moments: int, intervals: np.ndarray) -> list[float]:
    if not len(intervals):
        intervals = np.array([NO_INTERVAL])
    duration, interval = (played[:, 1] - played[:, 0]).mean(), intervals.mean()
    log_interval, log_duration = np.log([interval + SHORTEST, duration + SHORTEST])
    articulation = min(duration / max(interval, SHORTEST_DIVISOR), LARGEST_ARTICULATION)
    return [len(played), moments, log_interval, intervals.std(), log_duration, articulation]


def _dynamics(played: np.ndarray) -> list[float]:
    velocity = played[:, 3]
    return [*_summary(velocity), velocity[played[:, 2].argmax()] - velocity.mean()]


def _summary(values: np.ndarray) -> list[float]:
    return [values.mean(), values.std(), values.max(), values.min()]


def _values_at(times: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """Value of a controller at each time; 0 before its first change."""
    values = np.concatenate([[0], changes[:, 1]])
    return values[np.searchsorted(changes[:, 0], times, side="right")]


def _pedal(sustain: np.ndarray, soft: np.ndarray) -> np.ndarray:
    """Features from values (clips, steps)."""
    down = sustain >= PEDAL_DOWN
    changes = (down[:, 1:] != down[:, :-1]).sum(axis=1)
    return np.stack([sustain.mean(axis=1) / 127, down.mean(axis=1), changes, soft.mean(axis=1) / 127], axis=1)


@dataclass(frozen=True)
class MidiSource:
    """A modality of `performance_features` of each sample's MIDI file.

    Args:
        place: folder or zip archive of `<sample_id>.mid`.
        modality: key of `FEATURE_SIZES`.
    """

    place: Path
    modality: str

    def open(self, cache: Path | None = None) -> Reader:
        """Return a reader; ImportError if pretty_midi is not installed."""
        _pretty_midi()
        return self._read

    def _read(self, sample_id: str) -> tuple[pa.ListArray, list[str]]:
        clips = read_midi(self.place, sample_id)[self.modality]
        return feature_column(clips, [len(clips)]), []  # no pedal is no oddity


@lru_cache(maxsize=1)  # the modalities of a sample are read one after another
def read_midi(place: Path, sample_id: str) -> dict[str, np.ndarray]:
    """`performance_features` of `<sample_id>.mid` in a folder or a zip archive.

    Raises:
        FeatureFileError: the file is missing, no MIDI file, without a note or longer than an hour.
    """
    where = f"{place / sample_id}.mid"
    content = _file_content(place, sample_id, where)
    with refusing(where, "a MIDI file"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # tempo changes on another track than the first: valid, if unusual
        performance = _pretty_midi().PrettyMIDI(io.BytesIO(content))
    instruments = performance.instruments
    notes = [(note.start, note.end, note.pitch, note.velocity) for each in instruments for note in each.notes]
    if not notes:
        raise FeatureFileError(f"{where}: there is no note in it", "empty")
    notes = np.array(notes, dtype=np.float64)  # (notes, 4)
    if np.ptp(notes[:, 0]) > LONGEST_SECONDS:
        raise FeatureFileError(f"{where}: lasts {np.ptp(notes[:, 0]):g} s, expected at most {LONGEST_SECONDS:g}")
    changes = [change for each in instruments for change in each.control_changes]
    return performance_features(notes, _controller(changes, SUSTAIN), _controller(changes, SOFT))


def _file_content(place: Path, sample_id: str, where: str) -> bytes:
    with refusing(where, "readable"), ExitStack() as stack:
        try:
            if place.is_dir():
                file = stack.enter_context((place / f"{sample_id}.mid").open("rb"))
            else:
                archive = stack.enter_context(zipfile.ZipFile(place))
                file = stack.enter_context(archive.open(f"{sample_id}.mid"))
        except (FileNotFoundError, KeyError):
            raise FeatureFileError(f"{where}: no such file", "missing file") from None
        content = file.read(LARGEST_BYTES + 1)
    if len(content) > LARGEST_BYTES:
        raise FeatureFileError(f"{where}: expected a MIDI file of at most {LARGEST_BYTES} bytes", "too large")
    return content


def _controller(changes: Sequence[Any], number: int) -> np.ndarray:
    """Changes of a controller in the order of time, (changes, 2): time and value."""
    found = sorted((change.time, change.value) for change in changes if change.number == number)
    return np.array(found, dtype=np.float64).reshape(-1, 2)


def _pretty_midi() -> Any:
    try:
        import pretty_midi
    except ImportError as error:
        raise ImportError('MIDI files are read by pretty_midi: pip install "limssr[midi]"') from error
    return pretty_midi
