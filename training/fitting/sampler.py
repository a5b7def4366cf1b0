"""Order of the training rows: by seed and epoch alone, for any number of workers and after a resume."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from ..data.masks import derive_seed

EPOCH_COLUMN = "training_epoch"


class EpochSampler(Sampler[tuple[int, int]]):
    """Shuffle the rows anew in every epoch, and send the epoch along with each row number.

    Each epoch takes one number from torch's global generator, as a plain `DataLoader` does unless its workers persist:
    dropout is then the same for every kind of workers.

    Args:
        length: number of rows.
        seed: seed of the order.
        lengths: tokens of each row, to put rows of about the same length into batches of `batch_size`.
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
        torch.empty((), dtype=torch.int64).random_()
        generator = torch.Generator().manual_seed(derive_seed(self.seed, "epoch", self.epoch))
        if self.lengths is None:
            order = torch.randperm(self.length, generator=generator).tolist()
        else:
            order = length_groups(self.lengths, self.batch_size, generator)
        return ((self.epoch, index) for index in order)


class EpochRows(Dataset):
    """Rows that carry the epoch in which they are read, which the sampler sends: workers need not be told."""

    def __init__(self, rows: Sequence[dict]):
        self.rows = rows.with_format("numpy") if hasattr(rows, "with_format") else rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        epoch, index = key
        return {**self.rows[index], EPOCH_COLUMN: epoch}


def length_groups(lengths: Sequence[int], batch_size: int, generator: torch.Generator) -> list[int]:
    """Return row numbers in random order, rows of about the same length in one batch.

    The groups are those of `transformers`, which sorts the batches of a group by length. They are shuffled here, or
    training would see one kind of samples after the other.
    """
    order = get_length_grouped_indices(lengths, batch_size, generator=generator)
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    whole = [batch for batch in batches if len(batch) == batch_size]
    shuffled = [whole[batch] for batch in torch.randperm(len(whole), generator=generator).tolist()]
    return list(chain(*shuffled, *batches[len(whole) :]))  # a smaller batch must stay the last
