"""Bootstrap intervals: how far a metric would move with other test samples.

Samples are drawn with replacement (percentile interval; Efron & Tibshirani, An Introduction to the Bootstrap, 1993,
chapter 13). A resample is the number of times each sample is drawn. With these counts as weights every metric is a
weighted sum, so all resamples are measured at once and scores are sorted once. Rows measured on the same resamples are
paired, which gives their averages and differences intervals too.
"""

from collections.abc import Collection, Sequence

import numpy as np

from .aqa_metrics import CORRELATIONS, METRIC_NAMES

RESAMPLES = 2000
CONFIDENCE = 0.95
LARGEST_UNDEFINED_SHARE = 0.05
_AT_ONCE = 2**19  # numbers in one block of samples x resamples: small enough for a processor's cache
_PAIRS = ((0, 0), (0, 1), (1, 1))


def draw_resamples(samples: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Count how often each resample draws each sample: (samples, resamples) int32, each column sums to `samples`."""
    generator = np.random.default_rng(seed)
    drawn = (generator.integers(0, samples, samples) for _ in range(resamples))
    counts = [np.bincount(numbers, minlength=samples) for numbers in drawn]
    return np.array(counts, dtype=np.int32).reshape(resamples, samples).T.copy()


def resampled_metrics(predictions: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Compute every metric in every resample.

    `relative_l2` divides by the range of all targets, as published figures do: the range is a unit, not a statistic.

    Args:
        predictions: (samples,) in judges' units.
        targets: (samples,) in judges' units; NaN = not given, which leaves the sample out.
        counts: (samples, resamples) of `draw_resamples`.

    Returns:
        Metric -> (resamples,) float64, NaN where a resample leaves the metric undefined.
    """
    given = ~np.isnan(np.asarray(targets, dtype=np.float64))
    predictions = np.asarray(predictions, dtype=np.float64)[given]
    targets = np.asarray(targets, dtype=np.float64)[given]
    counts = counts[given]
    resamples = counts.shape[1]
    if not len(targets) or not np.isfinite(predictions).all():
        return {name: np.full(resamples, np.nan) for name in METRIC_NAMES}
    step = max(1, _AT_ONCE // len(targets))
    blocks = [counts[:, start : start + step].astype(np.float64) for start in range(0, resamples, step)]
    with np.errstate(all="ignore"):  # what cannot be computed becomes NaN
        measured = [_measure(predictions, targets, block) for block in blocks]
    values = {name: np.concatenate([part[name] for part in measured]) for name in METRIC_NAMES}
    return {name: np.where(np.isfinite(array), array, np.nan) for name, array in values.items()}


def add_intervals(metrics: dict, resampled: dict[str, np.ndarray]) -> dict:
    """Add `intervals` (metric -> [low, high] of the middle 95 % of the resamples, or None) to a metrics dictionary.

    An undefined metric has no interval; neither has one that is undefined in more than a twentieth of the resamples,
    for which `undefined_intervals` gives the reason.
    """
    intervals, undefined = {}, {}
    for name in METRIC_NAMES:
        if name not in metrics:
            continue
        intervals[name], reason = (None, None) if metrics[name] is None else percentile_interval(resampled[name])
        if reason is not None:
            undefined[name] = reason
    return {**metrics, "intervals": intervals, "undefined_intervals": undefined}


def percentile_interval(values: np.ndarray) -> tuple[list[float] | None, str | None]:
    """Return [low, high] of the middle 95 % of the resampled values and None, or None and the reason."""
    defined = values[~np.isnan(values)]
    if not len(defined) or len(defined) < (1 - LARGEST_UNDEFINED_SHARE) * len(values):
        return None, f"undefined in {len(values) - len(defined)} of {len(values)} resamples"
    tail = (1 - CONFIDENCE) / 2
    return np.quantile(defined, [tail, 1 - tail]).tolist(), None


def average_resampled(
    rows: Sequence[dict[str, np.ndarray]], in_fisher_z: Collection[str] = CORRELATIONS
) -> dict[str, np.ndarray]:
    """Average rows in every resample, some metrics in Fisher's z: by default as `average_metrics` does."""
    averages = {}
    for name in METRIC_NAMES:
        values = np.array([row[name] for row in rows])  # (rows, resamples)
        with np.errstate(all="ignore"):
            in_z = name in in_fisher_z
            averages[name] = np.tanh(np.arctanh(values).mean(axis=0)) if in_z else values.mean(axis=0)
    return averages


def _measure(predictions: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Every metric of (samples,) predictions in the resamples of (samples, resamples) counts."""
    total = counts.sum(axis=0)  # (resamples,)
    error = predictions - targets
    squared = error**2 @ counts / total
    middle = (total + 1) / 2  # mean rank
    ranks = [_ranks(values, counts) - middle for values in (predictions, targets)]  # (samples, resamples)
    spearman, vary = _correlation(*(np.einsum("sr,sr,sr->r", counts, ranks[a], ranks[b]) for a, b in _PAIRS))
    p, t = predictions - predictions.mean(), targets - targets.mean()
    p_mean, t_mean = p @ counts / total, t @ counts / total
    products = (p * p @ counts / total - p_mean**2, p * t @ counts / total - p_mean * t_mean)
    pearson, _ = _correlation(*products, t * t @ counts / total - t_mean**2)
    return {
        "spearman": spearman,
        "pearson": np.where(vary, pearson, np.nan),
        "mse": squared,
        "mae": np.abs(error) @ counts / total,
        "relative_l2": squared / np.ptp(targets) ** 2 * 100,
    }


def _correlation(first: np.ndarray, both: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Covariances -> correlations, NaN where one of the two does not vary; and where both vary."""
    vary = (first > 0) & (second > 0)
    return np.where(vary, np.clip(both / np.sqrt(first * second), -1, 1), np.nan), vary


def _ranks(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Ranks of the drawn values in every resample, ties sharing their mean rank: (samples, resamples)."""
    order = np.argsort(values, kind="stable")
    starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf))  # of each group of equal values
    drawn = np.add.reduceat(counts[order], starts, axis=0)  # (groups, resamples)
    ranks = np.cumsum(drawn, axis=0) - (drawn - 1) / 2
    return ranks[np.searchsorted(values[order][starts], values)]
