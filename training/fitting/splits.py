"""From a loaded dataset to the rows that training, validation and the baselines may see."""

import logging
from collections import Counter
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from sklearn.model_selection import train_test_split

from ..arguments import DataArguments
from ..data import AqaData
from ..data.aqa_data import target_columns
from ..data.masked_dataset import MaskedDataset
from ..data.masks import (
    DynamicMask,
    Mask,
    all_subsets,
    available_masks,
    draw_static_masks,
    subset_name,
    validate_rates,
)

logger = logging.getLogger(__name__)


@dataclass
class TrainingData:
    """
    Attributes:
        train: what training may read.
        validation: views of the validation rows by name, the mean over which selects the best checkpoint; none where
            nothing selects it.
        seen: the rows of the training split, those held back of it for validation included: what the baselines are
            fitted on.
        dynamic_mask: draws a mask for each training batch; `None` unless missingness is `dynamic`.
        modality_dropout: draws a further mask for each training sample; `None` unless asked for.
        summary: counts, for the record of the run.
    """

    train: MaskedDataset
    validation: dict[str, MaskedDataset]
    seen: MaskedDataset
    dynamic_mask: DynamicMask | None
    modality_dropout: DynamicMask | None
    summary: dict


def prepare_training_data(data: AqaData, arguments: DataArguments, seed: int) -> TrainingData:
    """
    Args:
        data: the dataset.
        arguments: what to hide and what to hold back.
        seed: of the validation split.

    Raises:
        ValueError: nothing is left to train on, a rate is impossible, or a split is missing.
    """
    modalities = list(data.modalities)
    seen = _usable(data.splits["train"], modalities, arguments, "train")
    train, validation = _hold_back(seen, data, arguments, seed)
    dynamic_mask = None
    if arguments.missingness == "dynamic":
        dynamic_mask = DynamicMask(modalities, arguments.missing_rates, arguments.mask_seed)
    modality_dropout = None
    if arguments.modality_dropout is not None:
        modality_dropout = DynamicMask(modalities, arguments.modality_dropout, arguments.mask_seed)
    masked = {
        name: MaskedDataset(part, modalities, _masks(part, modalities, arguments))
        for name, part in (("train", train), ("validation", validation), ("seen", seen))
    }
    views = {"available": masked["validation"]} if len(validation) else {}
    if arguments.validates_subsets:
        views = _subset_views(validation, masked["validation"]) or views
    return TrainingData(
        train=masked["train"],
        validation=views,
        seen=masked["seen"],
        dynamic_mask=dynamic_mask,
        modality_dropout=modality_dropout,
        summary={name: _summary(masked[name]) for name in ("train", "validation")},
    )


def _hold_back(rows: Dataset, data: AqaData, arguments: DataArguments, seed: int) -> tuple[Dataset, Dataset]:
    """Of the usable training rows those to train on, and the rows that select the best checkpoint."""
    if arguments.select_on == "nothing":
        return rows, rows.select([])
    if arguments.select_on == "test":
        return rows, _usable(data.splits["test"], list(data.modalities), arguments, "test")
    if "validation" in data.splits:
        return rows, _usable(data.splits["validation"], list(data.modalities), arguments, "validation")
    train, validation = split_validation(rows, data.score_names, arguments.validation_fraction, seed)
    return rows.select(train), rows.select(validation)


def _usable(split: Dataset, modalities: list[str], arguments: DataArguments, name: str) -> Dataset:
    """The rows that have anything, or with missingness `none` everything; what is left out is said."""
    present = np.array(available_masks(split, modalities), dtype=bool).reshape(len(split), len(modalities))
    enough = present.all(1) if arguments.missingness == "none" else present.any(1)
    if not enough.any():
        raise ValueError(f"no sample of the split {name!r} has the modalities {', '.join(modalities)}.")
    if enough.all():
        return split
    ids = np.array(split.select_columns(["sample_id"])["sample_id"][:])[~enough]
    lacking = "a modality" if arguments.missingness == "none" else "every modality"
    logger.warning("%d samples of %s lack %s and are left out: %s ...", len(ids), name, lacking, ", ".join(ids[:5]))
    return split.select(np.flatnonzero(enough))


def _masks(split: Dataset, modalities: list[str], arguments: DataArguments) -> list[Mask]:
    observed = available_masks(split, modalities)
    if arguments.missingness != "static":
        return observed
    rates = validate_rates(arguments.missing_rates, modalities)
    ids = split.select_columns(["sample_id"])["sample_id"][:]
    return draw_static_masks(ids, modalities, rates, arguments.mask_seed, observed)


def _subset_views(split: Dataset, masked: MaskedDataset) -> dict[str, MaskedDataset]:
    """For every subset of the modalities the rows that show some of it, showing no more than that."""
    views = {}
    for subset in all_subsets(len(masked.modalities)):
        shown = [tuple(a * b for a, b in zip(mask, subset, strict=True)) for mask in masked.masks]
        rows = [row for row, mask in enumerate(shown) if any(mask)]
        if rows:
            masks = [shown[row] for row in rows]
            views[subset_name(subset, masked.modalities)] = MaskedDataset(split.select(rows), masked.modalities, masks)
    return views


def _summary(masked: MaskedDataset) -> dict:
    """How many samples there are, and how many show what."""
    counts = Counter(subset_name(mask, masked.modalities) for mask in masked.masks)
    return {"samples": len(masked), "shown": dict(counts.most_common())}


MOST_BINS = 10


def split_validation(
    train: Dataset, score_names: list[str], fraction: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Row numbers of training and validation, stratified by quantiles of the first score. No feature is read.

    Args:
        train: the training split.
        score_names: the scores, of which the first decides.
        fraction: of the rows that validate, above 0 and below 1.
        seed: another seed, another split.

    Raises:
        ValueError: the split has too few rows for two parts of at least 2.
    """
    column = target_columns(train.column_names, score_names)[0]
    scores = np.array(train.select_columns([column])[column][:], dtype=np.float64)  # (rows,), NaN = not given
    validating = round(len(scores) * fraction)
    if min(validating, len(scores) - validating) < 2:
        raise ValueError(
            f"`validation_fraction` {fraction} of {len(scores)} training rows leaves {len(scores) - validating} for "
            f"training and {validating} for validation; both need 2 or more."
        )
    bins = max(1, min(MOST_BINS, validating, len(scores) - validating))
    ranks = np.argsort(np.argsort(scores, kind="stable"), kind="stable")  # (rows,); NaN come last
    strata = ranks * bins // len(scores)  # (rows,), each as large as the others
    rows = np.arange(len(scores))
    train_rows, validation_rows = train_test_split(rows, test_size=validating, stratify=strata, random_state=seed)
    return np.sort(train_rows), np.sort(validation_rows)
