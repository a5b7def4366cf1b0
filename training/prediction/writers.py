"""Predictions on disk: every scored sample of an evaluation as Parquet, streams of scores as text, CSV or JSON."""

import csv
import json
from collections.abc import Iterable
from itertools import chain
from typing import TextIO

import numpy as np
import pyarrow as pa

from .predictor import SamplePrediction

FORMATS = ("text", "csv", "json")
# One row a sample and score, in judges' units; a sample with an error has one row and no score.
STREAM_SCHEMA = pa.schema(
    [("sample_id", pa.string()), ("score_name", pa.string())]
    + [(name, pa.float64()) for name in ("score", "reasoning_score", "cross_modal_score", "path_disagreement")]
    + [("used", pa.string()), ("error", pa.string())]
)


def write_stream(
    predictions: Iterable[SamplePrediction], score_names: list[str], form: str, stream: TextIO
) -> list[SamplePrediction]:
    """Writes each sample as it comes, in judges' units, and returns those that have an error.

    Args:
        predictions: as `predict_stream` gives them.
        score_names: the model's.
        stream: an open text file.
        form: one of `FORMATS`. CSV has one line a sample and score, JSON one list with an object a sample.
    """
    writers = {"text": _write_text, "csv": _write_csv, "json": _write_json}
    failed: list[SamplePrediction] = []

    def watched() -> Iterable[SamplePrediction]:
        for prediction in predictions:
            if prediction.error is not None:
                failed.append(prediction)
            yield prediction
            stream.flush()

    writers[form](watched(), score_names, stream)
    return failed


def stream_rows(prediction: SamplePrediction, score_names: list[str]) -> list[dict[str, str | float | None]]:
    """The rows of `STREAM_SCHEMA` that a sample makes; what is not in one of them is null."""
    if prediction.error is not None:
        return [{"sample_id": prediction.sample_id, "error": prediction.error}]
    used = "+".join(prediction.used)
    return [
        {"sample_id": prediction.sample_id, "score_name": name, "used": used, **values}
        for name, values in _scores(prediction, score_names).items()
    ]


def _scores(prediction: SamplePrediction, score_names: list[str]) -> dict[str, dict[str, float | None]]:
    """score name -> blend, both paths and how far they are apart; a path the model does not have is None."""
    result = {}
    for column, name in enumerate(score_names if prediction.error is None else []):
        main, auxiliary = float(prediction.reasoning_scores[column]), float(prediction.cross_modal_scores[column])
        values = {"score": float(prediction.scores[column]), "reasoning_score": main, "cross_modal_score": auxiliary}
        values["path_disagreement"] = abs(main - auxiliary)
        result[name] = {key: value if np.isfinite(value) else None for key, value in values.items()}
    return result


def _write_text(predictions: Iterable[SamplePrediction], score_names: list[str], stream: TextIO) -> None:
    predictions = iter(predictions)
    first = next(predictions, None)
    if first is None:
        return
    id_width, name_width = max(10, len(first.sample_id)), max(5, *map(len, score_names))
    stream.write(f"{'sample':{id_width}}  {'score':{name_width}}  {'value':>9}  reasoning  cross-modal  apart  from\n")
    for prediction in chain([first], predictions):
        if prediction.error is not None:
            stream.write(f"{prediction.sample_id:{id_width}}  ERROR  {prediction.error}\n")
        for name, values in _scores(prediction, score_names).items():
            value, main, auxiliary, apart = ("-" if number is None else f"{number:.2f}" for number in values.values())
            stream.write(f"{prediction.sample_id:{id_width}}  {name:{name_width}}  {value:>9}  {main:>9}  ")
            stream.write(f"{auxiliary:>11}  {apart:>5}  {'+'.join(prediction.used)}\n")


def _write_csv(predictions: Iterable[SamplePrediction], score_names: list[str], stream: TextIO) -> None:
    writer = csv.DictWriter(stream, STREAM_SCHEMA.names, restval="", lineterminator="\n")
    writer.writeheader()
    for prediction in predictions:
        writer.writerows(stream_rows(prediction, score_names))


def _write_json(predictions: Iterable[SamplePrediction], score_names: list[str], stream: TextIO) -> None:
    separator = "["
    try:
        for prediction in predictions:
            entry = {"sample_id": prediction.sample_id, "used": prediction.used, "error": prediction.error}
            entry["scores"] = _scores(prediction, score_names)
            stream.write(f"{separator}\n  {json.dumps(entry, allow_nan=False, ensure_ascii=False)}")
            separator = ","
    finally:
        stream.write("[]\n" if separator == "[" else "\n]\n")
