"""Scores samples under many masks at once: features are read and projected once, views are batched by length."""

from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from accelerate.utils import DistributedType
from datasets import Dataset
from torch.utils.data import DataLoader

from ..processing.processing_limssr import LimssrProcessor
from .missingness import Mask
from .prediction import PATHS, NumberedRows, Predictions, evaluating, judged, read_sample_ids
from .sequence_lengths import longest_first, row_extent, sequence_lengths

SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED, DistributedType.MEGATRON_LM)


@dataclass(frozen=True)
class _View:
    """What one row shows under one or more masks that hide the same of it."""

    row: int
    shown: tuple[str, ...]
    masks: tuple[int, ...]
    length: int


def predict_subsets(
    model,
    processor: LimssrProcessor,
    dataset: Dataset,
    masks: Sequence[Mask],
    modalities: Sequence[str],
    batch_size: int = 16,
    accelerator=None,
    progress=None,
) -> list[Predictions]:
    """
    Scores every row under every mask that leaves something of it, as `predict` does of one mask after the other.

    Args:
        model: a `LimssrForScoreRegression`, possibly prepared by `accelerator`; its mode is restored afterwards.
        processor: the model's `LimssrProcessor`.
        dataset: with one column a modality and `sample_id`.
        masks: 0/1 for each of `modalities`, 1 = shown; other modalities of the model are hidden.
        modalities: names in mask order.
        batch_size: sequences a batch and process.
        accelerator: shares the rows over its processes; each of them returns all predictions.
        progress: tqdm bar, moved on by the number of scores.

    Returns:
        Of each mask the `Predictions` of the rows that show something under it, in the order of `dataset`.
    """
    unwrapped = accelerator.unwrap_model(model) if accelerator else model
    config = unwrapped.config
    columns = [name for name in modalities if name in dataset.column_names]
    rows = dataset.select_columns(["sample_id", *columns]).with_format("numpy")
    loader = DataLoader(
        NumberedRows(rows),
        batch_size=batch_size,
        sampler=longest_first(sequence_lengths(rows, processor)),
        collate_fn=lambda batch: {"index": torch.tensor([row["index"] for row in batch]), "rows": batch},
    )
    loader = accelerator.prepare(loader) if accelerator else loader
    shape = (len(rows), len(masks), len(config.score_names))
    results = {name: np.full(shape, np.nan) for name in PATHS}
    visible = np.zeros((len(rows), len(masks), len(config.modalities)), dtype=bool)
    scorer = _ViewScorer(model, unwrapped, processor, masks, list(modalities), batch_size, accelerator)
    with evaluating(model), accelerator.autocast() if accelerator else nullcontext():
        for batch in loader:
            outputs = {"index": batch["index"].to(unwrapped.device), **scorer.score(batch["rows"])}
            outputs = accelerator.gather_for_metrics(outputs) if accelerator else outputs
            index = outputs["index"].cpu().numpy()
            visible[index] = outputs["visible"].cpu().numpy()
            for name in results:
                results[name][index] = outputs[name].cpu().numpy()
            if progress is not None:
                progress.update(int(visible[index].any(-1).sum()))
    sample_ids = np.array(read_sample_ids(rows), dtype=object)
    predictions = []
    for number in range(len(masks)):
        scored = visible[:, number].any(-1)
        parts = {name: values[scored, number] for name, values in {**results, "visible": visible}.items()}
        predictions.append(Predictions(sample_ids[scored].tolist(), list(config.modalities), **parts))
    return predictions


class _ViewScorer:
    """Scores a few rows, which are in memory, under all masks."""

    def __init__(self, model, unwrapped, processor, masks, modalities, batch_size, accelerator):
        self.model, self.unwrapped, self.processor = model, unwrapped, processor
        self.masks = [{name for name, bit in zip(modalities, mask, strict=True) if bit} for mask in masks]
        self.batch_size = batch_size
        # The projectors of a sharded model exist only inside its forward pass.
        self.projects_ahead = accelerator is None or accelerator.distributed_type not in SHARDED

    def score(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """Each of `PATHS` (rows, masks, scores), NaN where nothing is shown; `visible` (rows, masks, modalities)."""
        config, device = self.unwrapped.config, self.unwrapped.device
        shape = (len(rows), len(self.masks), len(config.score_names))
        scores = {name: torch.full(shape, torch.nan, device=device) for name in PATHS}
        visible = torch.zeros(*shape[:2], len(config.modalities), dtype=torch.bool, device=device)
        views = sorted(self._views(rows), key=lambda view: (-view.length, view.shown))
        projected = self._project(rows) if self.projects_ahead else {}
        for start in range(0, len(views), self.batch_size):
            batch = views[start : start + self.batch_size]
            found = judged(self.model(**self._inputs(rows, batch, projected)), config)
            for number, view in enumerate(batch):
                shown = torch.tensor([name in view.shown for name in config.modalities], device=device)
                visible[view.row, list(view.masks)] = shown
                for name in PATHS:
                    scores[name][view.row, list(view.masks)] = found[name][number]
        return {**scores, "visible": visible}

    def _views(self, rows: list[dict]) -> Iterator[_View]:
        for number, row in enumerate(rows):
            masks: dict[tuple[str, ...], list[int]] = {}
            for mask, names in enumerate(self.masks):
                shown = tuple(name for name in self.unwrapped.config.modalities if self._shows(row, name, names))
                masks.setdefault(shown, []).append(mask)
            for shown, of_view in masks.items():
                if shown:
                    yield _View(number, shown, tuple(of_view), self.processor.sequence_length(row_extent(row, shown)))

    @staticmethod
    def _shows(row: dict, name: str, names: set[str]) -> bool:
        return name in names and row.get(name) is not None

    def _project(self, rows: list[dict]) -> dict[str, torch.Tensor]:
        """Modality -> its projected clips of every row `(rows, clips, hidden)`, 0 where there is none."""
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
        inputs = self._write([rows[view.row] for view in views], [view.shown for view in views])
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
        sample_ids = [str(row["sample_id"]) for row in rows]
        inputs = self.processor(features=features, sample_ids=sample_ids)
        return {name: value.to(self.unwrapped.device) for name, value in inputs.items()}
