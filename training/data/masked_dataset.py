"""Rows that show only the modalities of their mask, and the lengths of their sequences."""

from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from torch.utils import data

from ...processing.processing_limssr import LimssrProcessor
from .columns import without_extension
from .masks import Mask


class MaskedDataset(data.Dataset):
    """Rows of a Hugging Face dataset, each with the modalities of its mask.

    The column of a hidden modality is never read: the rows of each mask are read from a dataset without it.

    Args:
        dataset: dataset with one nullable column for each modality.
        modalities: names in mask order.
        masks: mask of each sample.

    Raises:
        ValueError: the number of masks or the length of one does not fit, or a mask is empty.
    """

    def __init__(self, dataset: Dataset, modalities: Sequence[str], masks: Sequence[Mask]) -> None:
        if len(masks) != len(dataset):
            raise ValueError(f"{len(masks)} masks for {len(dataset)} samples; give one a sample")
        self.modalities = list(modalities)
        self.masks = [tuple(int(bit) for bit in mask) for mask in masks]
        for index, mask in enumerate(self.masks):
            if len(mask) != len(self.modalities) or not any(mask) or not set(mask) <= {0, 1}:
                names = ", ".join(self.modalities)
                raise ValueError(
                    f"mask {mask} of sample number {index}: expected 0 or 1 for each of {names}, not only 0"
                )
        others = [name for name in dataset.column_names if name not in self.modalities]
        self._by_mask = {
            mask: dataset.select_columns([*others, *compress(self.modalities, mask)]).with_format("arrow")
            for mask in set(self.masks)
        }

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row `index`: each modality as float32 (clips, dim) or text, None where it is hidden or missing.

        Raises:
            ValueError: a column of features does not hold clips of one width.
        """
        table = self._by_mask[self.masks[index]][int(index)]
        row = dict.fromkeys(self.modalities)
        for name in table.column_names:
            value = without_extension(table[name])[0]
            is_features = name in self.modalities and pa.types.is_nested(value.type)
            row[name] = _clips(value, f"row {index}, column {name!r}") if is_features else value.as_py()
        return row

    def extents(self) -> list[dict[str, int | str]]:
        """Extents of all rows, see `row_extents`."""
        extents: list[dict[str, int | str]] = [{}] * len(self)
        for mask, dataset in self._by_mask.items():
            rows = [row for row, its_mask in enumerate(self.masks) if its_mask == mask]
            for row, extent in zip(rows, row_extents(dataset.select(rows), self.modalities), strict=True):
                extents[row] = extent
        return extents


def _clips(value: pa.Scalar, where: str) -> np.ndarray | None:
    """Clips of an Arrow value, any list of lists of numbers, float32 (clips, dim), in their own memory."""
    if not value.is_valid:
        return None
    clips = value.values
    if pa.types.is_fixed_size_list(clips.type):
        widths = {clips.type.list_size}
    else:
        widths = set(pc.list_value_length(clips).to_pylist()) if pa.types.is_nested(clips.type) else {None}
    if len(widths) != 1 or None in widths:
        raise ValueError(f"{where}: expected clips of one width, [clips, dim], got {value.type} with widths {widths}")
    numbers = clips.flatten().to_numpy(zero_copy_only=False)
    return numbers.reshape(len(clips), *widths).astype(np.float32)  # a copy


def sequence_lengths(rows: Sequence[dict], processor: LimssrProcessor) -> list[int]:
    """Number of tokens that a processor makes of each row; no clip of a dataset is decoded.

    Args:
        rows: `datasets.Dataset`, `MaskedDataset` or a sequence of row dictionaries with feature arrays and texts.
        processor: the processor.
    """
    modalities = list(processor.modality_sizes)
    if isinstance(rows, MaskedDataset):
        extents = rows.extents()
    elif isinstance(rows, Dataset):
        extents = row_extents(rows, modalities)
    else:
        extents = [row_extent(rows[index], modalities) for index in range(len(rows))]
    return [processor.sequence_length(extent) for extent in extents]


def row_extent(row: dict, modalities: Iterable[str]) -> dict[str, int | str]:
    """Number of clips, or text, of each modality that a row has."""
    contents = {name: row[name] for name in modalities if row.get(name) is not None}
    return {name: content if isinstance(content, str) else len(content) for name, content in contents.items()}


def row_extents(dataset: Dataset, modalities: Sequence[str]) -> list[dict[str, int | str]]:
    """Extent of each row of a dataset, see `row_extent`; no clip is decoded."""
    extents: list[dict[str, int | str]] = [{} for _ in range(len(dataset))]
    for name in modalities:
        if name not in dataset.column_names:
            continue
        tables = dataset.select_columns([name]).with_format("arrow").iter(1000)
        batches = (without_extension(table[name]) for table in tables)
        column = (pc.list_value_length(batch) if pa.types.is_nested(batch.type) else batch for batch in batches)
        values = [value for batch in column for value in batch.to_pylist()]
        for extent, value in zip(extents, values, strict=True):
            if value is not None:
                extent[name] = value
    return extents


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Row numbers by decreasing length, ties in row order: a batch too large for the memory then comes first."""
    return np.argsort(-np.asarray(lengths), kind="stable").tolist()
