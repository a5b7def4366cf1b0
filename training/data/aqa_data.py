"""What every dataset gives, and the arrow columns that hold its features."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, List, Value

from .masks import Mask
from .missing import MissingSummary, nulls

logger = logging.getLogger(__name__)


@dataclass
class AqaData:
    """A dataset with everything a model, a processor and a report need to know about it.

    Attributes:
        splits: `train` and `test` (and `validation` where a dataset has one), with the columns `sample_id`, one
            float32 column for each score in the judges' units, one nullable column for each modality (clips of
            features, or strings) and whatever else the dataset knows.
        modalities: feature size of each modality, or `"text"`, in the order of the masks.
        score_names: name of each score and of its column.
        score_minimums: lowest value of each score, in the judges' units.
        score_ranges: highest minus lowest value of each score, in the judges' units.
        max_clips: number of clips that a processor keeps of a modality.
        description: one line for reports and model cards.
        leaky: the features are known to give the label away.
        best_attainable: for each mask the `spearman`, `mse` and `mae` that no predictor can beat, where this is known.
        missing: which modalities the samples lack and why; by default, what is null in the columns.
    """

    splits: DatasetDict
    modalities: dict[str, int | str]
    score_names: list[str]
    score_minimums: list[float]
    score_ranges: list[float]
    max_clips: int
    description: str
    leaky: bool = False
    best_attainable: dict[Mask, dict[str, float]] | None = None
    missing: MissingSummary | None = None


def feature_column(clips: np.ndarray, counts: Sequence[int | None]) -> pa.ListArray:
    """The arrow column of one modality.

    Args:
        clips: features of all samples one after another, float32 (all clips, dim).
        counts: number of clips of each sample; None where the modality is missing.

    Returns:
        One list of clips a sample, null where it is missing.
    """
    missing = np.array([count is None for count in counts], dtype=bool)
    offsets = np.concatenate([[0], np.cumsum([count or 0 for count in counts])])  # (samples + 1,)
    if offsets[-1] != len(clips):
        raise ValueError(f"the counts ask for {offsets[-1]} clips, given: {len(clips)}")
    flat = pa.array(np.ascontiguousarray(clips, dtype=np.float32).reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(flat, clips.shape[1])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), vectors, mask=pa.array(missing))


def text_column(texts: Sequence[str | None]) -> pa.Array:
    """The arrow column of a modality of text; None and a text without words are missing."""
    return pa.array([text if text is not None and text.strip() else None for text in texts], pa.string())


def build_split(
    sample_ids: Sequence[str],
    scores: Mapping[str, np.ndarray],
    feature_columns: Mapping[str, pa.Array],
    extra: Mapping[str, Sequence[Any]] | None = None,
) -> Dataset:
    """One split in the columns that every dataset shares.

    Args:
        sample_ids: a name for each sample.
        scores: judges' scores by name, (samples,).
        feature_columns: result of `feature_column` or `text_column` for each modality.
        extra: further columns, strings or numbers.
    """
    columns = {"sample_id": pa.array(list(sample_ids), pa.string())}
    features = {"sample_id": Value("string")}
    for name, values in scores.items():
        columns[name] = pa.array(np.asarray(values, dtype=np.float32))
        features[name] = Value("float32")
    for name, column in feature_columns.items():
        columns[name] = column
        features[name] = (
            Value("string")
            if pa.types.is_string(column.type)
            else List(List(Value("float32"), length=column.type.value_type.list_size))
        )
    for name, values in (extra or {}).items():
        columns[name] = pa.array(values)
        features[name] = Value(str(columns[name].type))
    features = Features(features)
    return Dataset(pa.table(columns).cast(features.arrow_schema))


def row_targets(row: dict, score_names: Sequence[str]) -> list[float]:
    """Targets of a row in judges' units, NaN = not given; a dataset of one score keeps it in the column `score`."""
    columns = target_columns(row, score_names)
    return [float("nan") if row[column] is None else float(row[column]) for column in columns]


def target_columns(columns: Sequence[str], score_names: Sequence[str]) -> list[str]:
    """The column of each score.

    Raises:
        ValueError: neither the named columns nor, for one score, the column `score` is there.
    """
    if all(name in columns for name in score_names):
        return list(score_names)
    if len(score_names) == 1 and "score" in columns:
        return ["score"]
    absent = [name for name in score_names if name not in columns]
    raise ValueError(f"the dataset has no column for the scores {absent}; its columns: {list(columns)}")


def read_targets(rows: Sequence[dict] | Iterable[dict], score_names: Sequence[str]) -> np.ndarray:
    """Judged scores `(rows, scores)`, NaN = not given."""
    if hasattr(rows, "select_columns"):  # without reading a single feature
        rows = rows.select_columns(target_columns(rows.column_names, score_names))
    targets = [row_targets(rows[index], score_names) for index in range(len(rows))]
    return np.array(targets, dtype=np.float64).reshape(len(rows), len(score_names))


def report_missing(data: AqaData, list_missing: bool = False, require_complete: bool = False) -> None:
    """Says what is missing in one warning.

    Args:
        data: the dataset.
        list_missing: print a line for each missing feature as well.
        require_complete: anything missing is an error.

    Raises:
        ValueError: something is missing, and `require_complete`.
    """
    summary = missing_summary(data)
    if not summary.features:
        return
    if list_missing:
        print(summary.listing(), flush=True)
    if require_complete:
        raise ValueError(f"`require_complete` is given, but {summary}")
    logger.warning("%s", summary)


def missing_summary(data: AqaData) -> MissingSummary:
    """What the dataset says is missing, or else what is null in its columns."""
    if data.missing is not None:
        return data.missing
    samples = sum(len(split) for split in data.splits.values())
    return MissingSummary(samples, [each for split in data.splits.values() for each in nulls(split, data.modalities)])
