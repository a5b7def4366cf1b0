"""What every dataset gives, and the arrow columns that hold its features."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict, Features, List, Value

from ..missingness import Mask
from .missing import MissingSummary


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
