"""Every non-empty subset of the modalities: the model, ridge regression and the training mean on the same samples."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from datasets import Dataset
from tqdm.auto import tqdm

from .baselines import Baselines, PooledRows, pool_rows, target_columns
from .metrics.aqa_metrics import CORRELATIONS, ERRORS, average_metrics, score_metrics
from .missingness import Mask, all_subsets, observed_masks, subset_name
from .prediction import Predictions
from .subset_prediction import predict_subsets

COLUMNS = ("model", "ridge", "floor", "best")


@dataclass(frozen=True)
class Cell:
    """One score under one mask; each part is a `score_metrics` dictionary, or None where there is none.

    Attributes:
        model: the network.
        ridge: ridge regression on the training rows; None with `ridge_reason`, or when no training rows were given.
        floor: predicting the training mean; its correlations are always undefined.
        best: what the best possible predictor reaches, where the data is synthetic and that is known.
    """

    model: dict
    ridge: dict | None = None
    floor: dict | None = None
    best: dict | None = None
    ridge_reason: str | None = None

    @property
    def not_better_than_floor(self) -> list[str]:
        """Metrics in which the model does not beat the training mean: no smaller error, or no positive correlation."""
        if self.floor is None:
            return []
        bars = {**dict.fromkeys(CORRELATIONS, 0.0), **{name: self.floor[name] for name in ERRORS}}
        return [name for name, bar in bars.items() if not self._beats(name, bar)]

    def _beats(self, name: str, bar: float | None) -> bool:
        value = self.model[name]
        if value is None or bar is None:
            return False
        return value > bar if name in CORRELATIONS else value < bar

    def to_dict(self) -> dict:
        return {**vars(self), "not_better_than_floor": self.not_better_than_floor}


@dataclass(frozen=True)
class MaskResult:
    """One mask.

    Attributes:
        mask: 0/1 a modality, 1 = shown.
        name: for example `video+audio`.
        samples: scored samples, those with at least one modality of the mask.
        complete: how many of them had all of it; the others were scored from what they had.
        scores: score name -> its `Cell`.
        predictions: the network's, in the order of `targets`.
        ridge, targets: (samples, scores), NaN = not available, not given.
    """

    mask: Mask
    name: str
    samples: int
    complete: int
    scores: dict[str, Cell]
    predictions: Predictions | None = field(repr=False)
    ridge: np.ndarray = field(repr=False)
    targets: np.ndarray = field(repr=False)

    def to_dict(self) -> dict:
        cells = {name: cell.to_dict() for name, cell in self.scores.items()}
        counts = {"samples": self.samples, "complete": self.complete}
        return {"mask": list(self.mask), "name": self.name, **counts, "scores": cells}


@dataclass(frozen=True)
class EvaluationResult:
    """All masks of one dataset, the complete one first.

    Attributes:
        samples: rows of the dataset.
        averages: score name -> column (`COLUMNS`) -> mean over the incomplete subsets, correlations in Fisher's z;
            None where a cell of that column is not available.
    """

    modalities: list[str]
    score_names: list[str]
    samples: int
    masks: list[MaskResult]
    averages: dict[str, dict[str, dict | None]]

    def to_dict(self) -> dict:
        """Plain Python values, None for undefined, ready for strict JSON."""
        masks = [mask.to_dict() for mask in self.masks]
        names = {"modalities": self.modalities, "score_names": self.score_names}
        return {**names, "samples": self.samples, "masks": masks, "averages": self.averages}

    def save_json(self, path: str | Path, **extra) -> None:
        """Writes `to_dict()` and what is given beside it, as strict JSON."""
        text = json.dumps({**extra, **self.to_dict()}, indent=2, allow_nan=False, ensure_ascii=False)
        Path(path).write_text(text + "\n", encoding="utf-8")


def evaluate_subsets(
    model,
    processor,
    dataset: Dataset,
    modalities: Sequence[str] | None = None,
    train_rows: Sequence[dict] | None = None,
    accelerator=None,
    *,
    baselines: Baselines | None = None,
    best_attainable: Mapping[Mask, dict] | None = None,
    batch_size: int = 16,
    progress: bool = True,
) -> EvaluationResult:
    """Scores `dataset` under each of the 2^M - 1 masks; no hidden feature is read.

    Args:
        model: a `LimssrForScoreRegression`, possibly prepared by `accelerator`.
        processor: the model's `LimssrProcessor`.
        dataset: one split.
        modalities: which of the model's modalities, in mask order; all by default.
        train_rows: the rows the model was trained on, for floor and ridge; none without them.
        accelerator: shares the samples over its processes; each of them returns the whole result.
        baselines: fitted already, in place of `train_rows` (fit once, evaluate every epoch).
        best_attainable: mask in the order of `modalities` -> known metrics of the best possible predictor.
        batch_size: samples a batch and process.
        progress: show a bar (on the main process).

    Raises:
        ValueError: a modality the model does not know, or no column for a score of the model.
    """
    config = (accelerator.unwrap_model(model) if accelerator else model).config
    modalities = _known_modalities(config, modalities)
    score_names = list(config.score_names)
    if baselines is None and train_rows is not None:
        baselines = Baselines(train_rows, modalities, score_names)
    pooled = _pool(dataset, modalities, score_names, with_features=baselines is not None)
    masks = all_subsets(len(modalities))
    counts = {mask: int((pooled.visible & np.array(mask, dtype=bool)).any(axis=1).sum()) for mask in masks}
    silent = not progress or (accelerator is not None and not accelerator.is_main_process)
    with tqdm(total=sum(counts.values()), desc="evaluating", unit="score", disable=silent) as bar:
        scored = predict_subsets(model, processor, dataset, masks, modalities, batch_size, accelerator, bar)
    results = []
    for mask, predictions in zip(masks, scored, strict=True):
        best = (best_attainable or {}).get(mask)
        predictions = predictions if counts[mask] else None
        results.append(_mask_result(mask, predictions, pooled, baselines, modalities, score_names, best))
    averages = {name: _average_columns([result.scores[name] for result in results[1:]]) for name in score_names}
    return EvaluationResult(modalities, score_names, len(dataset), results, averages)


def _known_modalities(config, modalities: Sequence[str] | None) -> list[str]:
    names = list(config.modalities) if modalities is None else list(modalities)
    unknown = [name for name in names if name not in config.modalities]
    if unknown or not names:
        raise ValueError(f"cannot evaluate the modalities {unknown or names}; the model has {list(config.modalities)}")
    return names


def _pool(dataset: Dataset, modalities: list[str], score_names: list[str], with_features: bool) -> PooledRows:
    """Targets and presence of every row, and its pooled features where a ridge will read them."""
    modality_columns = [name for name in modalities if name in dataset.column_names]
    columns = dict.fromkeys(["sample_id", *target_columns(dataset.column_names, score_names), *modality_columns])
    dataset = dataset.select_columns(list(columns))
    if with_features:
        return pool_rows(dataset, modalities, score_names)
    pooled = pool_rows(dataset.remove_columns(modality_columns), modalities, score_names)
    visible = np.zeros_like(pooled.visible)
    present = observed_masks(dataset, modality_columns)
    visible[:, [modalities.index(name) for name in modality_columns]] = np.array(present, dtype=bool)
    return replace(pooled, visible=visible)


def _scored(mask: Mask, pooled: PooledRows) -> np.ndarray:
    """Row numbers with at least one modality of the mask."""
    return np.flatnonzero((pooled.visible & np.array(mask, dtype=bool)).any(axis=1))


def _mask_result(mask, predictions, pooled, baselines, modalities, score_names, best) -> MaskResult:
    rows = _scored(mask, pooled)
    targets = pooled.targets[rows]
    ridge = baselines.ridge_predictions(pooled, mask)[rows] if baselines else np.full_like(targets, np.nan)
    floor = baselines.mean_predictions(len(rows)) if baselines else None
    cells = {}
    for column, name in enumerate(score_names):
        judged = targets[:, column]
        reason = baselines.reasons[mask][column] if baselines else None
        cells[name] = Cell(
            model=score_metrics(predictions.score[:, column] if predictions else judged, judged),
            ridge=score_metrics(ridge[:, column], judged) if baselines and reason is None else None,
            floor=score_metrics(floor[:, column], judged) if baselines else None,
            best=dict(best) if best is not None else None,
            ridge_reason=reason,
        )
    complete = int(pooled.complete_for(mask).sum())
    return MaskResult(mask, subset_name(mask, modalities), len(rows), complete, cells, predictions, ridge, targets)


def _average_columns(cells: list[Cell]) -> dict[str, dict | None]:
    averages = {}
    for column in COLUMNS:
        parts = [getattr(cell, column) for cell in cells]
        averages[column] = average_metrics(parts) if parts and None not in parts else None
    return averages
