"""Results of runs that never took place, as a finished run leaves them."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from limssr.training.evaluation.compare import COLUMNS, PATH_COLUMNS
from limssr.training.evaluation.metrics.aqa_metrics import METRIC_NAMES
from limssr.training.evaluation.results import METRICS, EvaluationResult, MaskResult, ScoredRow, average_masks
from limssr.training.utils.files import write_json

MASKS = ("video+audio", "video", "audio")


def metrics(spearman: float | None, mse: float, **changes) -> dict:
    """A `score_metrics` dictionary."""
    about = {"undefined": {}, "not_given": 0}
    return {**dict.fromkeys(METRIC_NAMES, 1.0), "spearman": spearman, "mse": mse, **about, **changes}


def write_results(
    folder: Path, scores: dict[str, dict[str, ScoredRow]], title: str = "", caveats: tuple[str, ...] = ()
) -> None:
    """Write `metrics.json`; `scores` maps score names to masks and these to rows, the complete mask first."""
    masks = [
        MaskResult(
            name=mask,
            samples=353,
            complete=353,
            hidden=0.0,
            scores={score: rows[mask] for score, rows in scores.items()},
        )
        for mask in next(iter(scores.values()))
    ]
    averages = {score: average_masks("subsets", masks, score) for score in scores}
    about = ("subsets", masks[0].name.split("+"), list(scores), 353)
    result = EvaluationResult(*about, masks, averages, title=title, caveats=caveats)
    write_json(folder / METRICS, result.to_dict())


def write_run(folder: Path, noise: float, samples=60, masks=MASKS, seed=0, change=None, caveats=(), scores=("score",)):
    """Write `predictions.parquet` of a run whose error grows from mask to mask; `change` edits its columns."""
    random = np.random.default_rng(7)
    targets = random.normal(50, 10, samples)
    random, of_paths = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    columns = {name: [] for name in COLUMNS}
    for score in scores:
        for number, mask in enumerate(masks):
            predicted = targets + random.normal(0, noise * (number + 1), samples)
            columns["sample_id"] += [f"s{sample}" for sample in range(samples)]
            columns["mask"] += [mask] * samples
            columns["score_name"] += [score] * samples
            columns["score"] += list(predicted)
            columns["ridge"] += list(targets + random.normal(0, 5, samples))
            columns["target"] += list(targets)
            for path in PATH_COLUMNS:
                columns[path] += list(predicted + of_paths.normal(0, 1, samples))
    columns |= {name: [None] * len(columns["mask"]) for name in ("rates", "seed")}
    if change is not None:
        change(columns)
    kinds = {"rates": pa.string(), "seed": pa.int64()}
    table = pa.table({name: pa.array(values, kinds.get(name)) for name, values in columns.items()})
    folder.mkdir(exist_ok=True)
    pq.write_table(
        table.replace_schema_metadata({"caveats": json.dumps(list(caveats))}), folder / "predictions.parquet"
    )
    return folder
