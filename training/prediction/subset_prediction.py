"""Scores samples under many masks at once: features are read and projected once, views are batched by length."""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from torch.utils.data import DataLoader

from ...processing.processing_limssr import LimssrProcessor
from ..data.masked_dataset import MaskedDataset, longest_first, row_extent, sequence_lengths
from ..data.masks import Mask, subset_name
from .predictor import PATHS, NumberedRows, evaluating, path_scores

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


def predict_masks(
    model,
    processor: LimssrProcessor,
    dataset: Dataset,
    wanted: Mapping[Mask, np.ndarray],
    modalities: Sequence[str],
    batch_size: int = 16,
    accelerator=None,
    progress=None,
) -> dict[Mask, dict[str, np.ndarray]]:
    """
    Scores samples under the masks wanted of them, as `predict` does of one mask after the other.

    Of a sample only the features are read that one of its masks shows.

    Args:
        model: a `LimssrForScoreRegression`, possibly prepared by `accelerator`; its mode is restored afterwards.
        processor: the model's `LimssrProcessor`.
        dataset: with one column a modality and `sample_id`.
        wanted: mask -> (samples,) bool, the samples to score under it; each has all that the mask shows.
        modalities: names in mask order; other modalities of the model are hidden.
        batch_size: sequences a batch and process.
        accelerator: shares the samples over its processes; each of them returns all scores.
        progress: tqdm bar, moved on by the number of scores.

    Returns:
        Mask -> each of `PATHS` (samples, scores) float64 in judges' units, NaN where it was not wanted.
    """
    unwrapped = accelerator.unwrap_model(model) if accelerator else model
    masks, chosen = list(wanted), np.stack(list(wanted.values()), axis=1)  # (samples, masks)
    samples = np.flatnonzero(chosen.any(axis=1))
    rows = _rows_of_masks(dataset, samples, masks, chosen[samples], modalities)
    scorer = _MaskScorer(model, unwrapped, processor, masks, list(modalities), batch_size, accelerator)
    loader = DataLoader(
        NumberedRows(rows),
        batch_size=batch_size,
        sampler=longest_first(sequence_lengths(rows, processor)),
        collate_fn=lambda batch: {"index": torch.tensor([row["index"] for row in batch]), "rows": batch},
    )
    loader = accelerator.prepare(loader) if accelerator else loader
    shape = (len(dataset), len(masks), len(unwrapped.config.score_names))
    results = {name: np.full(shape, np.nan) for name in PATHS}
    with evaluating(model), accelerator.autocast() if accelerator else nullcontext():
        for batch in loader:
            index = samples[batch["index"].cpu().numpy()]
            outputs = {
                "index": torch.from_numpy(index).to(unwrapped.device),
                **scorer.score(batch["rows"], chosen[index]),
            }
            outputs = accelerator.gather_for_metrics(outputs) if accelerator else outputs
            index = outputs["index"].cpu().numpy()  # each row goes to its own place, so none can count twice
            for name in PATHS:
                results[name][index] = outputs[name].cpu().numpy()
            if progress is not None:
                progress.update(int(chosen[index].sum()))
    return {mask: {name: results[name][:, number] for name in PATHS} for number, mask in enumerate(masks)}


def _rows_of_masks(dataset: Dataset, samples, masks: list[Mask], chosen, modalities: Sequence[str]) -> MaskedDataset:
    """The samples, each with what any of its masks shows: the rest cannot be read."""
    shown = chosen.astype(int) @ np.array(masks) > 0  # (samples, modalities)
    columns = [name for name in ("sample_id", *modalities) if name in dataset.column_names]
    return MaskedDataset(dataset.select_columns(columns).select(samples), modalities, shown.astype(int).tolist())


@dataclass(frozen=True)
class _View:
    """Row number `row`, seen under mask number `mask`, which shows `names`."""

    row: int
    mask: int
    names: tuple[str, ...]
    length: int


class _MaskScorer:
    """Scores a few rows, which are in memory, under several masks."""

    def __init__(self, model, unwrapped, processor, masks, modalities, batch_size, accelerator):
        self.model, self.unwrapped, self.processor, self.batch_size = model, unwrapped, processor, batch_size
        self.names = [tuple(subset_name(mask, modalities).split("+")) for mask in masks]
        # The projectors of a sharded model exist only inside its forward pass.
        self.projects_ahead = accelerator is None or accelerator.distributed_type not in SHARDED

    def score(self, rows: list[dict], chosen: np.ndarray) -> dict[str, torch.Tensor]:
        """Each of `PATHS` (rows, masks, scores), NaN but where `chosen` (rows, masks)."""
        config, device = self.unwrapped.config, self.unwrapped.device
        shape = (*chosen.shape, len(config.score_names))
        scores = {name: torch.full(shape, torch.nan, device=device) for name in PATHS}
        views = [self._view(rows[row], row, mask) for row, mask in np.argwhere(chosen).tolist()]
        views.sort(key=lambda view: (-view.length, view.mask))
        projected = self._project(rows) if self.projects_ahead else {}
        for start in range(0, len(views), self.batch_size):
            batch = views[start : start + self.batch_size]
            found = path_scores(self.model(**self._inputs(rows, batch, projected)))
            places = [view.row for view in batch], [view.mask for view in batch]
            for name in PATHS:
                scores[name][places] = found[name]
        return scores

    def _view(self, row: dict, number: int, mask: int) -> _View:
        names = self.names[mask]
        return _View(number, mask, names, self.processor.sequence_length(row_extent(row, names)))

    def _project(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """Modality -> its projected clips of every row (rows, clips, hidden), 0 where there is none."""
        inputs = self._write(rows, [tuple(self.unwrapped.config.modalities)] * len(rows))
        projected = {}
        for name, projector in self.unwrapped.model.projectors.items():
            features, clip_mask = inputs[f"{name}_features"], inputs[f"{name}_clip_mask"]
            clips = projector(features[clip_mask].to(projector.linear_1.weight))  # (clips, hidden)
            projected[name] = clips.new_zeros(*clip_mask.shape, clips.shape[-1])
            projected[name][clip_mask] = clips
        return projected

    def _inputs(self, rows: list[dict], views: list[_View], projected: dict) -> dict[str, torch.Tensor]:
        """Inputs of the model for a batch of views."""
        inputs = self._write([rows[view.row] for view in views], [view.names for view in views])
        numbers = [view.row for view in views]
        for name, clips in projected.items():
            most = inputs.pop(f"{name}_features").shape[1]
            inputs[f"{name}_projected"] = clips[numbers, :most]
        return inputs

    def _write(self, rows: list[dict], shown: list[tuple[str, ...]]) -> dict[str, torch.Tensor]:
        features = {
            name: [row.get(name) if name in names else None for row, names in zip(rows, shown, strict=True)]
            for name in self.unwrapped.config.modalities
        }
        inputs = self.processor(features=features, sample_ids=[str(row["sample_id"]) for row in rows])
        return {name: value.to(self.unwrapped.device) for name, value in inputs.items()}
