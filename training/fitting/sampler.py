"""Rows to batches: hides, crops and labels, repeatable for any number of workers and after a resume."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from ..data.masks import derive_seed

EPOCH_COLUMN, MASK_COLUMN = "training_epoch", "training_view"


class EpochSampler(Sampler[tuple[int, int]]):
    """
    Shuffles anew in every epoch, by seed and epoch alone, and hands the epoch on with each row number.

    Args:
        length: number of rows.
        seed: another seed shuffles otherwise.
        lengths: tokens of each row, to put rows of about the same length into one batch.
        batch_size: rows of such a batch.
    """

    def __init__(self, length: int, seed: int, lengths: Sequence[int] | None = None, batch_size: int = 1):
        self.length = length
        self.seed = seed
        self.lengths = lengths
        self.batch_size = batch_size
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "epoch", self.epoch))
        if self.lengths is None:
            order = torch.randperm(self.length, generator=generator).tolist()
        else:
            order = length_groups(self.lengths, self.batch_size, generator)
        for index in order:
            yield self.epoch, index


class EpochRows(Dataset):
    """Rows that carry the epoch in which they are read, which the sampler sends along: workers need not be told."""

    def __init__(self, rows: Sequence[dict]):
        self.rows = rows.with_format("numpy") if hasattr(rows, "with_format") else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        return {**self.rows[index], EPOCH_COLUMN: epoch}


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
