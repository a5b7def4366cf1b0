"""Compares two ways to train a model over several seeds, each seed paired with itself, on the same test samples.

Incomplete masks and scores are averaged as published (Fisher's z for Spearman), seeds by their mean. The interval is
that of other test samples: in every bootstrap resample all is averaged in the same way.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from .compare import Key, RunScores, pair_scores, read_run_scores
from .metrics.aqa_metrics import score_metrics
from .metrics.bootstrap import ResampledTargets, draw_resamples, percentile_interval
from .results import BOOTSTRAP_SEED, ScoredRow, average_rows

COMPLETE, INCOMPLETE = "complete", "incomplete"
METRICS = ("spearman", "mse")


@dataclass(frozen=True, eq=False)
class MeasuredRun:
    """One run, averaged over its scores.

    Attributes:
        samples: number of test samples.
        scores: its predictions.
        masks: `complete` -> the mask with everything; `incomplete` -> the others, where there are any.
        rows: the same names -> average over scores and masks.
    """

    samples: int
    scores: RunScores
    masks: dict[str, list[str]]
    rows: dict[str, ScoredRow]


@cache  # the report is written after each run, and a finished run stays as it is
def measure_run(folder: Path) -> MeasuredRun:
    """Measure a run that was evaluated on every subset of the modalities, from its `predictions.parquet`.

    Raises:
        OSError, ValueError: see `read_run_scores`.
    """
    scores = read_run_scores(folder)
    names = list(dict.fromkeys(mask for mask, _ in scores.tables))
    complete = max(names, key=lambda name: name.count("+"))
    masks = {COMPLETE: [complete], INCOMPLETE: [name for name in names if name != complete]}
    masks = {column: names for column, names in masks.items() if names}
    sample_ids = sorted({sample for table in scores.tables.values() for sample in table.index})
    resamples = pd.DataFrame(draw_resamples(len(sample_ids), seed=BOOTSTRAP_SEED), index=sample_ids)
    measured = dict(_measure(scores.tables, resamples))
    rows = {
        column: average_rows([row for (mask, _), row in measured.items() if mask in names])
        for column, names in masks.items()
    }
    return MeasuredRun(len(sample_ids), scores, masks, rows)


def _measure(tables: Mapping[Key, pd.DataFrame], resamples: pd.DataFrame) -> Iterator[tuple[Key, ScoredRow]]:
    """Metrics of each mask and score; masks under which the same samples are scored share the resampled targets."""
    shared = {}
    for (mask, score), table in tables.items():
        targets, samples = table["target"].to_numpy(float), (score, *table.index)
        if samples not in shared:
            shared[samples] = ResampledTargets(targets, resamples.loc[table.index].to_numpy())
        predicted = table["predicted"].to_numpy(float)
        resampled = {"model": shared[samples].measure(predicted)}
        yield (mask, score), ScoredRow(model=score_metrics(predicted, targets), resampled=resampled)


def compare_seeds(first: Mapping[int, MeasuredRun], second: Mapping[int, MeasuredRun]) -> dict[str, dict]:
    """Compare the runs of the seeds that both have.

    Args:
        first: seed -> run.
        second: seed -> run that it is compared with.

    Returns:
        `complete` and `incomplete`, each with the entries of `METRICS` (`value` of the first; `difference`, first less
        second, and its 95 % `interval`, None where undefined) and `score_change`, the mean absolute difference of the
        scores of the same sample, in judges' units. Empty without a common seed.

    Raises:
        ValueError: the runs differ in samples, masks, scores or targets.
    """
    seeds = [seed for seed in first if seed in second]
    changes = [_score_changes(first[seed], second[seed]) for seed in seeds]
    columns = first[seeds[0]].rows if seeds else ()
    compared = {}
    for column in columns:
        one, other = (
            average_rows([run[seed].rows[column] for seed in seeds], repeated=True) for run in (first, second)
        )
        compared[column] = {name: _difference(name, one, other) for name in METRICS}
        compared[column]["score_change"] = float(np.mean([of_seed[column] for of_seed in changes]))
    return compared


def _difference(metric: str, first: ScoredRow, second: ScoredRow) -> dict:
    value, other = first.model[metric], second.model[metric]
    if None in (value, other):
        return {"value": value, "difference": None, "interval": None}
    interval, _ = percentile_interval(first.resampled["model"][metric] - second.resampled["model"][metric])
    return {"value": value, "difference": value - other, "interval": interval}


@cache
def _score_changes(first: MeasuredRun, second: MeasuredRun) -> dict[str, float]:
    """`complete` and `incomplete` -> mean absolute difference of the scores of the same sample.

    Raises:
        ValueError: the runs differ in samples, masks, scores or targets.
    """
    keys = first.scores.tables.keys()
    if keys != second.scores.tables.keys():
        raise ValueError(f"{first.scores.place} and {second.scores.place} have different masks or scores")
    pairs = {key: pair_scores(key, first.scores, second.scores) for key in keys}
    changes = {key: (pair["first"] - pair["second"]).abs().mean() for key, pair in pairs.items()}
    return {
        column: float(np.mean([change for (mask, _), change in changes.items() if mask in masks]))
        for column, masks in first.masks.items()
    }
