"""From a loaded dataset to the rows that training, validation and the baselines may use."""

import logging
from collections import Counter
from dataclasses import dataclass

import numpy as np
from datasets import Dataset
from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold, train_test_split

from ..arguments import DataArguments
from ..data import AqaData
from ..data.aqa_data import target_columns
from ..data.masked_dataset import MaskedDataset
from ..data.masks import DynamicMask, Mask, all_subsets, available_masks, draw_static_masks, subset_name
from ..evaluation.calibration import FEWEST_SAMPLES

logger = logging.getLogger(__name__)
MOST_STRATA = 10


@dataclass
class TrainingData:
    """
    Attributes:
        train: rows to train on.
        validation: validation rows by name of their mask set, over which the mean selects the best checkpoint.
        calibration: rows to calibrate on, none of which trained or selected the model; they may be none.
        calibration_masks: modalities of each of them that may be used.
        baseline: rows to fit the baselines on: the training split, or the share of it that is used, the rows held back
            for validation included.
        dynamic_mask: draws a mask for each training batch, if missingness is `dynamic`.
        modality_dropout: draws a further mask for each training sample, if asked for.
        mask_seed: seed of all masks.
        summary: counts for the record of the run.
    """

    train: MaskedDataset
    validation: dict[str, MaskedDataset]
    calibration: Dataset
    calibration_masks: list[Mask]
    baseline: MaskedDataset
    dynamic_mask: DynamicMask | None
    modality_dropout: DynamicMask | None
    mask_seed: int
    summary: dict


def prepare_training_data(data: AqaData, arguments: DataArguments, seed: int, fold: int | None = None) -> TrainingData:
    """Hide modalities, and hold validation rows back by `seed`.

    Args:
        data: dataset.
        arguments: how to hide and what to hold back; with `folds`, nothing but the fold.
        seed: seed of the run.
        fold: which of the `folds` to hold back, from 0; None for none.

    Raises:
        ValueError: nothing is left to train on, a rate is impossible, or a split is missing.
    """
    mask_seed = seed if arguments.mask_seed is None else arguments.mask_seed
    modalities = list(data.modalities)
    usable = _draw(_usable(data, "train", arguments), arguments.train_fraction, seed)
    train, validation = _hold_back(usable, data, arguments, seed, fold)
    validation, calibration = _divide(validation, data, arguments, seed, fold)
    parts = {"train": train, "validation": validation, "calibration": calibration, "baseline": usable}
    masked = {
        name: MaskedDataset(rows, modalities, _allowed_masks(rows, modalities, arguments, mask_seed))
        for name, rows in parts.items()
    }
    _check_train(masked["train"], train, data)
    mask_sets = {"available": masked["validation"]} if len(validation) else {}
    if mask_sets and arguments.validates_subsets:
        mask_sets = _subset_mask_sets(validation, masked["validation"])
    dynamic_mask = modality_dropout = None
    if arguments.missingness == "dynamic":
        dynamic_mask = DynamicMask(modalities, arguments.missing_rates, mask_seed)
    if arguments.modality_dropout is not None:
        modality_dropout = DynamicMask(modalities, arguments.modality_dropout, mask_seed)
    summary = {name: _summary(masked[name]) for name in ("train", "validation", "calibration")}
    to_calibrate = (calibration, masked["calibration"].masks)
    draws = (dynamic_mask, modality_dropout, mask_seed)
    return TrainingData(masked["train"], mask_sets, *to_calibrate, masked["baseline"], *draws, summary)


def _check_train(masked: MaskedDataset, rows: Dataset, data: AqaData) -> None:
    """Raise ValueError if a score has no label; warn of a modality that training never sees."""
    columns = target_columns(rows.column_names, data.score_names)
    labels = [np.array(rows.select_columns([name])[name][:], dtype=np.float64) for name in columns]
    given = np.array([not np.isnan(values).all() for values in labels])  # (scores,)
    if not given.all():
        names = ", ".join(np.array(data.score_names)[~given])
        raise ValueError(f"no training sample has a label of {names}; nothing can be learnt.")
    seen = np.array(masked.masks).any(axis=0)  # (modalities,)
    if not seen.all():
        names = ", ".join(np.array(masked.modalities)[~seen])
        logger.warning(
            "no training sample has %s: whatever the model makes of it is not learnt; leave it out of the modalities",
            names,
        )


def _usable(data: AqaData, split: str, arguments: DataArguments) -> Dataset:
    """Return the rows with any modality, or with every one if missingness is `none`; warn of those left out."""
    rows, modalities = data.splits[split], list(data.modalities)
    available = np.array(available_masks(rows, modalities), dtype=bool).reshape(len(rows), len(modalities))
    usable = available.all(1) if arguments.missingness == "none" else available.any(1)
    if not usable.any():
        raise ValueError(f"no sample of the split {split!r} has the modalities {', '.join(modalities)}.")
    if usable.all():
        return rows
    ids = np.array(rows.select_columns(["sample_id"])["sample_id"][:])[~usable]
    lacking = "a modality" if arguments.missingness == "none" else "every modality"
    logger.warning("%d samples of %s lack %s and are left out: %s ...", len(ids), split, lacking, ", ".join(ids[:5]))
    return rows.select(np.flatnonzero(usable))


def _draw(rows: Dataset, fraction: float, seed: int) -> Dataset:
    """Return a random share of the rows in their order; of two shares by one seed the larger holds the smaller."""
    if fraction == 1:
        return rows
    drawn = np.random.default_rng(seed).permutation(len(rows))[: round(len(rows) * fraction)]
    return rows.select(np.sort(drawn))


def _hold_back(
    rows: Dataset, data: AqaData, arguments: DataArguments, seed: int, fold: int | None
) -> tuple[Dataset, Dataset]:
    """Return the rows to train on, and the rows that select the best checkpoint."""
    if arguments.select_on == "nothing":
        return rows, rows.select([])
    if arguments.select_on == "test":
        return rows, _usable(data, "test", arguments)
    if "validation" in data.splits and arguments.folds is None:
        return rows, _usable(data, "validation", arguments)
    groups = _groups(rows, data)
    if arguments.folds is None:
        parts = split_validation(rows, data.score_names, arguments.validation_fraction, seed, groups)
    else:
        folds = split_folds(rows, data.score_names, arguments.folds, seed, groups)
        parts = (range(len(rows)), []) if fold is None else folds[fold]
    train, validation = parts
    return rows.select(train), rows.select(validation)


def _divide(
    held_back: Dataset, data: AqaData, arguments: DataArguments, seed: int, fold: int | None
) -> tuple[Dataset, Dataset]:
    """Return the rows that select the best checkpoint, and those that calibrate it, which share no sample."""
    nothing, split = held_back.select([]), arguments.calibrate_on
    if fold is not None or split == "nothing":
        return held_back, nothing
    if split != arguments.select_on or arguments.folds is not None:  # it selects nothing
        if split in data.splits:
            return held_back, _usable(data, split, arguments)
        if split != "validation":  # the default, which not every dataset has
            raise ValueError(f"`calibrate_on` is {split!r}; the dataset has the splits {', '.join(data.splits)}.")
        return held_back, nothing
    groups = _groups(held_back, data)
    if len(held_back) < 2 * FEWEST_SAMPLES or (groups is not None and len(np.unique(groups)) < 2):
        logger.warning(
            "%d samples to validate: half of them are too few to calibrate on, for intervals of 95 %% need %d of each "
            "mask. The model will have no intervals; `limssr calibrate MODEL DATA` makes them of other samples.",
            len(held_back),
            FEWEST_SAMPLES,
        )
        return held_back, nothing
    selecting, calibrating = split_validation(held_back, data.score_names, 0.5, seed, groups)
    return held_back.select(selecting), held_back.select(calibrating)


def _groups(rows: Dataset, data: AqaData) -> np.ndarray | None:
    """Return the group of each row, `(rows,)`, where samples come in groups."""
    if data.group_column is None:
        return None
    return np.array(rows.select_columns([data.group_column])[data.group_column])


def _allowed_masks(rows: Dataset, modalities: list[str], arguments: DataArguments, mask_seed: int) -> list[Mask]:
    available = available_masks(rows, modalities)
    if arguments.missingness != "static":
        return available
    ids = rows.select_columns(["sample_id"])["sample_id"][:]
    return draw_static_masks(ids, modalities, arguments.missing_rates, mask_seed, available)


def _subset_mask_sets(rows: Dataset, masked: MaskedDataset) -> dict[str, MaskedDataset]:
    """Return, for every subset of the modalities, the rows that have any of it, without their other modalities."""
    mask_sets = {}
    for subset in all_subsets(len(masked.modalities)):
        used = [tuple(a * b for a, b in zip(mask, subset, strict=True)) for mask in masked.masks]
        if kept := [index for index, mask in enumerate(used) if any(mask)]:
            mask_sets[subset_name(subset, masked.modalities)] = MaskedDataset(
                rows.select(kept), masked.modalities, [used[index] for index in kept]
            )
    return mask_sets


def _summary(masked: MaskedDataset) -> dict:
    """Count the samples, and those of each mask."""
    counts = Counter(subset_name(mask, masked.modalities) for mask in masked.masks)
    return {"samples": len(masked), "masks": dict(counts.most_common())}


def split_validation(
    train: Dataset, score_names: list[str], fraction: float, seed: int, groups: np.ndarray | None = None
) -> list[np.ndarray]:
    """Return row numbers of training and validation, stratified by quantiles of the first score.

    Args:
        train: rows of the training split.
        score_names: see `AqaData`.
        fraction: share of the rows to validate on. With groups it becomes that of the nearest number of equal parts.
        seed: seed of the draw.
        groups: group of each row, `(rows,)`; rows of a group stay together.

    Raises:
        ValueError: the split has too few rows for two parts of at least 2, or too few groups.
    """
    scores = _first_scores(train, score_names)
    validating = round(len(scores) * fraction)
    if min(validating, len(scores) - validating) < 2:
        raise ValueError(
            f"`validation_fraction` {fraction} of {len(scores)} training rows leaves {len(scores) - validating} for "
            f"training and {validating} for validation; both need 2 or more."
        )
    most = min(MOST_STRATA, validating, len(scores) - validating)
    if groups is not None:
        return _split_groups(scores, groups, most, fraction, seed)
    strata = _strata(scores, most)
    parts = train_test_split(np.arange(len(scores)), test_size=validating, stratify=strata, random_state=seed)
    return [np.sort(rows) for rows in parts]


def _split_groups(scores: np.ndarray, groups: np.ndarray, most: int, fraction: float, seed: int) -> list[np.ndarray]:
    """Return row numbers of training and validation, which is one of several parts of whole groups."""
    parts, found = max(2, round(1 / fraction)), len(np.unique(groups))
    if found < parts:
        raise ValueError(
            f"`validation_fraction` {fraction} holds back one of {parts} parts of whole groups, and the training "
            f"split has {found} groups; give a larger fraction."
        )
    return _folds(scores, groups, parts, most, seed)[0]


def split_folds(
    train: Dataset, score_names: list[str], count: int, seed: int, groups: np.ndarray | None = None
) -> list[list[np.ndarray]]:
    """Return row numbers of training and validation for each fold; each row is validated on in one fold.

    Args:
        train: rows of the training split.
        score_names: see `AqaData`.
        count: number of folds.
        seed: seed of the draw.
        groups: group of each row, `(rows,)`; rows of a group stay together.

    Raises:
        ValueError: there are fewer groups than folds, or fewer than 2 rows in a fold.
    """
    scores, found = _first_scores(train, score_names), len(train) if groups is None else len(np.unique(groups))
    if found < count:
        of_what = "rows" if groups is None else "groups, each of which is in one fold"
        raise ValueError(f"`folds` is {count}, but the training split has {found} {of_what}; give at most {found}.")
    folds = _folds(scores, groups, count, MOST_STRATA, seed)
    if (fewest := min(len(validation) for _, validation in folds)) < 2:
        raise ValueError(f"`folds` {count} leaves a fold of {len(train)} training rows with {fewest}; give fewer.")
    return folds


def _folds(scores: np.ndarray, groups: np.ndarray | None, count: int, most: int, seed: int) -> list[list[np.ndarray]]:
    strata = _strata(scores, min(most, len(scores) // count))  # each has a row for every fold
    kind = StratifiedKFold if groups is None else StratifiedGroupKFold
    return [list(parts) for parts in kind(count, shuffle=True, random_state=seed).split(scores, strata, groups)]


def _first_scores(rows: Dataset, score_names: list[str]) -> np.ndarray:
    """Return the first score of each row, `(rows,)`, NaN = not given."""
    column = target_columns(rows.column_names, score_names)[0]
    return np.array(rows.select_columns([column])[column][:], dtype=np.float64)


def _strata(scores: np.ndarray, most: int) -> np.ndarray:
    """Return the stratum of each score, `(rows,)`: quantiles of equal size, scores that are not given last."""
    ranks = np.argsort(np.argsort(scores, kind="stable"), kind="stable")  # (rows,)
    return ranks * max(1, most) // len(scores)
