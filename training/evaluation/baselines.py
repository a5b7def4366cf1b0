"""Baselines beside every score of the model: the training mean, and ridge regression.

The ridge baseline is one linear model for each mask and score. It reads the mean and the maximum over the clips of
each modality, standardised, and the TF-IDF weights of a text. Its penalty is chosen by leave-one-out on the training
rows.
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
        sample_ids: one for each row.
        features: modality -> (rows, 2 * dim) float64, mean and maximum over the clips, zeros where the row lacks it;
            for text (rows,) strings, empty where the row lacks it.
        available: (rows, modalities) bool.
        targets: (rows, scores) float64 in judges' units, NaN = not given.
    """

    sample_ids: list[str]
    features: dict[str, np.ndarray]
    available: np.ndarray
    targets: np.ndarray

    def blocks(self, mask: Mask, rows: np.ndarray) -> list[np.ndarray]:
        """Features of the mask's modalities in some rows, as `RidgeModel` reads them."""
        return [values[rows] for values, used in zip(self.features.values(), mask, strict=True) if used]


def pool_rows(rows: Sequence[dict], modalities: Sequence[str], score_names: Sequence[str]) -> PooledRows:
    """Read every row once, from a `datasets.Dataset`, a `MaskedDataset` or row dictionaries."""
    if hasattr(rows, "with_format"):
        rows = rows.with_format("numpy")  # ten times faster than nested Python lists
    sample_ids, targets, pooled = [], [], {name: [] for name in modalities}
    for index in range(len(rows)):
        row = rows[index]
        sample_ids.append(str(row["sample_id"]))
        targets.append(row_targets(row, score_names))
        for name in modalities:
            pooled[name].append(_pool(row.get(name)))
    available = np.array([[content is not None for content in pooled[name]] for name in modalities], dtype=bool).T
    features = {name: _stack(contents) for name, contents in pooled.items()}
    return PooledRows(sample_ids, features, available, np.array(targets).reshape(len(sample_ids), len(score_names)))


def _pool(content) -> np.ndarray | str | None:
    """(clips, dim) -> (2 * dim,): mean, then maximum; text is kept."""
    if content is None or isinstance(content, str):
        return content
    clips = np.asarray(content, dtype=np.float64)
    return np.concatenate([clips.mean(axis=0), clips.max(axis=0)])


def _stack(contents: list[np.ndarray | str | None]) -> np.ndarray:
    if any(isinstance(content, str) for content in contents):
        return np.array([content or "" for content in contents])
    width = next((len(vector) for vector in contents if vector is not None), 0)
    rows = [np.zeros(width) if vector is None else vector for vector in contents]
    return np.array(rows).reshape(len(contents), width)


def rows_by_mask(used: np.ndarray) -> dict[Mask, np.ndarray]:
    """Group rows by `used` (rows, modalities) bool: each non-empty mask that occurs, fullest first -> (rows,) bool."""
    by_mask = {mask: (used == np.array(mask, dtype=bool)).all(axis=1) for mask in all_subsets(used.shape[1])}
    return {mask: rows for mask, rows in by_mask.items() if rows.any()}


class RidgeModel:
    """Ridge regression on one block of features for each modality.

    Args:
        blocks: (rows, columns) numbers, which are standardised, or (rows,) texts, which become TF-IDF weights (words
            and word pairs that two texts have, logarithmic counts). Beside a text, whose weights have norm 1, other
            blocks are scaled to norm 1 on average, so that one penalty suits all.
        targets: (rows,).
    """

    def __init__(self, blocks: list[np.ndarray], targets: np.ndarray):
        self.readers = [_make_text_reader() if _is_text(block) else StandardScaler() for block in blocks]
        self.beside_text = any(map(_is_text, blocks))
        for reader, block in zip(self.readers, blocks, strict=True):
            reader.fit(block)
        self.ridge = RidgeCV(alphas=RIDGE_ALPHAS).fit(self._join(blocks), targets)

    def predict(self, blocks: list[np.ndarray]) -> np.ndarray:
        """Predict (rows,) scores."""
        return self.ridge.predict(self._join(blocks))

    def _join(self, blocks: list[np.ndarray]):
        read = [reader.transform(block) for reader, block in zip(self.readers, blocks, strict=True)]
        if not self.beside_text:
            return np.concatenate(read, axis=1)
        scaled = [part if sparse.issparse(part) else part / np.sqrt(part.shape[1]) for part in read]
        return sparse.hstack(scaled).tocsr()


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


class Baselines:
    """The training mean and the ridge models of every mask.

    Args:
        train_rows: rows the model was trained on; with static masks a `MaskedDataset`, so that ridge cannot read what
            was hidden from the model.
        modalities: names in mask order.
        score_names: scores in the model's order.

    Attributes:
        models: mask -> a `RidgeModel` for each score, None where it cannot be fitted.
        reasons: mask -> why it cannot, for each score.
    """

    def __init__(self, train_rows: Sequence[dict], modalities: Sequence[str], score_names: Sequence[str]):
        self.modalities = list(modalities)
        train = pool_rows(train_rows, modalities, score_names)
        given = [column[~np.isnan(column)] for column in train.targets.T]
        self.means = np.array([column.mean() if len(column) else np.nan for column in given])  # (scores,)
        self.models: dict[Mask, tuple[RidgeModel | None, ...]] = {}
        self.reasons: dict[Mask, tuple[str | None, ...]] = {}
        for mask in all_subsets(len(self.modalities)):
            fits = [self._fit(train, mask, column) for column in range(len(score_names))]
            self.models[mask], self.reasons[mask] = zip(*fits, strict=True)

    def _fit(self, train: PooledRows, mask: Mask, column: int) -> tuple[RidgeModel | None, str | None]:
        targets = train.targets[:, column]
        rows = (train.available >= np.array(mask, dtype=bool)).all(axis=1) & ~np.isnan(targets)
        if rows.sum() < MINIMUM_ROWS:
            name = subset_name(mask, self.modalities)
            return None, f"{int(rows.sum())} training rows have {name} and a target, {MINIMUM_ROWS} are needed"
        blocks = train.blocks(mask, rows)
        if any(_is_text(block) and not _has_words(block) for block in blocks):
            return None, "no word occurs in two of the training texts"
        return RidgeModel(blocks, targets[rows]), None

    def mean_predictions(self, count: int) -> np.ndarray:
        """Return the training mean for every sample, (count, scores); NaN for a score that no training row has."""
        return np.tile(self.means, (count, 1))

    def ridge_predictions(self, pooled: PooledRows, used: np.ndarray, mask: Mask | None = None) -> np.ndarray:
        """Predict ridge scores in judges' units, each row with the model of the modalities used of it.

        A row whose modalities have no model, or of which nothing is used, gets the training mean: ridge scores every
        sample that the network scores.

        Args:
            pooled: rows.
            used: (rows, modalities) bool, never more than is available.
            mask: mask that all rows share; a score for which it has no model is NaN.

        Returns:
            (rows, scores) float64.
        """
        predictions = self.mean_predictions(len(used))
        for present, rows in rows_by_mask(used).items():
            blocks = pooled.blocks(present, rows)
            for column, model in enumerate(self.models[present]):
                if model is not None:
                    predictions[rows, column] = model.predict(blocks)
        if mask is not None:
            predictions[:, [model is None for model in self.models[mask]]] = np.nan
        return predictions
