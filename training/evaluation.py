"""Scores a split under a protocol of missing modalities: the model, ridge regression and the training mean."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from datasets import Dataset

from .baselines import Baselines, PooledRows, pool_rows, target_columns
from .evaluation_cells import Cell, measure_cell
from .evaluation_results import BOOTSTRAP_SEED, EvaluationResult, MaskResult
from .masked_scores import MaskedScores
from .metrics.bootstrap import draw_resamples
from .missingness import Mask, observed_masks
from .prediction import Member
from .protocols import Protocol, View


def evaluate_subsets(model, processor, dataset: Dataset, *arguments, **options) -> EvaluationResult:
    """Scores `dataset` under each of the 2^M - 1 masks: an `Evaluator` of these arguments, with `subsets`."""
    return Evaluator(model, processor, dataset, *arguments, **options).evaluate(Protocol("subsets"))


class Evaluator:
    """Scores one split under any number of protocols.

    No feature is read that a mask hides. A sample is scored once under each mask that any protocol shows it under:
    after `subsets` the others cost no pass through the model. Every metric has a bootstrap interval, and all cells are
    measured on the same resamples of the split.

    Args:
        model: a `LimssrForScoreRegression`, possibly prepared by `accelerator`.
        processor: the model's `LimssrProcessor`.
        dataset: one split.
        modalities: which of the model's modalities, in mask order; all by default.
        train_rows: the rows the model was trained on, for floor and ridge; none without them.
        accelerator: shares the samples over its processes; each of them returns the whole result.
        baselines: fitted already, in place of `train_rows` (fit once, evaluate every epoch).
        best_attainable: mask in the order of `modalities` -> known metrics of the best possible predictor; shown in
            rows in which every sample has the same mask.
        batch_size: samples a batch and process.
        progress: show a bar (on the main process).
        others: more models with their processors (see `load_members`); the mean of all is then the score.

    Raises:
        ValueError: a modality the model does not know, no column for a score of the model, or no sample.
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
        self.modalities, self.score_names = _known_modalities(config, modalities), list(config.score_names)
        if not len(dataset):
            raise ValueError("there is nothing to evaluate: the split has no samples")
        if baselines is None and train_rows is not None:
            baselines = Baselines(train_rows, self.modalities, self.score_names)
        self.baselines, self.best_attainable = baselines, best_attainable or {}
        self.rows = _pool(dataset, self.modalities, self.score_names, with_features=baselines is not None)
        self.resamples = draw_resamples(len(dataset), seed=BOOTSTRAP_SEED)
        silent = not progress or (accelerator is not None and not accelerator.is_main_process)
        members = [(model, processor), *others]
        self.scores = MaskedScores(members, dataset, self.modalities, accelerator, batch_size, silent)

    def evaluate(self, protocol: Protocol) -> EvaluationResult:
        """The split under one protocol.

        Raises:
            ValueError: a rate of the protocol is impossible or names no modality.
        """
        visible = self.rows.visible
        observed = [tuple(int(bit) for bit in row) for row in visible]
        views = protocol.views(self.rows.sample_ids, observed, self.modalities)
        shown = [np.array(view.masks, dtype=bool) for view in views]  # (samples, modalities)
        self.scores.score([might & visible for might in shown])
        results = [self._measure(view, might) for view, might in zip(views, shown, strict=True)]
        return EvaluationResult.collect(protocol.name, self.modalities, self.score_names, len(visible), results)

    def _measure(self, view: View, shown: np.ndarray) -> MaskResult:
        """The result of a view whose samples are all scored."""
        visible = self.rows.visible
        seen = shown & visible
        rows = np.flatnonzero(seen.any(axis=1))
        predictions, targets = self.scores.predictions(seen), self.rows.targets[rows]
        ridge = self._ridge(view, seen)[rows]
        parts = {"model": targets if predictions is None else predictions.score}
        if self.baselines is not None:
            parts |= {"ridge": ridge, "floor": self.baselines.mean_predictions(len(rows))}
        cells = {name: self._cell(view, parts, rows, column) for column, name in enumerate(self.score_names)}
        return MaskResult(
            name=view.name,
            mask=view.mask,
            rates=view.rates,
            seed=view.seed,
            samples=len(rows),
            complete=int((seen == shown)[rows].all(axis=1).sum()),
            hidden=1 - float(seen[rows].sum() / max(visible[rows].sum(), 1)),
            scores=cells,
            shown=shown[rows],
            predictions=predictions,
            ridge=ridge,
            targets=targets,
        )

    def _cell(self, view: View, parts: dict[str, np.ndarray], rows: np.ndarray, column: int) -> Cell:
        """Of one score; `parts` are (samples, scores) each, of the scored rows."""
        reason = self.baselines.reasons[view.mask][column] if self.baselines is not None and view.mask else None
        scored = {name: values[:, column] for name, values in parts.items() if name != "ridge" or reason is None}
        targets = self.rows.targets[rows, column]
        return measure_cell(scored, targets, self.resamples[rows], self.best_attainable.get(view.mask), reason)

    def _ridge(self, view: View, seen: np.ndarray) -> np.ndarray:
        if self.baselines is None:
            return np.full_like(self.rows.targets, np.nan)
        if view.mask is not None:
            return self.baselines.ridge_predictions(self.rows, view.mask)
        return self.baselines.predictions_from(self.rows, seen)


def _known_modalities(config, modalities: Sequence[str] | None) -> list[str]:
    names = list(config.modalities) if modalities is None else list(modalities)
    unknown = [name for name in names if name not in config.modalities]
    if unknown or not names:
        raise ValueError(f"cannot evaluate the modalities {unknown or names}; the model has {list(config.modalities)}")
    return names


def _pool(dataset: Dataset, modalities: list[str], score_names: list[str], with_features: bool) -> PooledRows:
    """Targets and presence of every row, and its pooled features where a ridge will read them."""
    modality_columns = [name for name in modalities if name in dataset.column_names]
    columns = dict.fromkeys(["sample_id", *target_columns(dataset.column_names, score_names), *modality_columns])
    dataset = dataset.select_columns(list(columns))
    if with_features:
        return pool_rows(dataset, modalities, score_names)
    pooled = pool_rows(dataset.remove_columns(modality_columns), modalities, score_names)
    visible = np.zeros_like(pooled.visible)
    present = observed_masks(dataset, modality_columns)
    visible[:, [modalities.index(name) for name in modality_columns]] = np.array(present, dtype=bool)
    return replace(pooled, visible=visible)
