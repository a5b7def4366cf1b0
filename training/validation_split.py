"""A validation split carved from the training split, alike in its scores."""

import numpy as np
from datasets import Dataset
from sklearn.model_selection import train_test_split

from .baselines import target_columns

MOST_BINS = 10


def split_validation(
    train: Dataset, score_names: list[str], fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of training and validation, stratified by quantiles of the first score. No feature is read.

    Args:
        train: the training split.
        score_names: the scores, of which the first decides.
        fraction: of the rows that validate, above 0 and below 1.
        seed: another seed, another split.

    Raises:
        ValueError: the split has too few rows for two parts of at least 2.
    """
    column = target_columns(train.column_names, score_names)[0]
    scores = np.array(train.select_columns([column])[column][:], dtype=np.float64)  # (rows,), NaN = not given
    validating = round(len(scores) * fraction)
    if min(validating, len(scores) - validating) < 2:
        raise ValueError(
            f"`validation_fraction` {fraction} of {len(scores)} training rows leaves {len(scores) - validating} for "
            f"training and {validating} for validation; both need 2 or more."
        )
    bins = max(1, min(MOST_BINS, validating, len(scores) - validating))
    ranks = np.argsort(np.argsort(scores, kind="stable"), kind="stable")  # (rows,); NaN come last
    strata = ranks * bins // len(scores)  # (rows,), each as large as the others
    rows = np.arange(len(scores))
    train_rows, validation_rows = train_test_split(rows, test_size=validating, stratify=strata, random_state=seed)
    return np.sort(train_rows), np.sort(validation_rows)
