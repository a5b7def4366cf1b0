"""Which of two performances is better: a probability, from the errors that calibrated the model."""

import math
from collections.abc import Sequence

import numpy as np

from ..data.masks import Mask, subset_name


def probability_better(
    config, first: np.ndarray, second: np.ndarray, masks: Sequence[Mask], score_name: str
) -> np.ndarray | None:
    """Probability that the judged score of the first of two performances is higher than that of the second.

    A judged score is the predicted one plus an error, as likely above as below, of the size that the calibration
    found for the mask; the errors of the two are independent.

    Args:
        config: configuration of the model.
        first: (pairs,) predicted scores of the first performances, in judges' units.
        second: (pairs,) predicted scores of the second ones.
        masks: mask of the first and of the second performances, over the model's modalities.
        score_name: name of the score.

    Returns:
        (pairs,) float64 in [0, 1]; None without a calibration of both masks.
    """
    names = [subset_name(mask, list(config.modalities)) for mask in masks]
    if config.calibration is None or not set(names) <= set(config.calibration["masks"]):
        return None
    errors = [_errors(config, name, score_name) for name in names]
    differences = np.sort((errors[1][:, None] - errors[0]).reshape(-1))
    gap = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    below = np.searchsorted(differences, gap, "left") + np.searchsorted(differences, gap, "right")
    return below / (2 * len(differences))


def _errors(config, mask: str, score_name: str) -> np.ndarray:
    """Errors of both signs, all equally likely; what the samples were too few for is as wide as the score range."""
    widest = config.score_ranges[config.score_names.index(score_name)]
    sizes = config.calibration["masks"][mask][score_name]["residuals"]
    sizes = np.array([widest if size is None else size for size in sizes])
    return np.concatenate([sizes, -sizes])


def reliability(probabilities: np.ndarray, outcomes: np.ndarray, bins: int = 10) -> list[dict]:
    """Reliability curve: how often what had a probability came true.

    Args:
        probabilities: (pairs,) in [0, 1], NaN = not known.
        outcomes: (pairs,) whether it came true, 0.5 for a tie.
        bins: number of equal parts of [0, 1].

    Returns:
        For each part with a pair `predicted` (mean probability), `happened` (mean outcome) and `pairs`.
    """
    known = np.isfinite(probabilities)
    probabilities, outcomes = probabilities[known], outcomes[known]
    places = np.minimum((probabilities * bins).astype(int), bins - 1)
    return [
        {
            "predicted": math.fsum(probabilities[places == place]) / count,
            "happened": math.fsum(outcomes[places == place]) / count,
            "pairs": int(count),
        }
        for place in range(bins)
        if (count := np.count_nonzero(places == place))
    ]
