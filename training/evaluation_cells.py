"""One score in one row of an evaluation: model, ridge regression and training mean, measured on the same samples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from .metrics.aqa_metrics import CORRELATIONS, ERRORS, average_metrics, repetition_metrics, score_metrics
from .metrics.bootstrap import add_intervals, average_resampled, mean_resampled, resampled_metrics

PARTS = ("model", "ridge", "floor", "best")


@dataclass(frozen=True)
class Cell:
    """One score in one row; each part is a `score_metrics` dictionary with intervals, or None where there is none.

    Attributes:
        model: the network.
        ridge: ridge regression on the training rows; None with `ridge_reason`, or when no training rows were given.
        floor: predicting the training mean; its correlations are always undefined.
        best: what the best possible predictor reaches, where the data is synthetic and that is known; no intervals.
        resampled: part -> metric -> its value in every bootstrap resample, which are the same for all cells.
    """

    model: dict | None
    ridge: dict | None = None
    floor: dict | None = None
    best: dict | None = None
    ridge_reason: str | None = None
    resampled: dict[str, dict[str, np.ndarray]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def not_better_than_floor(self) -> list[str]:
        """Metrics in which the model does not beat the training mean: no smaller error, or no positive correlation."""
        if self.floor is None:
            return []
        bars = {**dict.fromkeys(CORRELATIONS, 0.0), **{name: self.floor[name] for name in ERRORS}}
        return [name for name, bar in bars.items() if not self._beats(name, bar)]

    def _beats(self, name: str, bar: float | None) -> bool:
        value = self.model[name]
        if value is None or bar is None:
            return False
        return value > bar if name in CORRELATIONS else value < bar

    @property
    def parts(self) -> dict[str, dict | None]:
        return {name: getattr(self, name) for name in PARTS}

    def to_dict(self) -> dict:
        """Plain Python values; the resamples stay behind, their intervals are in the parts."""
        notes = {"ridge_reason": self.ridge_reason, "not_better_than_floor": self.not_better_than_floor}
        return {**self.parts, **notes}


def measure_cell(
    scored: Mapping[str, np.ndarray],
    targets: np.ndarray,
    resamples: np.ndarray,
    best: dict | None = None,
    ridge_reason: str | None = None,
) -> Cell:
    """
    Args:
        scored: part -> its scores, (samples,); `model` and, where there are any, `ridge` and `floor`.
        targets: (samples,) in judges' units, NaN = not given.
        resamples: (samples, resamples), how often each bootstrap resample draws each sample.
        best: known metrics of the best possible predictor.
        ridge_reason: why there is no ridge.
    """
    resampled = {part: resampled_metrics(values, targets, resamples) for part, values in scored.items()}
    parts = {part: add_intervals(score_metrics(values, targets), resampled[part]) for part, values in scored.items()}
    return Cell(**parts, best=None if best is None else dict(best), ridge_reason=ridge_reason, resampled=resampled)


def average_cells(cells: Sequence[Cell]) -> Cell:
    """The average over rows or tasks as published, correlations in Fisher's z; a part that a cell lacks is None."""
    return _combine(cells, average_metrics, average_resampled)


def summarize_cells(cells: Sequence[Cell]) -> Cell:
    """The mean over repetitions of the same, each part with its s.d. under `sd`; a part that a cell lacks is None."""
    return _combine(cells, repetition_metrics, mean_resampled)


def _combine(
    cells: Sequence[Cell],
    of_metrics: Callable[[list[dict]], dict],
    of_resamples: Callable[[list[dict[str, np.ndarray]]], dict[str, np.ndarray]],
) -> Cell:
    parts, resampled = {}, {}
    for part in PARTS:
        metrics = [getattr(cell, part) for cell in cells]
        if not metrics or None in metrics:
            continue
        parts[part] = of_metrics(metrics)
        if all(part in cell.resampled for cell in cells):
            resampled[part] = of_resamples([cell.resampled[part] for cell in cells])
            parts[part] = add_intervals(parts[part], resampled[part])
    return Cell(**{"model": None, **parts}, resampled=resampled)
