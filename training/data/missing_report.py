"""Says what a loaded dataset lacks, or refuses it for that."""

import logging
from collections.abc import Iterable

from datasets import Dataset

from ..missingness import observed_masks
from .aqa_data import AqaData
from .missing import MissingFeature, MissingSummary

logger = logging.getLogger(__name__)


def report_missing(data: AqaData, list_missing: bool = False, require_complete: bool = False) -> None:
    """Says what is missing in one warning.

    Args:
        data: the dataset.
        list_missing: print a line for each missing feature as well.
        require_complete: anything missing is an error.

    Raises:
        ValueError: something is missing, and `require_complete`.
    """
    summary = missing_summary(data)
    if not summary.features:
        return
    if list_missing:
        print(summary.listing(), flush=True)
    if require_complete:
        raise ValueError(f"`require_complete` is given, but {summary}")
    logger.warning("%s", summary)


def missing_summary(data: AqaData) -> MissingSummary:
    """What the dataset says is missing, or else what is null in its columns."""
    if data.missing is not None:
        return data.missing
    samples = sum(len(split) for split in data.splits.values())
    return MissingSummary(samples, [each for split in data.splits.values() for each in nulls(split, data.modalities)])


def nulls(split: Dataset, modalities: Iterable[str]) -> list[MissingFeature]:
    """What is null in the columns of these modalities."""
    names = list(modalities)
    if not names:
        return []
    sample_ids = split.select_columns(["sample_id"])["sample_id"]
    return [
        not_given(sample_id, name)
        for sample_id, mask in zip(sample_ids, observed_masks(split, names), strict=True)
        for name, present in zip(names, mask, strict=True)
        if not present
    ]


def not_given(sample_id: str, modality: str) -> MissingFeature:
    """A modality that the labels themselves lack."""
    return MissingFeature(sample_id, modality, "not given", "the dataset has none")
