"""Digests of what a dataset holds, by which a run that goes on knows its data again."""

import hashlib
import json
from collections.abc import Iterable, Mapping

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset

from .columns import without_extension

ROWS = 100  # read at a time


def fingerprint_splits(splits: Mapping[str, Dataset], columns: Iterable[str]) -> dict[str, dict[str, str]]:
    """Return split -> column -> SHA-256 of its values in their order, whatever files they came from.

    Args:
        splits: rows by name of their split.
        columns: columns to read, where a split has them.
    """
    columns = list(columns)
    return {
        split: {name: _digest(rows.select_columns([name]), name) for name in columns if name in rows.column_names}
        for split, rows in splits.items()
    }


def _digest(rows: Dataset, name: str) -> str:
    """Clips are taken as the float32 that a model reads, with their number in each row; null has none."""
    extents, values = hashlib.sha256(), hashlib.sha256()
    for table in rows.with_format("arrow").iter(ROWS):
        column = without_extension(table[name])
        while pa.types.is_nested(column.type) and not pa.types.is_struct(column.type):
            extents.update(pc.fill_null(pc.list_value_length(column), -1).to_numpy().astype(np.int64))
            column = pc.list_flatten(column)
        if pa.types.is_floating(column.type):
            values.update(np.ascontiguousarray(column.to_numpy(), np.float32))
        else:
            values.update(json.dumps(column.to_pylist(), default=str).encode())
    extents.update(values.digest())
    return extents.hexdigest()
