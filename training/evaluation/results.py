"""Results of an evaluation: the metrics of every row, and the files that hold them."""

import json
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.masks import Mask, subset_name
from ..prediction.predictions import PATHS, Predictions
from ..utils.errors import taking_fields
from ..utils.files import read_json
from .metrics.aqa_metrics import (
    CORRELATIONS,
    METRIC_NAMES,
    average_metrics,
    calibration_line,
    repetition_metrics,
    score_metrics,
)
from .metrics.bootstrap import CONFIDENCE, RESAMPLES, ResampledTargets, add_intervals, average_resampled

METRICS, PREDICTIONS = "metrics.json", "predictions.parquet"
PARTS = ("model", "ridge", "mean_baseline", "best")
BOOTSTRAP_SEED = 0
SCORE_COLUMNS = ("score", "reasoning_score", "cross_modal_score")  # of predictions.parquet, in the order of PATHS


def beats_mean(metric: str, value: float | None, mean_baseline: float | None) -> bool:
    """Tell whether a metric beats the training-mean baseline: a positive correlation, or a smaller error.

    An undefined value (None) beats nothing; a correlation needs no `mean_baseline`.
    """
    if value is None or metric in CORRELATIONS:
        return value is not None and value > 0
    return mean_baseline is not None and value < mean_baseline


@dataclass(frozen=True)
class ScoredRow:
    """Metrics of one score in one row; each part is a `score_metrics` dictionary with intervals, or None.

    Where a single set of masks is measured, its `calibration` is the `calibration_line`.

    Attributes:
        model: the network.
        ridge: ridge regression on the training rows; None without training rows, or for `ridge_reason`.
        mean_baseline: the training mean for every sample; its correlations are always undefined.
        best: the best possible predictor, known for synthetic data; without intervals.
        resampled: part -> metric -> values in the bootstrap resamples, which all rows share.
    """

    model: dict | None = None
    ridge: dict | None = None
    mean_baseline: dict | None = None
    best: dict | None = None
    ridge_reason: str | None = None
    resampled: dict[str, dict[str, np.ndarray]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def parts(self) -> dict[str, dict | None]:
        return {name: getattr(self, name) for name in PARTS}

    @property
    def not_better_than_mean(self) -> list[str]:
        """Metrics in which the model does not beat the training-mean baseline."""
        mean = self.mean_baseline
        return [name for name in METRIC_NAMES if mean and not beats_mean(name, self.model[name], mean[name])]

    def to_dict(self) -> dict:
        """Plain Python values, without the resamples."""
        return self.parts | {"ridge_reason": self.ridge_reason, "not_better_than_mean": self.not_better_than_mean}


def measure_row(
    scored: Mapping[str, np.ndarray], targets: np.ndarray, resamples: np.ndarray, **about: Any
) -> ScoredRow:
    """Compute the metrics of one score with their intervals.

    Args:
        scored: part -> predictions (samples,) in judges' units.
        targets: (samples,) in judges' units, NaN = not given.
        resamples: (samples, resamples) of `draw_resamples`.
        **about: `best` and `ridge_reason` of the row.
    """
    resampled_targets = ResampledTargets(targets, resamples)
    resampled = {part: resampled_targets.measure(values) for part, values in scored.items()}
    parts = {part: add_intervals(score_metrics(values, targets), resampled[part]) for part, values in scored.items()}
    for part, values in scored.items():
        parts[part]["calibration"] = calibration_line(values, targets)
    return ScoredRow(**parts, **about, resampled=resampled)


def average_rows(rows: Sequence[ScoredRow], repeated: bool = False) -> ScoredRow:
    """Average rows part by part; a part that any row lacks is None.

    Args:
        rows: masks or tasks, averaged as published with correlations in Fisher's z; or repetitions of one row.
        repeated: whether they are repetitions: the plain mean, with the standard deviation under `sd`.
    """
    parts, resampled = {}, {}
    for part in PARTS:
        metrics = [getattr(row, part) for row in rows]
        if not metrics or None in metrics:
            continue
        parts[part] = repetition_metrics(metrics) if repeated else average_metrics(metrics)
        if all(part in row.resampled for row in rows):
            resampled[part] = average_resampled(
                [row.resampled[part] for row in rows], () if repeated else CORRELATIONS
            )
            parts[part] = add_intervals(parts[part], resampled[part])
    return ScoredRow(**parts, resampled=resampled)


@dataclass(frozen=True, kw_only=True)
class MaskResult:
    """One row of an evaluation: the split under one mask set, or the average over the seeds of drawn masks.

    Attributes:
        name: such as `video+audio`, `available` or `video 0.3, audio 0.5, flow 0.7`.
        mask: mask that all samples share; None where each has its own.
        rates, seed: missing rate of each modality and mask seed, where masks are drawn.
        seeds: seeds of an average; its intervals are those of the average with other samples.
        samples: number of scored samples, those with at least one modality used.
        complete: number of them that have all allowed modalities.
        hidden: share of the available modalities of these samples that is hidden, in [0, 1).
        scores: score name -> metrics.
        allowed: (samples, modalities) bool. Like all arrays it is only in memory, and not for averages.
        predictions: predictions of the network in the order of `targets`; None without a sample.
        ridge, targets: (samples, scores) float64, NaN = not available, not given.
    """

    name: str
    mask: Mask | None = None
    rates: dict[str, float] | None = None
    seed: int | None = None
    seeds: list[int] | None = None
    samples: int
    complete: int
    hidden: float
    scores: dict[str, ScoredRow]
    allowed: np.ndarray | None = field(default=None, repr=False)
    predictions: Predictions | None = field(default=None, repr=False)
    ridge: np.ndarray | None = field(default=None, repr=False)
    targets: np.ndarray | None = field(default=None, repr=False)

    def to_dict(self) -> dict:
        about = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.repr}
        return about | {"scores": {name: row.to_dict() for name, row in self.scores.items()}}


@dataclass(frozen=True)
class EvaluationResult:
    """Every mask set of a protocol over one split; for `subsets` one for each mask, the complete one first.

    Attributes:
        samples: number of rows of the split.
        averages: score name -> `subsets`: average over the incomplete masks, as published; `rates`: average over the
            settings, then the mean over the seeds. All parts are None for the other protocols.
        summaries: average over the seeds for each setting of the rates, where masks are drawn.
        title: description of data and models, with the caveats.
        caveats: reasons why the result is no fair measure, see `tables.result_caveats`.
    """

    protocol: str
    modalities: list[str]
    score_names: list[str]
    samples: int
    masks: list[MaskResult]
    averages: dict[str, ScoredRow]
    summaries: Sequence[MaskResult] = ()
    title: str = ""
    caveats: Sequence[str] = ()

    @property
    def rows(self) -> Sequence[MaskResult]:
        """The rows of a report."""
        return self.summaries or self.masks

    def to_dict(self) -> dict:
        """Plain Python values, None for undefined, ready for strict JSON."""
        return vars(self) | {
            "bootstrap": {"resamples": RESAMPLES, "seed": BOOTSTRAP_SEED, "confidence": CONFIDENCE},
            "masks": [mask.to_dict() for mask in self.masks],
            "summaries": [summary.to_dict() for summary in self.summaries],
            "averages": {name: row.parts for name, row in self.averages.items()},
        }


def summarize_seeds(masks: Sequence[MaskResult]) -> list[MaskResult]:
    """Average drawn masks over their seeds."""
    summaries = []
    for name in dict.fromkeys(mask.name for mask in masks if mask.seed is not None):
        draws = [mask for mask in masks if mask.name == name]
        first = draws[0]  # which samples are scored does not depend on the seed
        summary = MaskResult(
            name=name,
            rates=first.rates,
            seeds=[draw.seed for draw in draws],
            samples=first.samples,
            complete=first.complete,
            hidden=float(np.mean([draw.hidden for draw in draws])),
            scores={score: average_rows([draw.scores[score] for draw in draws], True) for score in first.scores},
        )
        summaries.append(summary)
    return summaries


def average_masks(protocol: str, masks: Sequence[MaskResult], score_name: str) -> ScoredRow:
    """Average the masks of a protocol, see `EvaluationResult.averages`."""
    if protocol == "subsets":
        return average_rows([mask.scores[score_name] for mask in masks[1:]])
    if protocol != "rates":
        return ScoredRow()
    seeds = dict.fromkeys(mask.seed for mask in masks)
    by_seed = [average_rows([mask.scores[score_name] for mask in masks if mask.seed == seed]) for seed in seeds]
    return average_rows(by_seed, repeated=True)


def read_results(folder: str | Path) -> EvaluationResult:
    """Read the `metrics.json` of a run, without the arrays.

    Raises:
        OSError: there is no such file.
        ValueError: an entry is missing.
    """
    path = Path(folder) / METRICS
    content = read_json(path, {"masks": list, "averages": dict, "modalities": list, "score_names": list})
    with taking_fields(path, "run `limssr eval` again"):
        content |= {name: list(map(_read_mask, content.get(name, []))) for name in ("masks", "summaries")}
        content["averages"] = {name: _read_row(content["averages"][name]) for name in content["score_names"]}
        for mask in (content["masks"][0], *content["masks"], *content["summaries"]):  # there is one
            _require(mask.scores.keys() == content["averages"].keys(), "the scores of a mask", list(mask.scores))
        return EvaluationResult(**_select(EvaluationResult, content))


def _read_mask(entry: dict) -> MaskResult:
    mask = MaskResult(
        **_select(MaskResult, entry | {"scores": {name: _read_row(row) for name, row in entry["scores"].items()}})
    )
    for name, kind in {"name": str, "samples": int, "complete": int, "hidden": int | float}.items():
        _require(isinstance(getattr(mask, name), kind), f"`{name}` of a mask", getattr(mask, name))
    return mask


def _read_row(row: dict) -> ScoredRow:
    """Read the parts of a row, each of them metrics or null."""
    for part in PARTS:
        metrics = {} if row[part] is None else row[part]
        values = [metrics[name] for name in METRIC_NAMES if name in metrics]
        values += [end for ends in metrics.get("intervals", {}).values() for end in ends or ()]
        is_whole = not metrics or {"spearman", "mse"} <= metrics.keys()
        _require(is_whole and all(isinstance(value, int | float | None) for value in values), f"`{part}`", metrics)
    return ScoredRow(**{part: row[part] for part in PARTS}, ridge_reason=row.get("ridge_reason"))


def _require(holds: bool, what: str, found: Any) -> None:
    """Raise TypeError if a field is of another type."""
    if not holds:
        raise TypeError(f"{what} is {reprlib.repr(found)}")


def _select(kind: type, content: Mapping[str, Any]) -> dict[str, Any]:
    return {entry.name: content[entry.name] for entry in fields(kind) if entry.name in content}


def write_predictions(result: EvaluationResult, path: str | Path) -> None:
    """Write `predictions.parquet`: a row for each mask set, sample and score, in judges' units; null = none.

    Columns: `sample_id`, `mask` (allowed modalities, `video+audio`), `used` (those of them that the sample has),
    `rates` (`video 0.3, audio 0.5`) and `seed` of drawn masks, `score_name`, `score`, `reasoning_score`,
    `cross_modal_score`, `ridge`, `target`. The metadata holds `protocol` and `caveats` (JSON).
    """
    columns = [(name, pa.string()) for name in ("sample_id", "mask", "used", "rates")]
    columns += [("seed", pa.int64()), ("score_name", pa.string())]
    columns += [(name, pa.float64()) for name in (*SCORE_COLUMNS, "ridge", "target")]
    schema = pa.schema(columns, {"protocol": result.protocol, "caveats": json.dumps(list(result.caveats))})
    with pq.ParquetWriter(path, schema) as writer:
        for mask in result.masks:
            if mask.predictions is not None:
                writer.write_table(pa.table(_prediction_columns(mask, result), schema=schema))


def _prediction_columns(mask: MaskResult, result: EvaluationResult) -> dict[str, Any]:
    predictions, count = mask.predictions, len(result.score_names)

    def each_score(values: Iterable[str]) -> list[str]:
        return np.repeat(list(values), count).tolist()

    numbers = {column: getattr(predictions, path) for column, path in zip(SCORE_COLUMNS, PATHS, strict=True)}
    numbers |= {"ridge": mask.ridge, "target": mask.targets}
    rates = None if mask.rates is None else rates_name(mask.rates)
    return {
        "sample_id": each_score(predictions.sample_ids),
        "mask": each_score(subset_name(tuple(allowed), result.modalities) for allowed in mask.allowed),
        "used": each_score("+".join(predictions.used_names(row)) for row in range(mask.samples)),
        "rates": [rates] * mask.samples * count,
        "seed": [mask.seed] * mask.samples * count,
        "score_name": result.score_names * mask.samples,
        **{name: pa.array(values.reshape(-1), from_pandas=True) for name, values in numbers.items()},
    }


def rates_name(rates: Mapping[str, float]) -> str:
    """`video 0.3, audio 0.5`."""
    return ", ".join(f"{name} {rate:g}" for name, rate in rates.items())
