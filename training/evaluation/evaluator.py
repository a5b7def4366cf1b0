"""Scores a split under a protocol of missing modalities, beside ridge regression and the training mean."""

from collections.abc import Mapping, Sequence

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from ..data.aqa_data import target_columns
from ..data.masks import Mask, available_masks
from ..prediction.predictor import PATHS, Member, Predictions, predict_masks
from .baselines import Baselines, PooledRows, pool_rows, rows_by_mask
from .metrics.bootstrap import draw_resamples
from .protocols import MaskSet, Protocol
from .results import BOOTSTRAP_SEED, EvaluationResult, MaskResult, ScoredRow, measure_row


def evaluate_subsets(model, processor, dataset: Dataset, *arguments, **options) -> EvaluationResult:
    """Score `dataset` under each of the 2^M - 1 masks, with the arguments of `Evaluator`."""
    return Evaluator(model, processor, dataset, *arguments, **options).evaluate(Protocol("subsets"))


class Evaluator:
    """Scores one split under any number of protocols.

    Hidden features are never read. Each sample is scored once under each mask that any protocol gives it, so that
    after `subsets` the other protocols need no pass through the model. Every metric has a bootstrap interval; all rows
    share the same resamples of the split.

    Args:
        model: a `LimssrForScoreRegression`, possibly prepared by `accelerator`.
        processor: the model's `LimssrProcessor`.
        dataset: one split.
        modalities: names in mask order, all of them the model's; by default every modality of the model.
        train_rows: rows the model was trained on, for the baselines; without them there are none.
        accelerator: shares the samples over its processes; each process returns the whole result.
        baselines: fitted baselines, in place of `train_rows`.
        best_attainable: mask -> known metrics of the best possible predictor.
        batch_size: samples per batch and process.
        progress: whether the main process shows a progress bar.
        others: more models with their processors, see `load_members`; the score is then the mean over all.

    Raises:
        ValueError: the model does not know a modality, the data has no column for a score, or there is no sample.
    """

    def __init__(
        self,
        model,
        processor,
        dataset: Dataset,
        modalities: Sequence[str] | None = None,
        train_rows: Sequence[dict] | None = None,
        accelerator=None,
        *,
        baselines: Baselines | None = None,
        best_attainable: Mapping[Mask, dict] | None = None,
        batch_size: int = 16,
        progress: bool = True,
        others: Sequence[Member] = (),
    ) -> None:
        config = (accelerator.unwrap_model(model) if accelerator else model).config
        self.model_modalities, self.score_names = list(config.modalities), list(config.score_names)
        self.modalities = self.model_modalities if modalities is None else list(modalities)
        unknown = [name for name in self.modalities if name not in self.model_modalities]
        if unknown or not self.modalities:
            raise ValueError(f"cannot evaluate the modalities {unknown}; the model has {self.model_modalities}")
        if not len(dataset):
            raise ValueError("there is nothing to evaluate: the split has no samples")
        if baselines is None and train_rows is not None:
            baselines = Baselines(train_rows, self.modalities, self.score_names)
        self.baselines, self.best_attainable = baselines, best_attainable or {}
        self.rows = _pool(dataset, self.modalities, self.score_names, with_features=baselines is not None)
        self.resamples = draw_resamples(len(dataset), seed=BOOTSTRAP_SEED)
        self.members, self.dataset = [(model, processor), *others], dataset
        self.accelerator, self.batch_size = accelerator, batch_size
        self.silent = not progress or (accelerator is not None and not accelerator.is_main_process)
        self._scored: dict[Mask, np.ndarray] = {}  # (samples,) bool
        self._scores: dict[Mask, dict[str, np.ndarray]] = {}  # path -> (samples, scores)

    def evaluate(self, protocol: Protocol) -> EvaluationResult:
        """Score the split under one protocol.

        Raises:
            ValueError: a rate of the protocol is impossible or names no modality.
        """
        available = [tuple(int(flag) for flag in row) for row in self.rows.available]
        mask_sets = protocol.mask_sets(self.rows.sample_ids, available, self.modalities)
        allowed = [np.array(mask_set.masks, dtype=bool) for mask_set in mask_sets]  # (samples, modalities) each
        self._score([masks & self.rows.available for masks in allowed])
        results = [self._measure(mask_set, masks) for mask_set, masks in zip(mask_sets, allowed, strict=True)]
        return EvaluationResult.collect(protocol.name, self.modalities, self.score_names, len(available), results)

    def _score(self, used: Sequence[np.ndarray]) -> None:
        """Predict what was not predicted before; each of `used` is (samples, modalities) bool."""
        wanted: dict[Mask, np.ndarray] = {}
        for mask, rows in (entry for masks in used for entry in rows_by_mask(masks).items()):
            wanted[mask] = wanted.get(mask, False) | rows
        pending = {mask: rows & ~self._scored.get(mask, np.zeros_like(rows)) for mask, rows in wanted.items()}
        pending = {mask: rows for mask, rows in pending.items() if rows.any()}
        if not pending:
            return
        total = sum(int(rows.sum()) for rows in pending.values())
        with tqdm(total=total, desc="evaluating", unit="score", disable=self.silent) as bar:
            settings = (self.modalities, self.batch_size, self.accelerator, bar)
            found = predict_masks(self.members, self.dataset, pending, *settings)
        for mask, rows in pending.items():
            self._scored[mask] = self._scored.get(mask, False) | rows
            scores = self._scores.setdefault(mask, {path: np.full_like(self.rows.targets, np.nan) for path in PATHS})
            for path in PATHS:
                scores[path][rows] = found[mask][path][rows]

    def _predictions(self, used: np.ndarray) -> Predictions | None:
        """Predictions for the samples of which anything is used, in the order of the split."""
        rows = used.any(axis=1)
        if not rows.any():
            return None
        scores = {path: np.full_like(self.rows.targets, np.nan) for path in PATHS}
        for mask, chosen in rows_by_mask(used).items():
            for path in PATHS:
                scores[path][chosen] = self._scores[mask][path][chosen]
        of_model = np.zeros((int(rows.sum()), len(self.model_modalities)), dtype=bool)
        of_model[:, [self.model_modalities.index(name) for name in self.modalities]] = used[rows]
        sample_ids = [self.rows.sample_ids[row] for row in np.flatnonzero(rows)]
        scores = {path: values[rows] for path, values in scores.items()}
        return Predictions(sample_ids, self.model_modalities, used=of_model, **scores)

    def _measure(self, mask_set: MaskSet, allowed: np.ndarray) -> MaskResult:
        """Measure a mask set whose samples are all scored."""
        used = allowed & self.rows.available
        rows = used.any(axis=1)
        predictions, targets = self._predictions(used), self.rows.targets[rows]
        parts, ridge = {"model": targets if predictions is None else predictions.scores}, np.full_like(targets, np.nan)
        if self.baselines is not None:
            ridge = self.baselines.ridge_predictions(self.rows, used, mask_set.mask)[rows]
            parts |= {"ridge": ridge, "mean_baseline": self.baselines.mean_predictions(len(targets))}
        return MaskResult(
            name=mask_set.name,
            mask=mask_set.mask,
            rates=mask_set.rates,
            seed=mask_set.seed,
            samples=len(targets),
            complete=int((used == allowed)[rows].all(axis=1).sum()),
            hidden=1 - float(used[rows].sum() / max(self.rows.available[rows].sum(), 1)),
            scores={name: self._row(mask_set, parts, rows, column) for column, name in enumerate(self.score_names)},
            allowed=allowed[rows],
            predictions=predictions,
            ridge=ridge,
            targets=targets,
        )

    def _row(self, mask_set: MaskSet, parts: dict[str, np.ndarray], rows: np.ndarray, column: int) -> ScoredRow:
        """Measure one score; `parts` are (scored samples, scores) each."""
        has_reason = self.baselines is not None and mask_set.mask is not None
        reason = self.baselines.reasons[mask_set.mask][column] if has_reason else None
        scored = {name: values[:, column] for name, values in parts.items() if name != "ridge" or reason is None}
        best = self.best_attainable.get(mask_set.mask)
        return measure_row(scored, self.rows.targets[rows, column], self.resamples[rows], best, reason)


def _pool(dataset: Dataset, modalities: list[str], score_names: list[str], with_features: bool) -> PooledRows:
    """Targets and available modalities of every row, with pooled features only where a ridge model reads them."""
    present = [name for name in modalities if name in dataset.column_names]
    columns = dict.fromkeys(["sample_id", *target_columns(dataset.column_names, score_names), *present])
    dataset = dataset.select_columns(list(columns))
    if with_features:
        return pool_rows(dataset, modalities, score_names)
    pooled = pool_rows(dataset.remove_columns(present), modalities, score_names)
    pooled.available[:, [modalities.index(name) for name in present]] = available_masks(dataset, present)
    return pooled
