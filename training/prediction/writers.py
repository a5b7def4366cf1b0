"""Predictions as text, CSV, JSON or rows of Parquet."""

import csv
import json
from collections.abc import Iterable, Sequence
from typing import TextIO

import numpy as np
import pyarrow as pa

from .predictor import SamplePrediction

FORMATS = ("text", "csv", "json")
NUMBERS = ("score", "reasoning_score", "cross_modal_score", "path_disagreement")
# One row per sample and score, in judges' units; a sample with an error has one row without a score.
ROW_SCHEMA = pa.schema(
    [("sample_id", pa.string()), ("score_name", pa.string())]
    + [(name, pa.float64()) for name in NUMBERS]
    + [("used", pa.string()), ("error", pa.string())]
)


def write_predictions(
    predictions: Iterable[SamplePrediction], score_names: Sequence[str], form: str, stream: TextIO
) -> list[SamplePrediction]:
    """Write each sample as it comes, in judges' units.

    Args:
        predictions: predictions of `predict_stream`.
        score_names: names of the model's scores.
        form: one of `FORMATS`. CSV has a line per sample and score, JSON one list with an object per sample.
        stream: open text file.

    Returns:
        The samples with an error.
    """
    failed: list[SamplePrediction] = []

    def watched() -> Iterable[tuple[SamplePrediction, list[dict]]]:
        for prediction in predictions:
            if prediction.error is not None:
                failed.append(prediction)
            yield prediction, prediction_rows(prediction, score_names)
            stream.flush()

    {"text": _write_text, "csv": _write_csv, "json": _write_json}[form](watched(), score_names, stream)
    return failed


def prediction_rows(prediction: SamplePrediction, score_names: Sequence[str]) -> list[dict[str, str | float | None]]:
    """The rows of `ROW_SCHEMA` for a sample; a number is None for a path the model does not have."""
    if prediction.error is not None:
        return [{"sample_id": prediction.sample_id, "error": prediction.error}]
    paths = (prediction.scores, prediction.reasoning_scores, prediction.cross_modal_scores)
    rows = []
    for name, score, reasoning, cross_modal in zip(score_names, *(path.tolist() for path in paths), strict=True):
        numbers = zip(NUMBERS, (score, reasoning, cross_modal, abs(reasoning - cross_modal)), strict=True)
        row = {"sample_id": prediction.sample_id, "score_name": name, "used": "+".join(prediction.used)}
        rows.append(row | {key: number if np.isfinite(number) else None for key, number in numbers})
    return rows


def _write_text(predictions, score_names: Sequence[str], stream: TextIO) -> None:
    id_width, name_width = None, max(5, *map(len, score_names))
    for prediction, rows in predictions:
        if id_width is None:
            id_width = max(10, len(prediction.sample_id))
            stream.write(f"{'sample':{id_width}}  {'score':{name_width}}  {'value':>9}  reasoning  cross-modal  ")
            stream.write("apart  from\n")
        for row in rows:
            stream.write(f"{row['sample_id']:{id_width}}  ")
            if "error" in row:
                stream.write(f"ERROR  {row['error']}\n")
                continue
            score, main, auxiliary, apart = ("-" if row[name] is None else f"{row[name]:.2f}" for name in NUMBERS)
            stream.write(f"{row['score_name']:{name_width}}  {score:>9}  {main:>9}  {auxiliary:>11}  {apart:>5}  ")
            stream.write(f"{row['used']}\n")


def _write_csv(predictions, score_names: Sequence[str], stream: TextIO) -> None:
    writer = csv.DictWriter(stream, ROW_SCHEMA.names, restval="", lineterminator="\n")
    writer.writeheader()
    for _, rows in predictions:
        writer.writerows(rows)


def _write_json(predictions, score_names: Sequence[str], stream: TextIO) -> None:
    separator = "["
    try:
        for prediction, rows in predictions:
            entry = {"sample_id": prediction.sample_id, "used": prediction.used, "error": prediction.error}
            scored = rows if prediction.error is None else []
            entry["scores"] = {row["score_name"]: {name: row[name] for name in NUMBERS} for row in scored}
            stream.write(f"{separator}\n  {json.dumps(entry, allow_nan=False, ensure_ascii=False)}")
            separator = ","
    finally:
        stream.write("[]\n" if separator == "[" else "\n]\n")
