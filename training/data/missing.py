"""What a dataset lacks: counted by cause, listed, or an error."""

import logging
from collections import Counter
from collections.abc import Iterable
from dataclasses import astuple, dataclass, field

from datasets import Dataset

from .masks import available_masks

logger = logging.getLogger(__name__)

NAMED_SAMPLES = 20


@dataclass(frozen=True)
class MissingFeature:
    """A missing modality of a sample.

    Attributes:
        cause: one of `sources.files.CAUSES`, or `not given` by the dataset itself.
        detail: the file and what is wrong with it.
    """

    sample_id: str
    modality: str
    cause: str
    detail: str


@dataclass
class MissingSummary:
    """Everything a dataset lacks.

    Attributes:
        samples: number of samples examined, dropped ones included.
        features: missing features in the order of the samples.
        dropped: ids of samples left out because they have no modality at all.
    """

    samples: int = 0
    features: list[MissingFeature] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, dict[str, int]]:
        """Number of samples by modality and cause."""
        counted: dict[str, dict[str, int]] = {}
        for (modality, cause), count in Counter((each.modality, each.cause) for each in self.features).items():
            counted.setdefault(modality, {})[cause] = count
        return counted

    def report(self, list_missing: bool = False, require_complete: bool = False) -> None:
        """Log one warning if anything is missing; arguments and errors as in `aqa_data.report_missing`."""
        if not self.features:
            return
        if list_missing:
            print("\n".join("\t".join(astuple(each)) for each in self.features), flush=True)
        if require_complete:
            raise ValueError(f"`require_complete` is given, but {self}")
        logger.warning("%s", self)

    def __str__(self) -> str:
        """One line for each modality and cause with its first case, then the dropped samples."""
        if not self.features:
            return f"no modality is missing in {self.samples} samples"
        first: dict[tuple[str, str], MissingFeature] = {}
        for each in self.features:
            first.setdefault((each.modality, each.cause), each)
        lines = [f"missing in {self.samples} samples:"]
        for modality, causes in self.counts().items():
            for cause, count in causes.items():
                case = first[modality, cause]
                lines.append(f"  {modality}: {count} {cause}; the first is {case.sample_id}, {case.detail}")
        if self.dropped:
            more = f" and {len(self.dropped) - NAMED_SAMPLES} more" if len(self.dropped) > NAMED_SAMPLES else ""
            named = ", ".join(self.dropped[:NAMED_SAMPLES]) + more
            lines.append(f"  {len(self.dropped)} samples without any modality are left out: {named}")
        return "\n".join(lines)


def not_given(sample_id: str, modality: str) -> MissingFeature:
    """A modality that the dataset itself lacks."""
    return MissingFeature(sample_id, modality, "not given", "the dataset has none")


def nulls(split: Dataset, modalities: Iterable[str]) -> list[MissingFeature]:
    """Missing features of a split: the nulls in the columns of these modalities."""
    names = list(modalities)
    sample_ids = split.select_columns(["sample_id"])["sample_id"]
    return [
        not_given(sample_id, name)
        for sample_id, mask in zip(sample_ids, available_masks(split, names), strict=True)
        for name, available in zip(names, mask, strict=True)
        if not available
    ]
