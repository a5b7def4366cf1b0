"""What judges give for a simulated dive, and how well a score can be predicted at best."""

from collections.abc import Mapping
from functools import cache

import numpy as np
from scipy.stats import spearmanr

from .performance import HIGHEST_DIFFICULTY, draw_dive

# Points that a judge without noise deducts for each fault in its worst form.
DEDUCTIONS = {
    "board_noise": 0.8,
    "bent_knees": 1.2,
    "over_rotation": 3.0,
    "under_rotation": 3.0,
    "loose_opening": 1.0,
    "crooked_entry": 2.0,
    "splash": 4.5,
}
JUDGES = 5
HIGHEST_MARK = 10.0
HIGHEST_SCORE = HIGHEST_DIFFICULTY * 3 * HIGHEST_MARK
FAULT_NOISE = 0.4  # of a judge: standard deviation of the logarithm of what a fault seems to be worth
MARK_NOISE = 0.8  # and of the mark, in points

MONTE_CARLO_DIVES, MONTE_CARLO_PANELS = 5000, 200


def draw_marks(severities: Mapping[str, float], generator: np.random.Generator, panels: int = 1) -> np.ndarray:
    """Draw marks in half points, 0 to 10: (panels, judges). Each judge has noise on each fault and on the whole.

    Args:
        severities: severity of each fault that happened.
        generator: of the judges' noise.
        panels: independent panels of judges.
    """
    worth = np.array([DEDUCTIONS[name] * severity for name, severity in severities.items()])  # (faults,)
    seen = np.exp(FAULT_NOISE * generator.normal(size=(panels, JUDGES, len(worth)))) @ worth  # (panels, judges)
    marks = HIGHEST_MARK - seen + MARK_NOISE * generator.normal(size=seen.shape)
    return np.clip(np.round(2 * marks) / 2, 0.0, HIGHEST_MARK) + 0.0  # no negative zero


def panel_score(difficulty: float, marks: np.ndarray) -> np.ndarray:
    """Difficulty times the sum of the three middle marks: (panels, judges) -> (panels,)."""
    return difficulty * np.sort(marks, axis=-1)[..., 1:-1].sum(axis=-1)


@cache
def best_attainable() -> dict[str, float]:
    """`spearman`, `mse` and `mae` of the prediction that knows difficulty and faults, over many dives.

    Of the panels of each dive, the first gives the score; the mean of the others (for `mae` the median) predicts it.
    """
    generator = np.random.default_rng(0)
    scores = np.empty((MONTE_CARLO_DIVES, MONTE_CARLO_PANELS))
    for row in scores:
        dive = draw_dive(generator)
        row[:] = panel_score(dive.difficulty, draw_marks(dive.severities, generator, MONTE_CARLO_PANELS))
    score, panels = scores[:, 0], scores[:, 1:]
    expected = panels.mean(axis=1)
    return {
        "spearman": float(spearmanr(expected, score).statistic),
        "mse": float(((score - expected) ** 2).mean()),
        "mae": float(np.abs(score - np.median(panels, axis=1)).mean()),
    }
