"""One score in one row of an evaluation: model, ridge regression and training mean, measured on the same samples."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..data.masks import Mask
from ..prediction.predictor import Predictions
from .metrics.aqa_metrics import CORRELATIONS, ERRORS, average_metrics, repetition_metrics, score_metrics
from .metrics.bootstrap import (
    CONFIDENCE,
    RESAMPLES,
    add_intervals,
    average_resampled,
    mean_resampled,
    resampled_metrics,
)

PARTS = ("model", "ridge", "mean_baseline", "best")


@dataclass(frozen=True)
class Cell:
    """One score in one row; each part is a `score_metrics` dictionary with intervals, or None where there is none.

    Attributes:
        model: the network.
        ridge: ridge regression on the training rows; None with `ridge_reason`, or when no training rows were given.
        floor: predicting the training mean; its correlations are always undefined.
        best: what the best possible predictor reaches, where the data is synthetic and that is known; no intervals.
        resampled: part -> metric -> its value in every bootstrap resample, which are the same for all cells.
    """

    model: dict | None
    ridge: dict | None = None
    mean_baseline: dict | None = None
    best: dict | None = None
    ridge_reason: str | None = None
    resampled: dict[str, dict[str, np.ndarray]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def not_better_than_mean(self) -> list[str]:
        """Metrics in which the model does not beat the training mean: no smaller error, or no positive correlation."""
        if self.mean_baseline is None:
            return []
        bars = {**dict.fromkeys(CORRELATIONS, 0.0), **{name: self.mean_baseline[name] for name in ERRORS}}
        return [name for name, bar in bars.items() if not self._beats(name, bar)]

    def _beats(self, name: str, bar: float | None) -> bool:
        value = self.model[name]
        if value is None or bar is None:
            return False
        return value > bar if name in CORRELATIONS else value < bar

    @property
    def parts(self) -> dict[str, dict | None]:
        return {name: getattr(self, name) for name in PARTS}

    def to_dict(self) -> dict:
        """Plain Python values; the resamples stay behind, their intervals are in the parts."""
        notes = {"ridge_reason": self.ridge_reason, "not_better_than_mean": self.not_better_than_mean}
        return {**self.parts, **notes}


def measure_cell(
    scored: Mapping[str, np.ndarray],
    targets: np.ndarray,
    resamples: np.ndarray,
    best: dict | None = None,
    ridge_reason: str | None = None,
) -> Cell:
    """
    Args:
        scored: part -> its scores, (samples,); `model` and, where there are any, `ridge` and `floor`.
        targets: (samples,) in judges' units, NaN = not given.
        resamples: (samples, resamples), how often each bootstrap resample draws each sample.
        best: known metrics of the best possible predictor.
        ridge_reason: why there is no ridge.
    """
    resampled = {part: resampled_metrics(values, targets, resamples) for part, values in scored.items()}
    parts = {part: add_intervals(score_metrics(values, targets), resampled[part]) for part, values in scored.items()}
    return Cell(**parts, best=None if best is None else dict(best), ridge_reason=ridge_reason, resampled=resampled)


def average_cells(cells: Sequence[Cell]) -> Cell:
    """The average over rows or tasks as published, correlations in Fisher's z; a part that a cell lacks is None."""
    return _combine(cells, average_metrics, average_resampled)


def summarize_cells(cells: Sequence[Cell]) -> Cell:
    """The mean over repetitions of the same, each part with its s.d. under `sd`; a part that a cell lacks is None."""
    return _combine(cells, repetition_metrics, mean_resampled)


def _combine(
    cells: Sequence[Cell],
    of_metrics: Callable[[list[dict]], dict],
    of_resamples: Callable[[list[dict[str, np.ndarray]]], dict[str, np.ndarray]],
) -> Cell:
    parts, resampled = {}, {}
    for part in PARTS:
        metrics = [getattr(cell, part) for cell in cells]
        if not metrics or None in metrics:
            continue
        parts[part] = of_metrics(metrics)
        if all(part in cell.resampled for cell in cells):
            resampled[part] = of_resamples([cell.resampled[part] for cell in cells])
            parts[part] = add_intervals(parts[part], resampled[part])
    return Cell(**{"model": None, **parts}, resampled=resampled)


BOOTSTRAP_SEED = 0


@dataclass(frozen=True)
class MaskResult:
    """One pass over the split: every sample under the same mask, or each under one of its own.

    Attributes:
        name: for example `video+audio`, `available`, `video 0.3, audio 0.5, flow 0.7`.
        mask: 0/1 a modality, 1 = shown; None where each sample has a mask of its own.
        rates, seed: where masks were drawn, the rate of each modality and the seed; else None.
        samples: scored samples, those that show at least one modality.
        complete: how many of them had all that might be shown; the others were scored from what they had.
        hidden: share of what the scored samples have that was not shown, in [0, 1).
        scores: score name -> its `Cell`.
        shown: (samples, modalities) bool, what might be seen of each scored sample.
        predictions: the network's, in the order of `targets`; None without a sample.
        ridge, targets: (samples, scores), NaN = not available, not given.
    """

    name: str
    mask: Mask | None
    rates: dict[str, float] | None
    seed: int | None
    samples: int
    complete: int
    hidden: float
    scores: dict[str, Cell]
    shown: np.ndarray = field(repr=False)
    predictions: Predictions | None = field(repr=False)
    ridge: np.ndarray = field(repr=False)
    targets: np.ndarray = field(repr=False)

    def to_dict(self) -> dict:
        names = ("name", "rates", "seed", "samples", "complete", "hidden")
        about = {"mask": None if self.mask is None else list(self.mask), **{name: vars(self)[name] for name in names}}
        return {**about, "scores": {name: cell.to_dict() for name, cell in self.scores.items()}}


@dataclass(frozen=True)
class SeedSummary:
    """The passes with the same rates, over their seeds.

    Attributes:
        name, rates: of these passes.
        seeds: of their masks.
        samples, complete: of the first pass; scored samples do not depend on the seed.
        hidden: mean share of what was hidden.
        scores: score name -> `Cell` of means, with the s.d. over the seeds under `sd`. The intervals are those of the
            mean under other samples; the spread over masks is the s.d.
    """

    name: str
    rates: dict[str, float]
    seeds: list[int]
    samples: int
    complete: int
    hidden: float
    scores: dict[str, Cell]

    def to_dict(self) -> dict:
        about = {name: value for name, value in vars(self).items() if name != "scores"}
        return {**about, "scores": {name: cell.to_dict() for name, cell in self.scores.items()}}


@dataclass(frozen=True)
class EvaluationResult:
    """All passes of one protocol over one split; with `subsets` one a mask, the complete one first.

    Attributes:
        protocol: name of it.
        samples: rows of the split.
        summaries: where masks were drawn with several seeds or rates, one for each setting of the rates.
        averages: score name -> part of a cell -> its average with intervals, correlations in Fisher's z, None where
            that part is not available. `subsets`: over the incomplete subsets, as published; `rates`: over the
            settings, then the mean over the seeds. The other protocols have no average: all None.
    """

    protocol: str
    modalities: list[str]
    score_names: list[str]
    samples: int
    masks: list[MaskResult]
    summaries: list[SeedSummary]
    averages: dict[str, dict[str, dict | None]]

    @classmethod
    def collect(
        cls, protocol: str, modalities: list[str], score_names: list[str], samples: int, masks: list[MaskResult]
    ) -> "EvaluationResult":
        """The result with the summaries and averages that its protocol has."""
        summaries = _summarize(masks) if masks[0].seed is not None else []
        averages = {name: _average(protocol, masks, name).parts for name in score_names}
        return cls(protocol, modalities, score_names, samples, masks, summaries, averages)

    @property
    def rows(self) -> Sequence[MaskResult | SeedSummary]:
        """What a report shows a line each of."""
        return self.summaries or self.masks

    def to_dict(self) -> dict:
        """Plain Python values, None for undefined, ready for strict JSON."""
        names = ("protocol", "modalities", "score_names", "samples")
        return {
            **{name: getattr(self, name) for name in names},
            "bootstrap": {"resamples": RESAMPLES, "seed": BOOTSTRAP_SEED, "confidence": CONFIDENCE},
            "masks": [mask.to_dict() for mask in self.masks],
            "summaries": [summary.to_dict() for summary in self.summaries],
            "averages": self.averages,
        }

    def save_json(self, path: str | Path, **extra) -> None:
        """Writes `to_dict()` and what is given beside it, as strict JSON."""
        text = json.dumps({**extra, **self.to_dict()}, indent=2, allow_nan=False, ensure_ascii=False)
        Path(path).write_text(text + "\n", encoding="utf-8")


def _summarize(masks: list[MaskResult]) -> list[SeedSummary]:
    return [_summary([mask for mask in masks if mask.name == name]) for name in dict.fromkeys(m.name for m in masks)]


def _summary(passes: list[MaskResult]) -> SeedSummary:
    first = passes[0]
    return SeedSummary(
        name=first.name,
        rates=first.rates,
        seeds=[one.seed for one in passes],
        samples=first.samples,
        complete=first.complete,
        hidden=float(np.mean([one.hidden for one in passes])),
        scores={name: summarize_cells([one.scores[name] for one in passes]) for name in first.scores},
    )


def _average(protocol: str, masks: list[MaskResult], score_name: str) -> Cell:
    if protocol == "subsets":
        return average_cells([mask.scores[score_name] for mask in masks[1:]])
    if protocol != "rates":
        return average_cells([])
    seeds = dict.fromkeys(mask.seed for mask in masks)
    of_seeds = [average_cells([mask.scores[score_name] for mask in masks if mask.seed == seed]) for seed in seeds]
    return summarize_cells(of_seeds)
