"""Metrics of action quality assessment, as pure functions on numpy arrays.

A metric that does not exist for its input (correlation of a constant, no sample left, predictions that are not finite)
is None, with the reason under `undefined`. It is never 0 and never NaN.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from scipy import stats

CORRELATIONS = ("spearman", "pearson")
ERRORS = ("mse", "mae", "relative_l2")
METRIC_NAMES = CORRELATIONS + ERRORS
Value = tuple[float | None, str | None]  # a metric and None, or None and the reason


def score_metrics(predictions: np.ndarray, targets: np.ndarray) -> dict:
    """Compute every metric of one score.

    `spearman` and `pearson` are scipy's (ties share their mean rank), `mse` and `mae` are in judges' units, and
    `relative_l2` = 100 * mean(((p - t) / (max t - min t))^2) is in per cent of the squared range of the targets.

    Args:
        predictions: (samples,) in judges' units.
        targets: (samples,) in judges' units; NaN = not given, which leaves the sample out.

    Returns:
        Plain Python values: each name of `METRIC_NAMES` (float or None), `samples` (with a target), `not_given`
        (without one) and `undefined` (metric -> reason for each None).

    Raises:
        ValueError: the shapes differ or are not (samples,), or a target is infinite.
    """
    predictions, targets, not_given = _select_given(predictions, targets)
    values = _with_reasons({name: _compute(name, predictions, targets) for name in METRIC_NAMES})
    return {"samples": len(targets), "not_given": not_given, **values}


def calibration_line(predictions: np.ndarray, targets: np.ndarray) -> dict:
    """Fit judged = intercept + slope * predicted by least squares, and find the range of both.

    The slope is 1 for predictions that are right on average wherever they lie, above 1 for predictions that are too
    close together (flattened), and below 1 for predictions that are too far apart.

    Args:
        predictions: (samples,) in judges' units.
        targets: (samples,) in judges' units; NaN = not given, which leaves the sample out.

    Returns:
        Plain Python values: `slope` and `intercept` (judges' units), None with the `reason` where there is no line;
        `predicted` and `judged`, each [smallest, largest] in judges' units, None without a finite value.

    Raises:
        ValueError: as for `score_metrics`.
    """
    predictions, targets, _ = _select_given(predictions, targets)
    reason, slope, intercept = _why_undefined("slope", predictions, targets), None, None
    if reason is None:
        deviations = predictions - predictions.mean()
        slope = float(deviations @ targets / (deviations @ deviations))
        intercept = float(targets.mean() - slope * predictions.mean())
    ranges = {"predicted": _range(predictions), "judged": _range(targets)}
    return {"slope": slope, "intercept": intercept, "reason": reason, **ranges}


def average_metrics(rows: Sequence[Mapping]) -> dict:
    """Average `score_metrics` over masks or tasks as published: Fisher's z for correlations, the mean for errors.

    A metric that is undefined in any row has no average: leaving the row out would flatter the rest. A perfect
    correlation has an infinite z, so its average is 1 (or -1).

    Returns:
        The metrics that all rows have, `rows` (their number) and `undefined`.

    Raises:
        ValueError: a correlation lies outside [-1, 1].
    """
    averages = {name: _mean(values, in_fisher_z=name in CORRELATIONS) for name, values in _columns(rows)}
    return {"rows": len(rows), **_with_reasons(averages)}


def clip_correlations(metrics: Mapping) -> dict:
    """Return `score_metrics` with correlations of at most 1 - 6 / (n (n^2 - 1)), half a swap of neighbours below 1.

    Few samples are often in perfect order by chance; its infinite z would outweigh everything else in an average.
    """
    count = metrics["samples"]
    largest = 1 - 6 / (count * (count**2 - 1)) if count > 1 else 1.0
    clipped = {name: max(-largest, min(largest, metrics[name])) for name in CORRELATIONS if metrics[name] is not None}
    return {**metrics, **clipped}


def repetition_metrics(rows: Sequence[Mapping]) -> dict:
    """Compute mean and standard deviation of `score_metrics` over repetitions with different seeds.

    Returns:
        The arithmetic mean of the metrics that all rows have, `sd` (metric -> standard deviation with n - 1; None for
        a single repetition), `repetitions` and `undefined`. A metric that is undefined in any repetition has neither.
    """
    means, deviations = {}, {}
    for name, values in _columns(rows):
        means[name] = _mean(values)
        has_spread = len(values) > 1 and None not in values
        deviations[name] = float(np.std(values, ddof=1)) if has_spread else None
    return {"repetitions": len(rows), "sd": deviations, **_with_reasons(means)}


def _select_given(predictions: np.ndarray, targets: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    """Return predictions and targets (samples,) without the samples that have no target, and how many these are."""
    predictions, targets = (np.asarray(values, dtype=np.float64) for values in (predictions, targets))
    if predictions.ndim != 1 or predictions.shape != targets.shape:
        shapes = f"{predictions.shape} and {targets.shape}; call once for each score"
        raise ValueError(f"predictions and targets must both have shape (samples,), got {shapes}")
    if np.isinf(targets).any():
        raise ValueError(f"target number {np.flatnonzero(np.isinf(targets))[0]} is infinite; use NaN for not given")
    given = ~np.isnan(targets)
    return predictions[given], targets[given], int((~given).sum())


def _range(values: np.ndarray) -> list[float] | None:
    values = values[np.isfinite(values)]
    return [float(values.min()), float(values.max())] if len(values) else None


def _columns(rows: Sequence[Mapping]) -> list[tuple[str, list[float | None]]]:
    """Values of each metric that all rows have."""
    return [(name, [row[name] for row in rows]) for name in METRIC_NAMES if all(name in row for row in rows)]


def _with_reasons(values: Mapping[str, Value]) -> dict:
    undefined = {name: reason for name, (_, reason) in values.items() if reason is not None}
    return {**{name: value for name, (value, _) in values.items()}, "undefined": undefined}


def _compute(name: str, predictions: np.ndarray, targets: np.ndarray) -> Value:
    """One metric of (samples,) arrays without NaN targets."""
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
    if count < (2 if name in (*CORRELATIONS, "slope") else 1):
        return f"{count} {'sample' if count == 1 else 'samples'} with a target"
    if name in (*CORRELATIONS, "slope") and np.ptp(predictions) == 0:
        return f"all {count} predictions are the same"
    if name not in ("mse", "mae", "slope") and np.ptp(targets) == 0:
        return f"all {count} targets are the same"
    return None


_FORMULAS: dict[str, Callable[[np.ndarray, np.ndarray], float]] = {
    "spearman": lambda predictions, targets: stats.spearmanr(predictions, targets).statistic,
    "pearson": lambda predictions, targets: stats.pearsonr(predictions, targets).statistic,
    "mse": lambda predictions, targets: np.mean((predictions - targets) ** 2),
    "mae": lambda predictions, targets: np.mean(np.abs(predictions - targets)),
    "relative_l2": lambda predictions, targets: np.mean(((predictions - targets) / np.ptp(targets)) ** 2) * 100,
}


def _mean(values: Sequence[float | None], in_fisher_z: bool = False) -> Value:
    """Arithmetic mean, or tanh(mean(artanh(r))) of correlations."""
    if not len(values):
        return None, "nothing to average"
    if missing := sum(value is None for value in values):
        return None, f"{missing} of {len(values)} values are undefined"
    if not in_fisher_z:
        return float(np.mean(values)), None
    if outside := [value for value in values if not abs(value) <= 1]:
        raise ValueError(f"a correlation lies in [-1, 1], got {outside[0]}")
    if 1 in values and -1 in values:
        return None, "both 1 and -1 are among the correlations"
    with np.errstate(divide="ignore"):
        return float(np.tanh(np.mean(np.arctanh(values)))), None
