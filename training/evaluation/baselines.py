"""The two yardsticks beside every score of the model: predicting the training mean, and ridge regression.

The ridge baseline is one linear model for each mask and score, its strength chosen by leave-one-out on the training
rows. It reads the mean and the maximum over clips of the modalities of that mask, standardised, and of a text the
TF-IDF weights of its words and word pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import RidgeCV
from sklearn.preprocessing import StandardScaler

from ..data.aqa_data import row_targets
from ..data.masks import Mask, all_subsets, subset_name

RIDGE_ALPHAS = np.logspace(-2, 6, 33)
MINIMUM_ROWS = 10


@dataclass(frozen=True)
class PooledRows:
    """Rows reduced to what a linear model reads.

    Attributes:
        sample_ids: one a row.
        features: modality -> (rows, 2 * dim) float64, mean then maximum over clips, zeros where the row lacks it; of
            a modality of text (rows,) strings, empty where the row lacks it.
        visible: (rows, modalities) bool, what each row has.
        targets: (rows, scores) float64 in judges' units, NaN = not given.
    """

    sample_ids: list[str]
    features: dict[str, np.ndarray]
    visible: np.ndarray
    targets: np.ndarray

    def of_mask(self, mask: Mask) -> list[np.ndarray]:
        """Features of the mask's modalities, which are the blocks of a `RidgeModel`."""
        return [values for values, shown in zip(self.features.values(), mask, strict=True) if shown]

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
            pooled[name].append(_pool(row.get(name)))
    visible = np.array([[vector is not None for vector in pooled[name]] for name in modalities], dtype=bool).T
    features = {name: _stack(pooled[name]) for name in modalities}
    shape = (len(sample_ids), len(score_names))
    return PooledRows(sample_ids, features, visible, np.array(targets).reshape(shape))


class RidgeModel:
    """
    Ridge regression on several blocks of features, one a modality.

    Args:
        blocks: of each modality `(rows, columns)` numbers, which are standardised, or `(rows,)` texts, of which the
            TF-IDF weights are taken (words and pairs in two texts at least, logarithmic counts). Beside a text, whose
            weights have norm 1, the other blocks are scaled to norm 1 on average, so that one penalty suits all.
        targets: `(rows,)`.
    """

    def __init__(self, blocks: list[np.ndarray], targets: np.ndarray):
        self.readers = [_make_text_reader() if _is_text(block) else StandardScaler() for block in blocks]
        self.beside_text = any(map(_is_text, blocks))
        for reader, block in zip(self.readers, blocks, strict=True):
            reader.fit(block)
        self.ridge = RidgeCV(alphas=RIDGE_ALPHAS).fit(self._join(blocks), targets)

    def predict(self, blocks: list[np.ndarray]) -> np.ndarray:
        """`(rows,)`."""
        return self.ridge.predict(self._join(blocks))

    def _join(self, blocks: list[np.ndarray]):
        read = [reader.transform(block) for reader, block in zip(self.readers, blocks, strict=True)]
        if not self.beside_text:
            return np.concatenate(read, axis=1)
        scaled = [part if sparse.issparse(part) else part / np.sqrt(part.shape[1]) for part in read]
        return sparse.hstack(scaled).tocsr()


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
        self.models: dict[Mask, list[RidgeModel | None]] = {}
        self.reasons: dict[Mask, list[str | None]] = {}
        for mask in all_subsets(len(self.modalities)):
            fits = [self._fit(train, mask, column) for column in range(len(score_names))]
            self.models[mask] = [model for model, _ in fits]
            self.reasons[mask] = [reason for _, reason in fits]

    def _fit(self, train: PooledRows, mask: Mask, column: int) -> tuple[RidgeModel | None, str | None]:
        targets = train.targets[:, column]
        used = train.complete_for(mask) & ~np.isnan(targets)
        if used.sum() < MINIMUM_ROWS:
            name = subset_name(mask, self.modalities)
            return None, f"{int(used.sum())} training rows have {name} and a target, {MINIMUM_ROWS} are needed"
        blocks = [values[used] for values in train.of_mask(mask)]
        if any(map(_is_text, blocks)) and not all(_has_words(texts) for texts in blocks if _is_text(texts)):
            return None, "no word occurs in two of the training texts"
        return RidgeModel(blocks, targets[used]), None

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
            blocks = [values[rows] for values in pooled.of_mask(present)]
            for column, model in enumerate(self.models[present]):
                if model is not None:
                    predictions[rows, column] = model.predict(blocks)
        return predictions


def _pool(content) -> np.ndarray | str | None:
    """(clips, dim) -> (2 * dim,): mean then maximum; a text as it is."""
    if content is None or isinstance(content, str):
        return content
    clips = np.asarray(content, dtype=np.float64)
    return np.concatenate([clips.mean(axis=0), clips.max(axis=0)])


def _stack(pooled: list[np.ndarray | str | None]) -> np.ndarray:
    if any(isinstance(content, str) for content in pooled):
        return np.array([content or "" for content in pooled])
    width = next((len(vector) for vector in pooled if vector is not None), 0)
    return np.array([np.zeros(width) if vector is None else vector for vector in pooled]).reshape(len(pooled), width)


def _is_text(block: np.ndarray) -> bool:
    return block.dtype.kind == "U"


def _make_text_reader() -> TfidfVectorizer:
    return TfidfVectorizer(ngram_range=(1, 2), min_df=2, sublinear_tf=True)


def _has_words(texts: np.ndarray) -> bool:
    try:
        _make_text_reader().fit(texts)
    except ValueError:  # an empty vocabulary
        return False
    return True


def _mean_of_given(targets: np.ndarray) -> float:
    given = targets[~np.isnan(targets)]
    return float(given.mean()) if len(given) else float("nan")
