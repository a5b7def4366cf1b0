"""The sound of a dive: a hall, the takeoff, a platform that rattles, the water."""

import numpy as np

from .performance import DURATION, Dive

RATE = 16000  # samples a second
RATTLE_TONES = (310.0, 470.0, 790.0, 1130.0)  # hertz


def make_sound(dive: Dive, generator: np.random.Generator) -> np.ndarray:
    """Sound of a whole recording: float32 (samples,), -1 to 1, mono, `RATE` samples a second."""
    times = np.arange(round(DURATION * RATE)) / RATE
    sound = generator.uniform(0.006, 0.012) * _smooth(generator.normal(size=len(times)), 24)
    sound += 0.2 * _decay(times - dive.takeoff, 25) * np.sin(2 * np.pi * 75 * (times - dive.takeoff))
    sound += 0.9 * dive.severity("board_noise") * _rattle(times - dive.takeoff, generator)
    splash = dive.severity("splash")
    since = times - dive.entry
    plop = _decay(since, 18) * np.sin(2 * np.pi * (220 - 160 * np.clip(since, 0, 0.5)) * since)
    hiss = _smooth(generator.normal(size=len(times)), 2) - _smooth(generator.normal(size=len(times)), 16) / 4
    swell = np.clip(since / 0.04, 0, 1) * np.exp(-np.clip(since, 0, None) / (0.06 + 0.25 * splash))
    sound += 0.12 * plop + (0.02 + 0.28 * splash) * swell * hiss
    return np.clip(sound, -1, 1).astype(np.float32)


def _decay(since: np.ndarray, speed: float) -> np.ndarray:
    """0 before, then 1 falling to 0."""
    return np.where(since < 0, 0, np.exp(-speed * np.maximum(since, 0)))


def _rattle(since: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Blows of a loose board, six a second, weaker each time."""
    blows = np.exp(-30 * np.mod(np.maximum(since, 0), 1 / 6))
    tones = sum(np.sin(2 * np.pi * tone * since + generator.uniform(0, 2 * np.pi)) for tone in RATTLE_TONES)
    return _decay(since, 4) * blows * tones / len(RATTLE_TONES)


def _smooth(noise: np.ndarray, width: int) -> np.ndarray:
    """Moving average of white noise, scaled to keep its deviation."""
    sums = np.cumsum(np.concatenate([np.zeros(width), noise]))
    return (sums[width:] - sums[:-width]) / np.sqrt(width)
