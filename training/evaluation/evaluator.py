"""Scores a split under a protocol of missing modalities: the model, ridge regression and the training mean."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from ..data.aqa_data import target_columns
from ..data.masks import Mask, all_subsets, available_masks
from ..prediction.predictor import PATHS, Member, Predictions, predict_masks
from .baselines import Baselines, PooledRows, pool_rows
from .metrics.bootstrap import draw_resamples
from .protocols import MaskSet, Protocol
from .results import BOOTSTRAP_SEED, Cell, EvaluationResult, MaskResult, measure_cell


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
        views = protocol.mask_sets(self.rows.sample_ids, observed, self.modalities)
        shown = [np.array(view.masks, dtype=bool) for view in views]  # (samples, modalities)
        self.scores.score([might & visible for might in shown])
        results = [self._measure(view, might) for view, might in zip(views, shown, strict=True)]
        return EvaluationResult.collect(protocol.name, self.modalities, self.score_names, len(visible), results)

    def _measure(self, view: MaskSet, shown: np.ndarray) -> MaskResult:
        """The result of a view whose samples are all scored."""
        visible = self.rows.visible
        seen = shown & visible
        rows = np.flatnonzero(seen.any(axis=1))
        predictions, targets = self.scores.predictions(seen), self.rows.targets[rows]
        ridge = self._ridge(view, seen)[rows]
        parts = {"model": targets if predictions is None else predictions.scores}
        if self.baselines is not None:
            parts |= {"ridge": ridge, "mean_baseline": self.baselines.mean_predictions(len(rows))}
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

    def _cell(self, view: MaskSet, parts: dict[str, np.ndarray], rows: np.ndarray, column: int) -> Cell:
        """Of one score; `parts` are (samples, scores) each, of the scored rows."""
        reason = self.baselines.reasons[view.mask][column] if self.baselines is not None and view.mask else None
        scored = {name: values[:, column] for name, values in parts.items() if name != "ridge" or reason is None}
        targets = self.rows.targets[rows, column]
        return measure_cell(scored, targets, self.resamples[rows], self.best_attainable.get(view.mask), reason)

    def _ridge(self, view: MaskSet, seen: np.ndarray) -> np.ndarray:
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
    present = available_masks(dataset, modality_columns)
    visible[:, [modalities.index(name) for name in modality_columns]] = np.array(present, dtype=bool)
    return replace(pooled, visible=visible)


class MaskedScores:
    """Predicts what it is asked for and remembers it.

    Of a sample nothing is read but what its masks show.

    Args:
        members: a model with its processor, or several, whose mean is the score.
        dataset: one split.
        modalities: names in mask order, all of them the models'.
        accelerator, batch_size: see `predict_masks`.
        silent: show no bar.
    """

    def __init__(
        self,
        members: Sequence[Member],
        dataset: Dataset,
        modalities: Sequence[str],
        accelerator,
        batch_size: int,
        silent: bool,
    ) -> None:
        self.members, self.accelerator, self.batch_size = members, accelerator, batch_size
        model, _ = members[0]
        config = (accelerator.unwrap_model(model) if accelerator else model).config
        self.dataset, self.modalities, self.silent = dataset, list(modalities), silent
        self.model_modalities = list(config.modalities)
        self.shape = (len(dataset), len(config.score_names))
        self.sample_ids = [str(sample_id) for sample_id in dataset.select_columns(["sample_id"])["sample_id"]]
        self._done: dict[Mask, np.ndarray] = {}  # (samples,) bool
        self._scores: dict[Mask, dict[str, np.ndarray]] = {}  # (samples, scores) each

    def score(self, views: Sequence[np.ndarray]) -> None:
        """Predicts whatever is seen in a view and was not predicted before.

        Args:
            views: (samples, modalities) bool, what is seen of each sample; never what it lacks.
        """
        wanted: dict[Mask, np.ndarray] = {}
        for seen in views:
            for mask, chosen in self._by_mask(seen):
                wanted[mask] = wanted.get(mask, False) | chosen
        nothing = np.zeros(len(self.dataset), dtype=bool)
        pending = {mask: chosen & ~self._done.get(mask, nothing) for mask, chosen in wanted.items()}
        pending = {mask: chosen for mask, chosen in pending.items() if chosen.any()}
        if pending:
            self._predict(pending)

    def predictions(self, seen: np.ndarray) -> Predictions | None:
        """Of the samples of which anything is seen, in the order of the split; None where there is none.

        Args:
            seen: a view that was given to `score`.
        """
        scored = np.flatnonzero(seen.any(axis=1))
        if not len(scored):
            return None
        scores = {name: np.full(self.shape, np.nan) for name in PATHS}
        for mask, chosen in self._by_mask(seen):
            for name in PATHS:
                scores[name][chosen] = self._scores[mask][name][chosen]
        visible = np.zeros((len(scored), len(self.model_modalities)), dtype=bool)
        visible[:, [self.model_modalities.index(name) for name in self.modalities]] = seen[scored]
        sample_ids = [self.sample_ids[row] for row in scored]
        scores = {name: values[scored] for name, values in scores.items()}
        return Predictions(sample_ids, self.model_modalities, used=visible, **scores)

    def _by_mask(self, seen: np.ndarray) -> Iterator[tuple[Mask, np.ndarray]]:
        """Each mask that occurs, fullest first, and which samples have it, (samples,) bool."""
        for mask in all_subsets(len(self.modalities)):
            chosen = (seen == np.array(mask, dtype=bool)).all(axis=1)
            if chosen.any():
                yield mask, chosen

    def _predict(self, pending: dict[Mask, np.ndarray]) -> None:
        total = sum(int(chosen.sum()) for chosen in pending.values())
        with tqdm(total=total, desc="evaluating", unit="score", disable=self.silent) as bar:
            settings = (self.modalities, self.batch_size, self.accelerator, bar)
            found = predict_masks(self.members, self.dataset, pending, *settings)
        for mask, chosen in pending.items():
            done = self._done.setdefault(mask, np.zeros(len(self.dataset), dtype=bool))
            scores = self._scores.setdefault(mask, {name: np.full(self.shape, np.nan) for name in PATHS})
            done |= chosen
            for name in PATHS:
                scores[name][chosen] = found[mask][name][chosen]
