"""Order and content of training batches, repeatable for any number of workers and after a resume."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler
from transformers.trainer_pt_utils import get_length_grouped_indices

from ...processing.processing_limssr import LimssrProcessor
from ..data.aqa_data import row_targets
from ..data.masks import DynamicMask, all_subsets, derive_seed, subset_name

EPOCH_COLUMN = "training_epoch"
SAMPLE_IDS = "sample_ids"


class NamedBatches:
    """A collator whose batches name their samples, for messages of the trainer, which takes the names out again.

    Args:
        collator: turns rows into inputs of the model.
    """

    def __init__(self, collator: Callable[[list[dict[str, Any]]], dict[str, torch.Tensor]]):
        self.collator = collator

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        return {**self.collator(rows), SAMPLE_IDS: [str(row["sample_id"]) for row in rows]}


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


MASK_COLUMN = "training_mask"


@dataclass
class LimssrCollator:
    """Turn rows of a dataset into inputs of the model, labels included.

    Crops, masks and dropout follow from the seed, the epoch and the sample ids of the batch, not from earlier draws.

    Args:
        processor: the model's processor.
        modalities: modality columns.
        score_names: label columns, in the model's order.
        dynamic_mask: draws one mask for each batch.
        modality_dropout: draws a further mask for each sample and epoch.
        all_masks: use each sample with every non-empty subset of its modalities, side by side in the batch.
        clip_dropout: modality -> rate at which clips, or words, are left out, anew for each sample, epoch and mask.
        label_weights: sample id -> weight of each score's label in the loss; without them all weigh alike.
        augment: changes each row anew in every epoch, before anything is hidden, see `AqaData`.
        crop: `random` for training, `center` for evaluation.
        seed: seed of crops and clip dropout.
    """

    processor: LimssrProcessor
    modalities: Sequence[str]
    score_names: Sequence[str]
    dynamic_mask: DynamicMask | None = None
    modality_dropout: DynamicMask | None = None
    all_masks: bool = False
    clip_dropout: Mapping[str, float] = field(default_factory=dict)
    augment: Callable[[dict[str, Any], np.random.Generator], dict[str, Any]] | None = None
    label_weights: Mapping[str, Sequence[float]] | None = None
    crop: Literal["random", "center"] = "random"
    seed: int = 0

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """
        Raises:
            TypeError, ValueError: a row does not fit; the message names its `sample_id`.
        """
        if "sample_id" not in rows[0]:
            raise ValueError(
                f"rows have the columns {list(rows[0])} and no sample_id; transformers' Trainer drops columns unless "
                "it is given TrainingArguments(remove_unused_columns=False)"
            )
        sample_ids = [str(row["sample_id"]) for row in rows]
        key = (rows[0].get(EPOCH_COLUMN, 0), *sample_ids)
        if self.augment is not None:
            seeds = [derive_seed(self.seed, "augment", key[0], sample_id) for sample_id in sample_ids]
            rows = [self.augment(row, np.random.default_rng(seed)) for row, seed in zip(rows, seeds, strict=True)]
        if self.dynamic_mask is not None:
            rows = self.dynamic_mask.apply(rows, self.dynamic_mask.draw(*key))
        if self.modality_dropout is not None:
            masks = [self.modality_dropout.draw("sample", key[0], sample_id) for sample_id in sample_ids]
            rows = [self.modality_dropout.apply([row], mask)[0] for row, mask in zip(rows, masks, strict=True)]
        if self.all_masks:
            rows = [masked for row in rows for masked in self._under_all_masks(row)]
        sample_ids = [str(row["sample_id"]) for row in rows]
        batch = self.processor(
            features={name: [self._content(row, name) for row in rows] for name in self.modalities},
            labels=[self._labels(row) for row in rows],
            crop=self.crop,
            generator=torch.Generator().manual_seed(derive_seed(self.seed, *key)),
            sample_ids=sample_ids,
        )
        if self.label_weights is None:
            return dict(batch)
        if unknown := [sample_id for sample_id in sample_ids if sample_id not in self.label_weights]:
            raise ValueError(f"sample {unknown[0]!r} has no label weights")
        return {**batch, "loss_weights": torch.tensor([self.label_weights[sample_id] for sample_id in sample_ids])}

    def _under_all_masks(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the row with every non-empty subset of its modalities, fullest first."""
        available = [row.get(name) is not None for name in self.modalities]
        if not any(available):
            yield row  # the processor names it
        for mask in all_subsets(len(self.modalities)):
            if all(has >= bit for has, bit in zip(available, mask, strict=True)):
                hidden = [name for name, bit in zip(self.modalities, mask, strict=True) if not bit]
                yield {**row, **dict.fromkeys(hidden), MASK_COLUMN: subset_name(mask, self.modalities)}

    def _content(self, row: dict[str, Any], modality: str) -> Any:
        """Return what clip dropout leaves of the clips or the text of a modality; all, if it would leave nothing."""
        content, rate = row.get(modality), self.clip_dropout.get(modality, 0)
        if content is None or not rate:
            return content
        parts = content.split() if isinstance(content, str) else content
        mask = [row[MASK_COLUMN]] if MASK_COLUMN in row else []
        seed = derive_seed(self.seed, "clips", row.get(EPOCH_COLUMN, 0), row["sample_id"], modality, *mask)
        kept = torch.rand(len(parts), generator=torch.Generator().manual_seed(seed)) >= rate
        if not kept.any():
            return content
        if isinstance(parts, np.ndarray):
            return parts[kept.numpy()]
        parts = list(compress(parts, kept.tolist()))
        return " ".join(parts) if isinstance(content, str) else parts

    def _labels(self, row: dict[str, Any]) -> list[float]:
        try:
            return row_targets(row, self.score_names)
        except (TypeError, ValueError) as error:
            raise ValueError(f"sample {row['sample_id']!r}: {error}") from error
