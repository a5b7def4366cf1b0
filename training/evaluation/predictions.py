"""Predictions on disk: every scored sample of an evaluation as Parquet, streams of scores as text, CSV or JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ..data.masks import subset_name
from .protocols import rates_name
from .results import EvaluationResult, MaskResult


def write_predictions(result: EvaluationResult, path: str | Path, caveats: Sequence[str] = ()) -> None:
    """One row for each pass, sample and score, all in judges' units; what is not available or not given is null.

    Columns: `sample_id`, `mask` (what might be seen, `video+audio`), `used` (what the sample had of it), `rates` and
    `seed` (of the draw, where masks were drawn: `video 0.3, audio 0.5`), `score_name`, `score`, `reasoning_score`
    (reasoning path), `cross_modal_score` (cross-modal path), `ridge`, `target`. The metadata of the schema holds `protocol`
    and `caveats`, those of the result, as JSON.
    """
    text, numbers = (
        ("sample_id", "mask", "used", "rates"),
        ("score", "reasoning_score", "cross_modal_score", "ridge", "target"),
    )
    columns = [*((name, pa.string()) for name in text), ("seed", pa.int64()), ("score_name", pa.string())]
    columns += [(name, pa.float64()) for name in numbers]
    schema = pa.schema(columns, {"protocol": result.protocol, "caveats": json.dumps(list(caveats))})
    with pq.ParquetWriter(path, schema) as writer:
        for mask in result.masks:
            if mask.predictions is not None:
                writer.write_table(_mask_table(mask, result, schema))


def _mask_table(mask: MaskResult, result: EvaluationResult, schema: pa.Schema) -> pa.Table:
    predictions, repeats = mask.predictions, len(result.score_names)
    numbers = {
        "score": predictions.scores,
        "reasoning_score": predictions.reasoning_scores,
        "cross_modal_score": predictions.cross_modal_scores,
    }
    numbers |= {"ridge": mask.ridge, "target": mask.targets}
    shown = [subset_name(tuple(row), result.modalities) for row in mask.shown]
    used = ["+".join(predictions.used_names(row)) for row in range(mask.samples)]
    lines = mask.samples * repeats
    columns = {
        "sample_id": np.repeat(predictions.sample_ids, repeats).tolist(),
        "mask": np.repeat(shown, repeats).tolist(),
        "used": np.repeat(used, repeats).tolist(),
        "rates": [None if mask.rates is None else rates_name(mask.rates)] * lines,
        "seed": [mask.seed] * lines,
        "score_name": result.score_names * mask.samples,
        **{name: pa.array(values.reshape(-1), from_pandas=True) for name, values in numbers.items()},
    }
    return pa.table(columns, schema=schema)
