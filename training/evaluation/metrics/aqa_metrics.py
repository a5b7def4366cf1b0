"""Metrics of action quality assessment, as pure functions on numpy arrays.

Every function takes `predictions` and `targets` of shape (samples,), in judges' units. A target of NaN means
*not given* and leaves its sample out. A metric that does not exist for its input (correlation of a constant,
no sample left, predictions that are not finite) is None with an `UndefinedMetricWarning` that says why, or a
reason in `score_metrics(...)["undefined"]`: never 0, never a silent NaN.
"""

import warnings
from collections.abc import Callable, Sequence

import numpy as np
from scipy import stats

CORRELATIONS = ("spearman", "pearson")
ERRORS = ("mse", "mae", "relative_l2")
METRIC_NAMES = CORRELATIONS + ERRORS


class UndefinedMetricWarning(UserWarning):
    """A metric does not exist for the values it was given; the message says why."""


def spearman(predictions: np.ndarray, targets: np.ndarray) -> float | None:
    """Rank correlation in [-1, 1], ties sharing their mean rank (scipy's)."""
    return _value_or_warning("spearman", predictions, targets)


def pearson(predictions: np.ndarray, targets: np.ndarray) -> float | None:
    """Linear correlation in [-1, 1] (scipy's)."""
    return _value_or_warning("pearson", predictions, targets)


def mean_squared_error(predictions: np.ndarray, targets: np.ndarray) -> float | None:
    """Mean of (p - t)^2, in squared judges' units."""
    return _value_or_warning("mse", predictions, targets)


def mean_absolute_error(predictions: np.ndarray, targets: np.ndarray) -> float | None:
    """Mean of |p - t|, in judges' units."""
    return _value_or_warning("mae", predictions, targets)


def relative_l2(predictions: np.ndarray, targets: np.ndarray) -> float | None:
    """100 * mean(((p - t) / (max t - min t))^2): the squared error in per cent of the squared range of the targets."""
    return _value_or_warning("relative_l2", predictions, targets)


def score_metrics(predictions: np.ndarray, targets: np.ndarray) -> dict:
    """Every metric of one score.

    Returns a dictionary of plain Python values, fit for strict JSON: each name of `METRIC_NAMES` (float or None),
    `samples` (samples with a target), `not_given` (samples without one) and `undefined` (metric name -> the reason
    for each None).
    """
    predictions, targets, not_given = _given(predictions, targets)
    result: dict = {"samples": len(targets), "not_given": not_given}
    undefined = {}
    for name in METRIC_NAMES:
        result[name], reason = _compute(name, predictions, targets)
        if reason is not None:
            undefined[name] = reason
    return {**result, "undefined": undefined}


def fisher_z_mean(correlations: Sequence[float | None]) -> float | None:
    """Mean of correlations in Fisher's z: tanh(mean(artanh(r))).

    A perfect correlation has an infinite z, so its mean is 1 (or -1). The mean is None, with a warning, when there
    is nothing to average, when a member is undefined, or when 1 and -1 are both there.

    Raises:
        ValueError: a correlation outside [-1, 1].
    """
    value, reason = _fisher_z_mean(correlations)
    return _warn_if_undefined("mean of correlations", value, reason)


def average_metrics(cells: Sequence[dict]) -> dict:
    """Average of several `score_metrics` results (masks or tasks) as published.

    Correlations are averaged in Fisher's z, errors arithmetically. A metric that is undefined in any cell has no
    average: leaving the cell out would flatter the rest. Returns the metrics that all cells have, `cells` (how many)
    and `undefined`.
    """
    result: dict = {"cells": len(cells)}
    undefined = {}
    for name in METRIC_NAMES:
        if not all(name in cell for cell in cells):
            continue
        values = [cell[name] for cell in cells]
        result[name], reason = _fisher_z_mean(values) if name in CORRELATIONS else _arithmetic_mean(values)
        if reason is not None:
            undefined[name] = reason
    return {**result, "undefined": undefined}


def repetition_metrics(cells: Sequence[dict]) -> dict:
    """Mean and spread of several `score_metrics` results of the same thing, repeated with other seeds.

    Returns the plain mean of each metric that all cells have, `sd` (metric -> standard deviation of the repetitions,
    divided by their number less one; None for a single one), `repetitions` (how many) and `undefined`. A metric that
    is undefined in any repetition has neither mean nor spread.
    """
    result: dict = {"repetitions": len(cells)}
    deviations, undefined = {}, {}
    for name in METRIC_NAMES:
        if not all(name in cell for cell in cells):
            continue
        values = [cell[name] for cell in cells]
        result[name], reason = _arithmetic_mean(values)
        deviations[name] = float(np.std(values, ddof=1)) if reason is None and len(values) > 1 else None
        if reason is not None:
            undefined[name] = reason
    return {**result, "sd": deviations, "undefined": undefined}


def _given(predictions: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Both arrays as float64 without the samples whose target is not given, and how many those are."""
    predictions = np.asarray(predictions, dtype=np.float64)
    targets = np.asarray(targets, dtype=np.float64)
    if predictions.ndim != 1 or predictions.shape != targets.shape:
        raise ValueError(
            f"predictions and targets must both have shape (samples,), got {predictions.shape} and {targets.shape}; "
            "for several scores call once for each column"
        )
    given = ~np.isnan(targets)
    if np.isinf(targets).any():
        raise ValueError(
            f"target number {int(np.flatnonzero(np.isinf(targets))[0])} is infinite; use NaN for not given"
        )
    return predictions[given], targets[given], int((~given).sum())


def _value_or_warning(name: str, predictions: np.ndarray, targets: np.ndarray) -> float | None:
    predictions, targets, _ = _given(predictions, targets)
    value, reason = _compute(name, predictions, targets)
    return _warn_if_undefined(name, value, reason)


def _warn_if_undefined(name: str, value: float | None, reason: str | None) -> float | None:
    if reason is not None:
        warnings.warn(f"{name} is undefined: {reason}", UndefinedMetricWarning, stacklevel=3)
    return value


def _compute(name: str, predictions: np.ndarray, targets: np.ndarray) -> tuple[float | None, str | None]:
    """The metric and None, or None and the reason why there is none; both arrays (samples,) without NaN targets."""
    reason = _why_undefined(name, predictions, targets)
    if reason is not None:
        return None, reason
    with np.errstate(over="ignore", invalid="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.NearConstantInputWarning)  # ends in the reason below where it matters
        value = float(_FORMULAS[name](predictions, targets))
    if not np.isfinite(value):
        return None, "the values are too close to constant or too large for double precision"
    return value, None


def _why_undefined(name: str, predictions: np.ndarray, targets: np.ndarray) -> str | None:
    count = len(targets)
    not_finite = int((~np.isfinite(predictions)).sum())
    if not_finite:
        return f"{not_finite} of {count} predictions are not finite"
    if count < (2 if name in CORRELATIONS else 1):
        return f"{count} {'sample' if count == 1 else 'samples'} with a target"
    if name in CORRELATIONS and np.ptp(predictions) == 0:
        return f"all {count} predictions are the same"
    if name not in ("mse", "mae") and np.ptp(targets) == 0:
        return f"all {count} targets are the same"
    return None


def _relative_l2(predictions: np.ndarray, targets: np.ndarray) -> float:
    return np.mean(((predictions - targets) / np.ptp(targets)) ** 2) * 100


_FORMULAS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "spearman": lambda predictions, targets: stats.spearmanr(predictions, targets).statistic,
    "pearson": lambda predictions, targets: stats.pearsonr(predictions, targets).statistic,
    "mse": lambda predictions, targets: np.mean((predictions - targets) ** 2),
    "mae": lambda predictions, targets: np.mean(np.abs(predictions - targets)),
    "relative_l2": _relative_l2,
}


def _why_no_mean(values: Sequence[float | None]) -> str | None:
    if not len(values):
        return "nothing to average"
    missing = sum(value is None for value in values)
    return f"{missing} of {len(values)} values are undefined" if missing else None


def _arithmetic_mean(values: Sequence[float | None]) -> tuple[float | None, str | None]:
    reason = _why_no_mean(values)
    return (None, reason) if reason else (float(np.mean(values)), None)


def _fisher_z_mean(correlations: Sequence[float | None]) -> tuple[float | None, str | None]:
    reason = _why_no_mean(correlations)
    if reason is not None:
        return None, reason
    values = np.asarray(correlations, dtype=np.float64)
    if not (np.abs(values) <= 1).all():
        raise ValueError(f"a correlation lies in [-1, 1], got {values[~(np.abs(values) <= 1)][0]}")
    if (values == 1).any() and (values == -1).any():
        return None, "both 1 and -1 are among the correlations"
    with np.errstate(divide="ignore"):
        return float(np.tanh(np.mean(np.arctanh(values)))), None
