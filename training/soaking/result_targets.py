"""Parsers of what an evaluation and a scoring leave behind: metrics, predictions, records."""

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from ..evaluation.compare import COLUMNS, SCHEMA, RunScores, compare_runs, read_run_scores
from ..evaluation.metrics.aqa_metrics import METRIC_NAMES
from ..evaluation.results import METRICS, PREDICTIONS, EvaluationResult, read_results
from ..evaluation.seeds import TaskRun, read_task_runs
from ..prediction.audit import read_records
from ..utils.files import RECORD_FILE
from .checking import Target

ROW = {"model": dict.fromkeys(METRIC_NAMES, 0.5), "ridge": None, "mean_baseline": None, "best": None}
MASK = {"name": "video", "mask": [1, 0], "samples": 2, "complete": 1, "hidden": 0.0, "scores": {"score": ROW}}
RESULT = {"protocol": "subsets", "modalities": ["video", "audio"], "score_names": ["score"], "samples": 2}
RESULT |= {"masks": [MASK], "averages": {"score": ROW}, "summaries": [], "title": "", "caveats": ["small"]}
RUN = {
    "arguments": {"training": {"learning_rate": 0.1}, "data": {"mask_seed": 0}, "model": {}},
    "dataset": {"name": "synthetic", "options": {"samples_train": 8}},
    "seeds": {"seed": 1, "data_seed": None},
}


def _results_seeds() -> list[bytes]:
    return [json.dumps(RESULT).encode()]


def _write_results(folder: Path) -> None:
    (folder / METRICS).write_bytes(*_results_seeds())


def _predictions_seeds() -> list[bytes]:
    rows = [("a", "video", None, None, "score", 0.5, 0.4, 0.6, None, 1.0), ("b", "video", None, None, "score", 0.7)]
    drawn = [("a", "video", "video 0.3", 1, "score", 0.5, None, 0.6, 0.1, None)]
    found = []
    for each in (rows, drawn):
        padded = [(*row, *[None] * (len(COLUMNS) - len(row))) for row in each]
        table = pa.Table.from_pylist([dict(zip(COLUMNS, row, strict=True)) for row in padded], SCHEMA)
        stream = io.BytesIO()
        pq.write_table(table.replace_schema_metadata({"caveats": '["small"]'}), stream, compression="NONE")
        found.append(stream.getvalue())
    return found


def _compare_with_itself(path: Path) -> int:
    run: RunScores = read_run_scores(path)
    return len(compare_runs(run, run).rows)


def _read_results(path: Path) -> EvaluationResult:
    return read_results(path.parent)


def _read_runs(path: Path) -> list[TaskRun]:
    return read_task_runs(path.parent)


SHA = "0" * 64
AUDIT = {
    "format": 1,
    "time": "2026-01-01T00:00:00+00:00",
    "sample_id": "a",
    "models": [{"name": "model", "revision": None, "weights": SHA, "settings": SHA, "recipe": None}],
    "versions": {"python": "3.11", "limssr": "0.1", "torch": "2.13", "transformers": "5.23"},
    "files": {"video": {"path": "a.npy", "sha256": SHA}},
    "recording": None,
    "mask": {"video": True, "audio": False},
    "settings": {"level": 0.9, "windows": False, "zeros_are_missing": False, "without": []}
    | {"language_model": None, "dtype": "auto", "attention": "sdpa", "quantization": None},
    "scores": {
        "score": {"score": 0.5, "reasoning_score": 0.4, "cross_modal_score": 0.6, "path_disagreement": 0.2}
        | {"interval": [0.1, 0.9], "evidence": "sufficient"}
    },
}


def _audit_seeds() -> list[bytes]:
    return [json.dumps([AUDIT]).encode(), json.dumps([AUDIT | {"files": {}}, AUDIT]).encode()]


def _load_records(path: Path) -> Any:
    content = json.loads(path.read_bytes())
    return content if isinstance(content, list) else [content]


# Name -> file, seeds, parser and, where there is one, an independent reader.
RESULT_TARGETS = {
    "metrics": Target(METRICS, _results_seeds, _read_results),
    "run_record": Target(RECORD_FILE, lambda: [json.dumps(RUN).encode()], _read_runs, surround=_write_results),
    "predictions": Target(PREDICTIONS, _predictions_seeds, _compare_with_itself),
    "audit": Target("record.json", _audit_seeds, read_records, _load_records),
}
