"""Says what a loaded dataset lacks, or refuses it for that."""

import logging

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
    summary = MissingSummary(samples=sum(len(split) for split in data.splits.values()))
    for split in data.splits.values():
        sample_ids = split.select_columns(["sample_id"])["sample_id"]
        for sample_id, mask in zip(sample_ids, observed_masks(split, list(data.modalities)), strict=True):
            summary.features += [
                MissingFeature(sample_id, name, "not given", "the dataset has none")
                for name, present in zip(data.modalities, mask, strict=True)
                if not present
            ]
    return summary
