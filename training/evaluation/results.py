"""Results of an evaluation: the metrics of every row, and the files that hold them."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.masks import Mask, subset_name
from ..prediction.predictor import PATHS, Predictions
from .metrics.aqa_metrics import CORRELATIONS, METRIC_NAMES, average_metrics, repetition_metrics, score_metrics
from .metrics.bootstrap import CONFIDENCE, RESAMPLES, add_intervals, average_resampled, resampled_metrics
from .protocols import rates_name

METRICS, PREDICTIONS = "metrics.json", "predictions.parquet"
PARTS = ("model", "ridge", "mean_baseline", "best")
BOOTSTRAP_SEED = 0
SCORE_COLUMNS = ("score", "reasoning_score", "cross_modal_score")  # of predictions.parquet, in the order of PATHS


def beats_mean(metric: str, value: float | None, mean_baseline: float | None) -> bool:
    """Tell whether a model beats the training-mean baseline: a positive correlation, or a smaller error.

    Args:
        metric: one of `METRIC_NAMES`.
        value: metric of the model; None = undefined, which beats nothing.
        mean_baseline: metric of the baseline, which a correlation does not need.
    """
    if value is None:
        return False
    if metric in CORRELATIONS:
        return value > 0
    return mean_baseline is not None and value < mean_baseline


@dataclass(frozen=True)
class ScoredRow:
    """Metrics of one score in one row; each part is a `score_metrics` dictionary with intervals, or None.

    Attributes:
        model: the network.
        ridge: ridge regression on the training rows; None without training rows, or for `ridge_reason`.
        mean_baseline: the training mean for every sample; its correlations are always undefined.
        best: the best possible predictor, where the data is synthetic and it is known; without intervals.
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
        if self.mean_baseline is None:
            return []
        return [name for name in METRIC_NAMES if not beats_mean(name, self.model[name], self.mean_baseline[name])]

    def to_dict(self) -> dict:
        """Plain Python values, without the resamples."""
        notes = {"ridge_reason": self.ridge_reason, "not_better_than_mean": self.not_better_than_mean}
        return {**self.parts, **notes}


def measure_row(
    scored: Mapping[str, np.ndarray],
    targets: np.ndarray,
    resamples: np.ndarray,
    best: dict | None = None,
    ridge_reason: str | None = None,
) -> ScoredRow:
    """Compute the metrics of one score with their intervals.

    Args:
        scored: part -> predictions (samples,) in judges' units.
        targets: (samples,) in judges' units, NaN = not given.
        resamples: (samples, resamples) of `draw_resamples`.
        best: known metrics of the best possible predictor.
        ridge_reason: why there is no ridge baseline.
    """
    resampled = {part: resampled_metrics(values, targets, resamples) for part, values in scored.items()}
    parts = {part: add_intervals(score_metrics(values, targets), resampled[part]) for part, values in scored.items()}
    return ScoredRow(**parts, best=best, ridge_reason=ridge_reason, resampled=resampled)


def average_rows(rows: Sequence[ScoredRow]) -> ScoredRow:
    """Average masks or tasks as published, correlations in Fisher's z; a part that any row lacks is None."""
    return _combine(rows, average_metrics, CORRELATIONS)


def average_repetitions(rows: Sequence[ScoredRow]) -> ScoredRow:
    """Average repetitions of one row, with the standard deviation under `sd`; a part that any row lacks is None."""
    return _combine(rows, repetition_metrics, ())


def _combine(rows: Sequence[ScoredRow], average, in_fisher_z: Collection[str]) -> ScoredRow:
    parts, resampled = {}, {}
    for part in PARTS:
        metrics = [getattr(row, part) for row in rows]
        if not metrics or None in metrics:
            continue
        parts[part] = average(metrics)
        if all(part in row.resampled for row in rows):
            resampled[part] = average_resampled([row.resampled[part] for row in rows], in_fisher_z)
            parts[part] = add_intervals(parts[part], resampled[part])
    return ScoredRow(**parts, resampled=resampled)


@dataclass(frozen=True, kw_only=True)
class EvaluationRow:
    """One row of an evaluation.

    Attributes:
        name: such as `video+audio`, `available` or `video 0.3, audio 0.5, flow 0.7`.
        rates: missing rate of each modality, where masks are drawn; else None.
        samples: number of scored samples, those with at least one modality used.
        complete: number of them that have all allowed modalities.
        hidden: share of the available modalities of these samples that is hidden, in [0, 1).
        scores: score name -> metrics.
    """

    name: str
    rates: dict[str, float] | None
    samples: int
    complete: int
    hidden: float
    scores: dict[str, ScoredRow]

    def to_dict(self) -> dict:
        about = {entry.name: getattr(self, entry.name) for entry in fields(self) if entry.repr}
        return {**about, "scores": {name: row.to_dict() for name, row in self.scores.items()}}


@dataclass(frozen=True, kw_only=True)
class MaskResult(EvaluationRow):
    """One pass over the split; results that were read from a file have no arrays.

    Attributes:
        mask: mask that all samples share; None where each has its own.
        seed: mask seed, where masks are drawn; else None.
        allowed: (samples, modalities) bool, the masks of the scored samples.
        predictions: predictions of the network in the order of `targets`; None without a sample.
        ridge, targets: (samples, scores) float64, NaN = not available, not given.
    """

    mask: Mask | None
    seed: int | None
    allowed: np.ndarray | None = field(default=None, repr=False)
    predictions: Predictions | None = field(default=None, repr=False)
    ridge: np.ndarray | None = field(default=None, repr=False)
    targets: np.ndarray | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class SeedSummary(EvaluationRow):
    """Passes with the same rates, averaged over their seeds; intervals hold for the average with other samples.

    Attributes:
        seeds: mask seeds.
    """

    seeds: list[int]


@dataclass(frozen=True)
class EvaluationResult:
    """Every pass of a protocol over one split; for `subsets` one for each mask, the complete one first.

    Attributes:
        samples: number of rows of the split.
        summaries: one for each setting of the rates, where masks are drawn.
        averages: score name -> `subsets`: average over the incomplete masks, as published; `rates`: average over the
            settings, then the mean over the seeds. All parts are None for the other protocols.
        title: description of data and models, with the caveats.
        caveats: reasons why the result is no fair measure; see `tables.result_caveats`.
    """

    protocol: str
    modalities: list[str]
    score_names: list[str]
    samples: int
    masks: list[MaskResult]
    summaries: list[SeedSummary]
    averages: dict[str, ScoredRow]
    title: str = ""
    caveats: Sequence[str] = ()

    @classmethod
    def collect(
        cls, protocol: str, modalities: list[str], score_names: list[str], samples: int, masks: list[MaskResult]
    ) -> "EvaluationResult":
        """Add the summaries and averages of the protocol."""
        names = dict.fromkeys(mask.name for mask in masks if mask.seed is not None)
        summaries = [_summarize([mask for mask in masks if mask.name == name]) for name in names]
        averages = {name: _average(protocol, masks, name) for name in score_names}
        return cls(protocol, modalities, score_names, samples, masks, summaries, averages)

    @property
    def rows(self) -> Sequence[EvaluationRow]:
        """The rows of a report."""
        return self.summaries or self.masks

    def to_dict(self) -> dict:
        """Plain Python values, None for undefined, ready for strict JSON."""
        names = ("protocol", "modalities", "score_names", "samples")
        return {
            "title": self.title,
            "caveats": list(self.caveats),
            **{name: getattr(self, name) for name in names},
            "bootstrap": {"resamples": RESAMPLES, "seed": BOOTSTRAP_SEED, "confidence": CONFIDENCE},
            "masks": [mask.to_dict() for mask in self.masks],
            "summaries": [summary.to_dict() for summary in self.summaries],
            "averages": {name: row.parts for name, row in self.averages.items()},
        }


def _summarize(passes: list[MaskResult]) -> SeedSummary:
    first = passes[0]  # which samples are scored does not depend on the seed
    return SeedSummary(
        name=first.name,
        rates=first.rates,
        seeds=[one.seed for one in passes],
        samples=first.samples,
        complete=first.complete,
        hidden=float(np.mean([one.hidden for one in passes])),
        scores={name: average_repetitions([one.scores[name] for one in passes]) for name in first.scores},
    )


def _average(protocol: str, masks: list[MaskResult], score_name: str) -> ScoredRow:
    if protocol == "subsets":
        return average_rows([mask.scores[score_name] for mask in masks[1:]])
    if protocol != "rates":
        return ScoredRow()
    seeds = dict.fromkeys(mask.seed for mask in masks)
    by_seed = [average_rows([mask.scores[score_name] for mask in masks if mask.seed == seed]) for seed in seeds]
    return average_repetitions(by_seed)


def write_metrics(result: EvaluationResult, path: str | Path, **about: Any) -> None:
    """Write `metrics.json` as strict JSON, with `about` beside the result."""
    text = json.dumps({**about, **result.to_dict()}, indent=2, allow_nan=False, ensure_ascii=False)
    Path(path).write_text(text + "\n", encoding="utf-8")


def read_results(folder: str | Path) -> EvaluationResult:
    """Read the `metrics.json` of a run; predictions and resamples are not in it.

    Raises:
        OSError: there is no such file.
        ValueError: an entry is missing.
    """
    path = Path(folder) / METRICS
    content = json.loads(path.read_text(encoding="utf-8"))
    try:
        content |= {
            "masks": [_read_row(MaskResult, entry) for entry in content["masks"]],
            "summaries": [_read_row(SeedSummary, entry) for entry in content["summaries"]],
            "averages": {name: ScoredRow(**parts) for name, parts in content["averages"].items()},
        }
        return _read(EvaluationResult, content)
    except KeyError as error:
        raise ValueError(f"{path} has no {error}; evaluate the model again with eval.py") from error


def _read_row(kind: type[EvaluationRow], entry: dict) -> EvaluationRow:
    return _read(kind, {**entry, "scores": {name: _read(ScoredRow, row) for name, row in entry["scores"].items()}})


def _read(kind: type, content: Mapping[str, Any]) -> Any:
    return kind(**{entry.name: content[entry.name] for entry in fields(kind) if entry.repr})


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
                writer.write_table(_prediction_table(mask, result, schema))


def _prediction_table(mask: MaskResult, result: EvaluationResult, schema: pa.Schema) -> pa.Table:
    predictions, count = mask.predictions, len(result.score_names)

    def each_score(values: Iterable[str]) -> list[str]:
        return np.repeat(list(values), count).tolist()

    numbers = {column: getattr(predictions, path) for column, path in zip(SCORE_COLUMNS, PATHS, strict=True)}
    numbers |= {"ridge": mask.ridge, "target": mask.targets}
    rates = None if mask.rates is None else rates_name(mask.rates)
    columns = {
        "sample_id": each_score(predictions.sample_ids),
        "mask": each_score(subset_name(tuple(allowed), result.modalities) for allowed in mask.allowed),
        "used": each_score("+".join(predictions.used_names(row)) for row in range(mask.samples)),
        "rates": [rates] * mask.samples * count,
        "seed": [mask.seed] * mask.samples * count,
        "score_name": result.score_names * mask.samples,
        **{name: pa.array(values.reshape(-1), from_pandas=True) for name, values in numbers.items()},
    }
    return pa.table(columns, schema=schema)


def read_predictions(path: str | Path, columns: Sequence[str]) -> tuple[pa.Table, list[str]]:
    """Read columns of a `predictions.parquet`, and its caveats.

    Raises:
        OSError: there is no such file.
        ValueError: a column is missing.
    """
    table = pq.read_table(path)
    if lacking := [name for name in columns if name not in table.column_names]:
        raise ValueError(f"{path} has no column {', '.join(lacking)}; evaluate the model again with eval.py")
    caveats = json.loads((table.schema.metadata or {}).get(b"caveats", b"[]"))
    return table.select(columns), caveats
