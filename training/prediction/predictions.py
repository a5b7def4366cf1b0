"""Scores of a dataset, without the model they came from."""

from dataclasses import dataclass

import numpy as np

PATHS = ("scores", "reasoning_scores", "cross_modal_scores")


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
