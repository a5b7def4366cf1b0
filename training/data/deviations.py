"""Weights of labels by how well their raters agreed."""

from collections.abc import Sequence

import numpy as np

from .aqa_data import target_columns


def deviation_weights(rows: Sequence[dict], score_names: Sequence[str]) -> dict[str, list[float]]:
    """Weights of the labels of training rows by inverse variance, see `inverse_variance_weights`.

    Args:
        rows: training rows with a column `<score>_deviation` for each score: the raters' standard deviation, None or
            NaN where it is not known.
        score_names: name of each score.

    Returns:
        Sample id -> weight of each score's label.

    Raises:
        ValueError: a score has no such column, or none of its deviations is known.
    """
    first = rows[0]
    columns = [f"{name}_deviation" for name in target_columns(list(first), score_names)]
    if absent := [name for name in columns if name not in first]:
        raise ValueError(
            f"`label_weights` is deviation, but the dataset has no column {absent[0]!r} with the raters' standard "
            "deviation: leave it out."
        )
    sample_ids, deviations = [], np.empty((len(rows), len(columns)))
    for index in range(len(rows)):
        row = rows[index]
        sample_ids.append(str(row["sample_id"]))
        deviations[index] = [np.nan if row[name] is None else row[name] for name in columns]
    for name, values in zip(columns, deviations.T, strict=True):
        if np.isnan(values).all():
            raise ValueError(f"`label_weights` is deviation, but the column {name!r} has no value in training.")
    return dict(zip(sample_ids, inverse_variance_weights(deviations).tolist(), strict=True))


def inverse_variance_weights(deviations: np.ndarray) -> np.ndarray:
    """Weights of labels in a regression, by the inverse of their error's variance (Aitken 1936):

        w_i = c / (v + sd_i^2),   v = mean of sd_i^2,   c such that the mean of w_i is 1

    A label is the mean of n raters, whose error has the variance sd_i^2 / n. To it comes the variance tau^2 of all
    error that is not the raters', as in a random-effects model (DerSimonian and Laird 1986), or a few raters who agree
    by chance would outweigh all others. It is taken to be that of the average label, v / n. If all labels have about
    as many raters, n cancels out. A weight is at most twice that of a label of average deviation.

    Args:
        deviations: (rows, scores) standard deviations of the raters, NaN = not known.

    Returns:
        (rows, scores) weights, 1 where the deviation is not known; their mean is 1 in each score.
    """
    variances = np.square(deviations)
    mean = np.nanmean(variances, axis=0)
    weights = 1 / (1 + np.divide(variances, mean, out=np.zeros_like(variances), where=mean > 0))
    return np.nan_to_num(weights / np.nanmean(weights, axis=0), nan=1.0)
