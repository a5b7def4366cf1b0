"""How long the sequences of rows will be, and batches of rows whose sequences are about as long."""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from datasets import Dataset
from transformers.trainer_pt_utils import get_length_grouped_indices

from ..processing.processing_limssr import LimssrProcessor
from .missingness import MaskedDataset, row_extents


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


def length_groups(lengths: Sequence[int], batch_size: int, generator: torch.Generator) -> Iterable[int]:
    """
    Row numbers in random order, but so that the rows of a batch are about as long.

    The groups are those of `transformers`; their batches are shuffled, because within a group it leaves them sorted by
    length, which would train on one kind of samples after the other.

    Args:
        lengths: tokens of each row.
        batch_size: rows of a batch.
        generator: of both shuffles.
    """
    order = get_length_grouped_indices(lengths, batch_size, generator=generator)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    whole = [batch for batch in batches if len(batch) == batch_size]
    for batch in torch.randperm(len(whole), generator=generator).tolist():
        yield from whole[batch]
    for batch in batches[len(whole) :]:  # a smaller one must stay the last
        yield from batch
