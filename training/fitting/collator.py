"""Rows to batches: hides, crops and labels, repeatable for any number of workers and after a resume."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Any, Literal

import numpy as np
import torch

from ...processing.processing_limssr import LimssrProcessor
from ..data.aqa_data import row_targets
from ..data.masks import DynamicMask, all_subsets, derive_seed, subset_name
from .sampler import EPOCH_COLUMN, MASK_COLUMN


@dataclass
class LimssrCollator:
    """
    Rows of a dataset -> inputs of the model, labels included.

    What is random (crop, dynamic mask, dropout) follows from the seed, the epoch and the ids of the batch alone: not
    from the number of workers, not from what was drawn before.

    Args:
        processor: of the model.
        modalities: their columns.
        score_names: columns of the labels, in the model's order.
        dynamic_mask: draws one mask for each batch; `None` leaves the rows as they are.
        modality_dropout: draws one mask for each sample and epoch, on top of all that is hidden already.
        all_masks: gives each sample once for every non-empty subset of what it shows, side by side in the batch.
        clip_dropout: modality -> rate at which its clips, or the words of its text, are left out, anew for each sample
            and epoch, and for each view.
        crop: `random` for training, `center` for evaluation.
        seed: of the crops and of what clip dropout leaves out.
    """

    processor: LimssrProcessor
    modalities: Sequence[str]
    score_names: Sequence[str]
    dynamic_mask: DynamicMask | None = None
    modality_dropout: DynamicMask | None = None
    all_masks: bool = False
    clip_dropout: Mapping[str, float] = field(default_factory=dict)
    crop: Literal["random", "center"] = "random"
    seed: int = 0

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """
        Raises:
            TypeError, ValueError: a row is unfit; the message names its `sample_id`.
        """
        sample_ids = [str(row["sample_id"]) for row in rows]
        key = (rows[0].get(EPOCH_COLUMN, 0), *sample_ids)
        if self.dynamic_mask is not None:
            rows = self.dynamic_mask.apply(rows, self.dynamic_mask.draw(*key))
        if self.modality_dropout is not None:
            masks = [self.modality_dropout.draw("sample", key[0], sample_id) for sample_id in sample_ids]
            rows = [self.modality_dropout.apply([row], mask)[0] for row, mask in zip(rows, masks, strict=True)]
        if self.all_masks:
            rows = [view for row in rows for view in self._masks_of(row)]
        batch = self.processor(
            features={name: [self._content(row, name) for row in rows] for name in self.modalities},
            labels=[self._labels(row) for row in rows],
            crop=self.crop,
            generator=torch.Generator().manual_seed(derive_seed(self.seed, *key)),
            sample_ids=[str(row["sample_id"]) for row in rows],
        )
        return dict(batch)

    def _masks_of(self, row: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """The row under every mask that shows something and nothing that it lacks, fullest first.

        A row that has nothing is left as it is, for the processor to name.
        """
        present = [row.get(name) is not None for name in self.modalities]
        if not any(present):
            yield row
        for mask in all_subsets(len(self.modalities)):
            if all(has >= bit for has, bit in zip(present, mask, strict=True)):
                hidden = [name for name, bit in zip(self.modalities, mask, strict=True) if not bit]
                yield {**row, **dict.fromkeys(hidden), MASK_COLUMN: subset_name(mask, self.modalities)}

    def _content(self, row: dict[str, Any], modality: str) -> Any:
        """The clips or the text of a modality, of them what clip dropout leaves (all, if nothing)."""
        content, rate = row.get(modality), self.clip_dropout.get(modality, 0)
        if content is None or not rate:
            return content
        parts = content.split() if isinstance(content, str) else content
        view = [row[MASK_COLUMN]] if MASK_COLUMN in row else []
        seed = derive_seed(self.seed, "clips", row.get(EPOCH_COLUMN, 0), row["sample_id"], modality, *view)
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
