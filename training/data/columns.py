"""Columns of a dataset, as Arrow holds them."""

import pyarrow as pa


def without_extension(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The lists in a column of `datasets.Array2D`; any other column as it is."""
    return column.cast(column.type.storage_type) if isinstance(column.type, pa.ExtensionType) else column
