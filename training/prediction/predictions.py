"""Scores of a dataset, without the model they came from."""

from dataclasses import dataclass

import numpy as np

PATHS = ("scores", "reasoning_scores", "cross_modal_scores")
KEPT_BITS = 17  # see `round_scores`


@dataclass(frozen=True)
class Predictions:
    """Scores of n rows, in judges' units.

    Attributes:
        sample_ids: n ids.
        modalities: names of the model's modalities.
        scores, reasoning_scores, cross_modal_scores: (n, scores) float64; NaN for a path the model does not have.
        used: (n, modalities) bool, the modalities each row was scored from.
    """

    sample_ids: list[str]
    modalities: list[str]
    scores: np.ndarray
    reasoning_scores: np.ndarray
    cross_modal_scores: np.ndarray
    used: np.ndarray

    @property
    def path_disagreement(self) -> np.ndarray:
        """|reasoning_scores - cross_modal_scores|, (n, scores)."""
        return np.abs(self.reasoning_scores - self.cross_modal_scores)

    def used_names(self, row: int) -> list[str]:
        """Names of the modalities a row was scored from."""
        return [name for name, used in zip(self.modalities, self.used[row], strict=True) if used]


def round_scores(scores: np.ndarray, config) -> np.ndarray:
    """Round scores to what float32 settles, so that samples with the same inputs tie in whatever batch they were.

    Other batches, kernels and forms of a checkpoint change the last bits. `KEPT_BITS` of the 24 bits of the largest
    possible score are kept: steps of 0.001 where scores reach 100.

    Args:
        scores: (..., scores) in judges' units.
        config: configuration of the model.
    """
    step = score_step(config)
    return np.round(scores / step) * step


def score_step(config) -> np.ndarray:
    """Steps of `round_scores`, (scores,), in judges' units: powers of two, whose multiples are exact."""
    minimums, ranges = np.array(config.score_minimums), np.array(config.score_ranges)
    largest = np.maximum(np.abs(minimums), np.abs(minimums + ranges))  # (scores,)
    return 2.0 ** (np.ceil(np.log2(largest)) - KEPT_BITS)
