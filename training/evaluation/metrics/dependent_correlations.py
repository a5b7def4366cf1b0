"""Do two predictors correlate differently with the same targets on the same samples?"""

import math
from dataclasses import dataclass

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class CorrelationTest:
    """
    Attributes:
        statistic: t of Williams's test; positive where the first correlation is larger.
        degrees_of_freedom: samples - 3.
        p_value: two-sided.
        reason: why there is no test; the others are then None.
    """

    statistic: float | None
    degrees_of_freedom: int | None
    p_value: float | None
    reason: str | None = None


def williams_test(first: float | None, second: float | None, between: float | None, samples: int) -> CorrelationTest:
    """Williams's test of two dependent correlations that share a variable.

    E. J. Williams, The comparison of regression variables, Journal of the Royal Statistical Society B 21 (1959), in
    the form of equation 7 of J. H. Steiger, Tests for comparing elements of a correlation matrix, Psychological
    Bulletin 87 (1980), who recommends it for this case:

        t = (r_1 - r_2) sqrt( (n - 1) (1 + r_12) / (2 (n - 1) / (n - 3) |R| + ((r_1 + r_2) / 2)^2 (1 - r_12)^3) )
        |R| = 1 - r_1^2 - r_2^2 - r_12^2 + 2 r_1 r_2 r_12,   n - 3 degrees of freedom

    The test is of normal theory. With rank correlations in place of Pearson's it is an approximation.

    Args:
        first: r_1, correlation of one predictor with the targets; None = undefined.
        second: r_2, that of the other predictor.
        between: r_12, correlation of the predictors with each other.
        samples: n.

    Raises:
        ValueError: the three cannot be correlations of the same samples.
    """
    if first is None or second is None or between is None:
        return _no_test("a correlation is undefined")
    if samples < 4:
        return _no_test(f"{samples} samples, at least 4 are needed")
    determinant = 1 - first**2 - second**2 - between**2 + 2 * first * second * between
    if determinant < -1e-9 or max(abs(first), abs(second), abs(between)) > 1:
        raise ValueError(f"{first}, {second} and {between} are no correlations of three variables with each other")
    mean = (first + second) / 2
    spread = 2 * (samples - 1) / (samples - 3) * max(determinant, 0) + mean**2 * (1 - between) ** 3
    if first == second:
        statistic = 0.0
    elif spread < 1e-12:  # the predictors are linear functions of each other: only rounding can tell them apart
        return _no_test("the predictions are the same up to unit and origin")
    else:
        statistic = (first - second) * math.sqrt((samples - 1) * (1 + between) / spread)
    freedom = samples - 3
    return CorrelationTest(statistic, freedom, float(2 * stats.t.sf(abs(statistic), freedom)))


def compare_correlations(first: np.ndarray, second: np.ndarray, targets: np.ndarray, ranks: bool) -> CorrelationTest:
    """`williams_test` of two predictors.

    Args:
        first: predictions of one, (samples,).
        second: predictions of the other, (samples,).
        targets: (samples,), NaN = not given.
        ranks: of the rank correlations, an approximation.
    """
    given = ~np.isnan(targets)
    variables = [np.asarray(values, dtype=np.float64)[given] for values in (first, second, targets)]
    if given.sum() < 2 or any(not np.isfinite(values).all() or np.ptp(values) == 0 for values in variables):
        return _no_test("a correlation is undefined")
    if ranks:
        variables = [stats.rankdata(values) for values in variables]
    matrix = np.clip(np.corrcoef(variables), -1, 1)
    return williams_test(matrix[0, 2], matrix[1, 2], matrix[0, 1], int(given.sum()))


def _no_test(reason: str) -> CorrelationTest:
    return CorrelationTest(None, None, None, reason)
