"""The two yardsticks beside every score of the model: predicting the training mean, and ridge regression.

The ridge baseline is one linear model for each mask and score, on the mean and the maximum over clips of the
modalities of that mask, standardised, its strength chosen by leave-one-out on the training rows.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from .missingness import Mask, all_subsets, subset_name

RIDGE_ALPHAS = np.logspace(-2, 6, 33)
MINIMUM_ROWS = 10


@dataclass(frozen=True)
class PooledRows:
    """Rows reduced to what a linear model reads.

    Attributes:
        sample_ids: one a row.
        features: modality -> (rows, 2 * dim) float64, mean then maximum over clips; zeros where the row lacks it.
        visible: (rows, modalities) bool, what each row has.
        targets: (rows, scores) float64 in judges' units, NaN = not given.
    """

    sample_ids: list[str]
    features: dict[str, np.ndarray]
    visible: np.ndarray
    targets: np.ndarray

    def joined(self, mask: Mask) -> np.ndarray:
        """Features of the mask's modalities side by side, (rows, sum of 2 * dim)."""
        return np.concatenate([values for values, shown in zip(self.features.values(), mask, strict=True) if shown], 1)

    def complete_for(self, mask: Mask) -> np.ndarray:
        """(rows,) bool: which rows have every modality of the mask."""
        return (self.visible >= np.array(mask, dtype=bool)).all(axis=1)


def pool_rows(rows: Sequence[dict], modalities: Sequence[str], score_names: Sequence[str]) -> PooledRows:
    """Reads every row once; `rows` is a `datasets.Dataset`, a `MaskedDataset` or anything with row dictionaries."""
    if hasattr(rows, "with_format"):
        rows = rows.with_format("numpy")  # ten times faster than nested Python lists
    sample_ids, targets = [], []
    pooled: dict[str, list[np.ndarray | None]] = {name: [] for name in modalities}
    for index in range(len(rows)):
        row = rows[index]
        sample_ids.append(str(row["sample_id"]))
        targets.append(row_targets(row, score_names))
        for name in modalities:
            pooled[name].append(_pool_clips(row.get(name)))
    visible = np.array([[vector is not None for vector in pooled[name]] for name in modalities], dtype=bool).T
    features = {name: _stack(pooled[name]) for name in modalities}
    shape = (len(sample_ids), len(score_names))
    return PooledRows(sample_ids, features, visible, np.array(targets).reshape(shape))


def row_targets(row: dict, score_names: Sequence[str]) -> list[float]:
    """Targets of a row in judges' units, NaN = not given; a dataset of one score keeps it in the column `score`."""
    columns = target_columns(row, score_names)
    return [float("nan") if row[column] is None else float(row[column]) for column in columns]


def target_columns(columns: Sequence[str], score_names: Sequence[str]) -> list[str]:
    """The column of each score.

    Raises:
        ValueError: neither the named columns nor, for one score, the column `score` is there.
    """
    if all(name in columns for name in score_names):
        return list(score_names)
    if len(score_names) == 1 and "score" in columns:
        return ["score"]
    absent = [name for name in score_names if name not in columns]
    raise ValueError(f"the dataset has no column for the scores {absent}; its columns: {list(columns)}")


class Baselines:
    """The mean predictor and the ridge models of every mask, fitted on training rows.

    Args:
        train_rows: the rows the model saw: a `MaskedDataset` for a run with static masks (hidden features are not
            there for the ridge either), else the training split.
        modalities: names, in mask order.
        score_names: the scores, in the model's order.
    """

    def __init__(self, train_rows: Sequence[dict], modalities: Sequence[str], score_names: Sequence[str]):
        self.modalities = list(modalities)
        self.score_names = list(score_names)
        train = pool_rows(train_rows, modalities, score_names)
        self.means = [_mean_of_given(train.targets[:, column]) for column in range(len(score_names))]
        self.models: dict[Mask, list[Pipeline | None]] = {}
        self.reasons: dict[Mask, list[str | None]] = {}
        for mask in all_subsets(len(self.modalities)):
            fits = [self._fit(train, mask, column) for column in range(len(score_names))]
            self.models[mask] = [model for model, _ in fits]
            self.reasons[mask] = [reason for _, reason in fits]

    def _fit(self, train: PooledRows, mask: Mask, column: int) -> tuple[Pipeline | None, str | None]:
        targets = train.targets[:, column]
        used = train.complete_for(mask) & ~np.isnan(targets)
        if used.sum() < MINIMUM_ROWS:
            name = subset_name(mask, self.modalities)
            return None, f"{int(used.sum())} training rows have {name} and a target, {MINIMUM_ROWS} are needed"
        model = make_pipeline(StandardScaler(), RidgeCV(alphas=RIDGE_ALPHAS))
        return model.fit(train.joined(mask)[used], targets[used]), None

    def mean_predictions(self, count: int) -> np.ndarray:
        """The training mean for every sample, (count, scores); NaN for a score no training row has."""
        return np.tile(np.array(self.means, dtype=np.float64), (count, 1))

    def ridge_predictions(self, pooled: PooledRows, mask: Mask) -> np.ndarray:
        """Ridge scores in judges' units under a mask, (rows, scores); NaN for a score whose mask has no model.

        A row that lacks a modality of the mask is scored by the model of what it does have, or by the training mean
        where there is no such model: the ridge answers for every sample that the network answers for.
        """
        predictions = self.predictions_from(pooled, pooled.visible & np.array(mask, dtype=bool))
        unavailable = [model is None for model in self.models[mask]]
        predictions[:, unavailable] = np.nan
        return predictions

    def predictions_from(self, pooled: PooledRows, seen: np.ndarray) -> np.ndarray:
        """Ridge scores in judges' units, (rows, scores), each row by the model of what is seen of it.

        Args:
            pooled: rows with at least the seen modalities.
            seen: (rows, modalities) bool.

        Returns:
            The training mean where nothing is seen of a row, or where no training rows have what is seen of it.
        """
        predictions = self.mean_predictions(len(pooled.sample_ids))
        for present in {tuple(int(flag) for flag in row) for row in seen if row.any()}:
            rows = (seen == np.array(present, dtype=bool)).all(axis=1)
            features = pooled.joined(present)[rows]
            for column, model in enumerate(self.models[present]):
                if model is not None:
                    predictions[rows, column] = model.predict(features)
        return predictions


def _pool_clips(clips) -> np.ndarray | None:
    """(clips, dim) -> (2 * dim,): mean then maximum."""
    if clips is None:
        return None
    clips = np.asarray(clips, dtype=np.float64)
    return np.concatenate([clips.mean(axis=0), clips.max(axis=0)])


def _stack(vectors: list[np.ndarray | None]) -> np.ndarray:
    width = next((len(vector) for vector in vectors if vector is not None), 0)
    return np.array([np.zeros(width) if vector is None else vector for vector in vectors]).reshape(len(vectors), width)


def _mean_of_given(targets: np.ndarray) -> float:
    given = targets[~np.isnan(targets)]
    return float(given.mean()) if len(given) else float("nan")
