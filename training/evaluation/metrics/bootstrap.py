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
_AT_ONCE = 2**18  # numbers in one block of samples x resamples: small enough for a processor's cache


def draw_resamples(samples: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """Count how often each resample draws each sample: (samples, resamples) int32, each column sums to `samples`."""
    generator = np.random.default_rng(seed)
    drawn = (generator.integers(0, samples, samples) for _ in range(resamples))
    counts = [np.bincount(numbers, minlength=samples) for numbers in drawn]
    return np.array(counts, dtype=np.int32).reshape(resamples, samples).T.copy()


def resampled_metrics(predictions: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Compute every metric of one predictor in every resample, see `ResampledTargets.measure`."""
    return ResampledTargets(targets, counts).measure(predictions)


class ResampledTargets:
    """The targets of one score in every resample, against which any number of predictors are measured.

    Args:
        targets: (samples,) in judges' units; NaN = not given, which leaves the sample out.
        counts: (samples, resamples) of `draw_resamples`.
    """

    def __init__(self, targets: np.ndarray, counts: np.ndarray):
        targets = np.asarray(targets, dtype=np.float64)
        self.given, self.resamples = ~np.isnan(targets), counts.shape[1]
        self.targets, counts = targets[self.given], counts[self.given]
        step = max(1, _AT_ONCE // max(len(counts), 1))
        starts = range(0, self.resamples, step) if len(counts) else ()
        with np.errstate(all="ignore"):
            blocks = (counts[:, start : start + step].astype(np.float64) for start in starts)
            self.blocks = [_Block(self.targets, block) for block in blocks]

    def measure(self, predictions: np.ndarray) -> dict[str, np.ndarray]:
        """Compute every metric in every resample.

        `relative_l2` divides by the range of all targets, as published figures do: the range is a unit, not a
        statistic.

        Args:
            predictions: (samples,) in judges' units.

        Returns:
            Metric -> (resamples,) float64, NaN where a resample leaves the metric undefined.
        """
        predictions = np.asarray(predictions, dtype=np.float64)[self.given]
        if not len(predictions) or not np.isfinite(predictions).all():
            return {name: np.full(self.resamples, np.nan) for name in METRIC_NAMES}
        with np.errstate(all="ignore"):  # what cannot be computed becomes NaN
            measured = [block.measure(predictions) for block in self.blocks]
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


class _Block:
    """(samples,) targets in some resamples, given by (samples, resamples) counts."""

    def __init__(self, targets: np.ndarray, counts: np.ndarray):
        self.targets, self.counts, self.total = targets, counts, counts.sum(axis=0)
        self.deviations = targets - targets.mean()
        ranks = self._centred_ranks(targets)
        self.drawn_ranks = counts * ranks
        self.rank_variance = np.einsum("sr,sr->r", self.drawn_ranks, ranks)

    def measure(self, predictions: np.ndarray) -> dict[str, np.ndarray]:
        """Every metric of (samples,) predictions: (resamples,) each."""
        error, p, t = predictions - self.targets, predictions - predictions.mean(), self.deviations
        terms = np.stack([error**2, np.abs(error), p, t, p * p, p * t, t * t])
        squared, absolute, p_mean, t_mean, p_square, product, t_square = terms @ self.counts / self.total
        ranks = self._centred_ranks(predictions)
        rank_variance = np.einsum("sr,sr,sr->r", self.counts, ranks, ranks)
        rank_product = np.einsum("sr,sr->r", self.drawn_ranks, ranks)
        spearman, vary = _correlation(rank_variance, rank_product, self.rank_variance)
        products = (p_square - p_mean**2, product - p_mean * t_mean, t_square - t_mean**2)
        return {
            "spearman": spearman,
            "pearson": np.where(vary, _correlation(*products)[0], np.nan),
            "mse": squared,
            "mae": absolute,
            "relative_l2": squared / np.ptp(self.targets) ** 2 * 100,
        }

    def _centred_ranks(self, values: np.ndarray) -> np.ndarray:
        """Ranks of the drawn values, ties sharing their mean rank, less the mean rank: (samples, resamples)."""
        order = np.argsort(values, kind="stable")
        starts = np.flatnonzero(np.diff(values[order], prepend=-np.inf))  # of each group of equal values
        drawn = np.cumsum(self.counts[order], axis=0)[[*starts[1:] - 1, -1]]  # up to the end of each group
        ranks = drawn - self.total  # twice a group's mean rank, less twice the mean rank of all
        ranks[1:] += drawn[:-1]  # with its first rank, beside its last one
        return (ranks / 2)[np.searchsorted(values[order][starts], values)]


def _correlation(first: np.ndarray, both: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Covariances -> correlations, NaN where one of the two does not vary; and where both vary."""
    vary = (first > 0) & (second > 0)
    return np.where(vary, np.clip(both / np.sqrt(first * second), -1, 1), np.nan), vary
