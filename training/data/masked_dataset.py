"""How long the sequences of rows will be, and batches of rows whose sequences are about as long."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from datasets import Dataset
from torch.utils import data

from ...processing.processing_limssr import LimssrProcessor
from .masks import Mask


def sequence_lengths(rows: Sequence[dict], processor: LimssrProcessor) -> list[int]:
    """Tokens of the sequence of each row. Of a dataset no clip is decoded.

    Args:
        rows: `datasets.Dataset`, `MaskedDataset` or a sequence of row dictionaries with feature arrays and texts.
        processor: writes the sequences.
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
    """Of the modalities that a row has, the number of clips, or the text."""
    contents = {name: row[name] for name in modalities if row.get(name) is not None}
    return {name: content if isinstance(content, str) else len(content) for name, content in contents.items()}


def longest_first(lengths: Sequence[int]) -> list[int]:
    """Row numbers by falling length, equal ones in their order: what does not fit in memory fails at once."""
    return np.argsort(-np.asarray(lengths), kind="stable").tolist()


def row_extents(dataset: Dataset, modalities: Sequence[str]) -> list[dict[str, int | str]]:
    """Of each row, the modalities it has, with their number of clips or their text; no clip is decoded."""
    extents: list[dict[str, int | str]] = [{} for _ in range(len(dataset))]
    for name in modalities:
        if name not in dataset.column_names:
            continue
        batches = (batch[name] for batch in dataset.select_columns([name]).with_format("arrow").iter(1000))
        column = (pc.list_value_length(cells) if pa.types.is_list(cells.type) else cells for cells in batches)
        values = [value for cells in column for value in cells.to_pylist()]
        for extent, value in zip(extents, values, strict=True):
            if value is not None:
                extent[name] = value
    return extents


class MaskedDataset(data.Dataset):
    """Rows of a Hugging Face dataset that show the modalities of their mask and no other.

    The column of a hidden modality is never asked for: each mask has its own view of the dataset without it. (Before
    masks are drawn, `available_masks` asks of each cell whether it is null, and nothing else.)

    Args:
        dataset: with one nullable column a modality.
        modalities: names in mask order.
        masks: one a sample.

    Raises:
        ValueError: the number of masks or the length of one does not fit, or a mask shows nothing.
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
        self._masks_of = {
            mask: dataset.select_columns([*others, *self._present(mask)]).with_format("arrow")
            for mask in set(self.masks)
        }

    def __len__(self) -> int:
        return len(self.masks)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Row `index`: each modality a float32 array (clips, dim) or a text, None where it is hidden or missing."""
        mask = self.masks[index]
        table = self._masks_of[mask][int(index)]
        row = dict.fromkeys(self.modalities)
        for name in table.column_names:
            cell = table[name][0]
            row[name] = _clips(cell) if pa.types.is_list(cell.type) else cell.as_py()
        return row

    def extents(self) -> list[dict[str, int | str]]:
        """Of each row, the modalities it shows, with their number of clips or their text; no clip is decoded."""
        extents: list[dict[str, int | str]] = [{}] * len(self)
        for mask, view in self._masks_of.items():
            rows = [row for row, its_mask in enumerate(self.masks) if its_mask == mask]
            for row, found in zip(rows, row_extents(view.select(rows), self.modalities), strict=True):
                extents[row] = found
        return extents

    def _present(self, mask: Mask) -> list[str]:
        return [name for name, bit in zip(self.modalities, mask, strict=True) if bit]


def _clips(cell) -> np.ndarray | None:
    """An arrow list of clips as float32 (clips, dim)."""
    if not cell.is_valid:
        return None
    clips = cell.values
    return clips.flatten().to_numpy(zero_copy_only=False).reshape(len(clips), clips.type.list_size).copy()
