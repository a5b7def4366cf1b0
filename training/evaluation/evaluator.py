"""Scores a split under a protocol of missing modalities, beside ridge regression and the training mean."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from ..data.aqa_data import target_columns
from ..data.masks import Mask, Rates, all_subsets, available_masks, draw_static_masks, subset_name, validate_rates
from ..prediction.predictions import PATHS, Predictions, round_scores
from ..prediction.predictor import Member, predict_masks
from .baselines import Baselines, PooledRows, pool_rows, rows_by_mask
from .calibration import measure_coverage
from .metrics.bootstrap import draw_resamples
from .results import (
    BOOTSTRAP_SEED,
    EvaluationResult,
    MaskResult,
    average_masks,
    measure_row,
    rates_name,
    summarize_seeds,
)

PROTOCOLS = ("subsets", "rates", "available", "curve")
CURVE_RATES = tuple(round(0.1 * step, 1) for step in range(10))
MASK_SEEDS = (0, 1, 2, 3, 4)


@dataclass(frozen=True)
class MaskSet:
    """The allowed modalities of each sample in one pass over the split.

    Attributes:
        name: such as `video+audio`, `available` or `video 0.3, audio 0.5, flow 0.7`.
        masks: one for each sample.
        rates, seed: missing rate of each modality and mask seed; None where no masks are drawn.
    """

    name: str
    masks: list[Mask]
    rates: dict[str, float] | None = None
    seed: int | None = None

    @property
    def mask(self) -> Mask | None:
        """The mask that all samples share; None where each has its own."""
        return self.masks[0] if self.seed is None else None


@dataclass(frozen=True)
class Protocol:
    """How an evaluation hides modalities.

    - `subsets`: every sample under each of the 2^M - 1 masks, as published.
    - `available`: everything that the data has.
    - `rates`: each modality is hidden with its own rate; with rates of .3, .5 and .7 and `permutations` these are the
      imbalanced missing rates of BMC-AQA.
    - `curve`: every modality is hidden with rates of 0, 0.1 ... 0.9.

    Drawn masks depend on the seed and the sample id alone. A draw that would hide everything is repeated, so at high
    rates less is hidden than the rate says: with three modalities at most two thirds.

    Args:
        name: one of `PROTOCOLS`.
        rates: for `rates` only: one rate for all modalities, or rates by name; a modality without one is never hidden.
        permutations: for `rates` only: the rates in every order over the modalities.
        seeds: mask seeds of `rates` and `curve`; there is a result for each.

    Raises:
        ValueError: the arguments do not fit together.
    """

    name: str = "subsets"
    rates: Rates | None = None
    permutations: bool = False
    seeds: tuple[int, ...] = MASK_SEEDS

    def __post_init__(self) -> None:
        if self.name not in PROTOCOLS:
            raise ValueError(f"unknown protocol {self.name!r}; there are {', '.join(PROTOCOLS)}")
        if (self.rates is None) == (self.name == "rates"):
            needed = "needs `rates`, such as 0.3" if self.name == "rates" else "takes no `rates`"
            raise ValueError(f"the protocol {self.name!r} {needed}")
        if self.permutations and not isinstance(self.rates, dict):
            raise ValueError(
                "`permutations` needs the protocol 'rates' and a rate for each modality, such as video=0.3"
            )
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"mask seeds must be one or more different numbers, got {list(self.seeds)}")

    def mask_sets(
        self, sample_ids: Sequence[str], available: Sequence[Mask], modalities: Sequence[str]
    ) -> list[MaskSet]:
        """Build the mask sets for samples with the `available` modalities.

        Raises:
            ValueError: a rate is impossible or names no modality.
        """
        if self.name == "subsets":
            subsets = all_subsets(len(modalities))
            return [MaskSet(subset_name(mask, modalities), [mask] * len(sample_ids)) for mask in subsets]
        if self.name == "available":
            return [MaskSet("available", [(1,) * len(modalities)] * len(sample_ids))]
        return [
            MaskSet(name, _draw(sample_ids, modalities, rates, seed, available), rates, seed)
            for name, rates in self._settings(modalities)
            for seed in self.seeds
        ]

    def _settings(self, modalities: Sequence[str]) -> list[tuple[str, dict[str, float]]]:
        """Name and rates of each row of the result."""
        if self.name == "curve":
            return [(f"{rate:.1f}", dict.fromkeys(modalities, rate)) for rate in CURVE_RATES]
        rates = validate_rates(self.rates, modalities, may_be_one=True)
        orders = itertools.permutations(rates.values()) if self.permutations else [tuple(rates.values())]
        settings = [dict(zip(modalities, order, strict=True)) for order in dict.fromkeys(orders)]
        return [(rates_name(rates), rates) for rates in settings]


def _draw(
    sample_ids: Sequence[str], modalities: Sequence[str], rates: dict[str, float], seed: int, available: Sequence[Mask]
) -> list[Mask]:
    """`draw_static_masks`, where a rate of 1 always hides; a sample with nothing left has an empty mask."""
    always = [rates[name] == 1 for name in modalities]
    rates = {name: 0.0 if rate == 1 else rate for name, rate in rates.items()}
    available = [tuple(bit * (not hidden) for bit, hidden in zip(mask, always, strict=True)) for mask in available]
    ids = [sample_id for sample_id, mask in zip(sample_ids, available, strict=True) if any(mask)]
    drawn = iter(draw_static_masks(ids, modalities, rates, seed, list(filter(any, available))))
    return [next(drawn) if any(mask) else mask for mask in available]


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
        best_attainable: Mapping[Mask, dict] | None = None,
        batch_size: int = 16,
        progress: bool = True,
        others: Sequence[Member] = (),
    ) -> None:
        self.config = config = (accelerator.unwrap_model(model) if accelerator else model).config
        self.model_modalities, self.score_names = list(config.modalities), list(config.score_names)
        self.modalities = self.model_modalities if modalities is None else list(modalities)
        unknown = [name for name in self.modalities if name not in self.model_modalities]
        if unknown or not self.modalities:
            raise ValueError(f"cannot evaluate the modalities {unknown}; the model has {self.model_modalities}")
        if not len(dataset):
            raise ValueError("there is nothing to evaluate: the split has no samples")
        has_train = train_rows is not None
        self.baselines = Baselines(train_rows, self.modalities, self.score_names) if has_train else None
        self.best_attainable = best_attainable or {}
        self.rows = _pool(dataset, self.modalities, self.score_names, with_features=has_train)
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
        masks = [self._measure(mask_set, masks) for mask_set, masks in zip(mask_sets, allowed, strict=True)]
        averages = {name: average_masks(protocol.name, masks, name) for name in self.score_names}
        about = (protocol.name, self.modalities, self.score_names, len(available))
        return EvaluationResult(*about, masks, averages, summarize_seeds(masks))

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
            scores = self._scores.setdefault(mask, self._no_scores())
            for path in PATHS:
                scores[path][rows] = round_scores(found[mask][path][rows], self.config)

    def _no_scores(self) -> dict[str, np.ndarray]:
        return {path: np.full_like(self.rows.targets, np.nan) for path in PATHS}

    def _predictions(self, used: np.ndarray) -> Predictions | None:
        """Predictions for the samples of which anything is used, in the order of the split."""
        rows, scores = used.any(axis=1), self._no_scores()
        if not rows.any():
            return None
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
        used, mask = allowed & self.rows.available, mask_set.mask
        rows = used.any(axis=1)
        predictions, targets = self._predictions(used), self.rows.targets[rows]
        parts, ridge = {"model": targets if predictions is None else predictions.scores}, np.full_like(targets, np.nan)
        if self.baselines is not None:
            ridge = self.baselines.ridge_predictions(self.rows, used, mask)[rows]
            parts |= {"ridge": ridge, "mean_baseline": self.baselines.mean_predictions(len(targets))}
        scores = {}
        for column, name in enumerate(self.score_names):
            reason = self.baselines.reasons[mask][column] if self.baselines is not None and mask is not None else None
            scored = {part: values[:, column] for part, values in parts.items() if part != "ridge" or reason is None}
            about = {"best": self.best_attainable.get(mask), "ridge_reason": reason}
            scores[name] = measure_row(scored, targets[:, column], self.resamples[rows], **about)
        if self.config.calibration is not None and len(self.members) == 1 and predictions is not None:
            for name, levels in measure_coverage(self.config, predictions, targets).items():
                scores[name].model["coverage"] = levels
        return MaskResult(
            name=mask_set.name,
            mask=mask,
            rates=mask_set.rates,
            seed=mask_set.seed,
            samples=len(targets),
            complete=int((used == allowed)[rows].all(axis=1).sum()),
            hidden=1 - float(used[rows].sum() / max(self.rows.available[rows].sum(), 1)),
            scores=scores,
            allowed=allowed[rows],
            predictions=predictions,
            ridge=ridge,
            targets=targets,
        )


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
