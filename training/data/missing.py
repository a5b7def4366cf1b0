"""What a dataset lacks: counted by cause, listed, or fatal."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from datasets import Dataset

from .masks import available_masks

NAMED_SAMPLES = 20


@dataclass(frozen=True)
class MissingFeature:
    """One modality of one sample that is not there.

    Attributes:
        sample_id: the sample.
        modality: what it lacks.
        cause: one of `feature_files.CAUSES`, or `not given` where the dataset itself has none.
        detail: the file and what is wrong with it.
    """

    sample_id: str
    modality: str
    cause: str
    detail: str


@dataclass
class MissingSummary:
    """
    Attributes:
        samples: how many were looked at, those left out included.
        features: everything that is missing, in the order in which it was found.
        dropped: ids of the samples that have no modality at all and were left out.
    """

    samples: int = 0
    features: list[MissingFeature] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, dict[str, int]]:
        """modality -> cause -> number of samples."""
        counted: dict[str, dict[str, int]] = {}
        for (modality, cause), count in Counter((each.modality, each.cause) for each in self.features).items():
            counted.setdefault(modality, {})[cause] = count
        return counted

    def __str__(self) -> str:
        """One line a modality and cause, each with its first case, and the samples that were left out."""
        if not self.features:
            return f"no modality is missing in {self.samples} samples"
        lines = [f"missing in {self.samples} samples:"]
        for modality, causes in self.counts().items():
            for cause, count in causes.items():
                first = next(each for each in self.features if (each.modality, each.cause) == (modality, cause))
                lines.append(f"  {modality}: {count} {cause}; the first is {first.sample_id}, {first.detail}")
        if self.dropped:
            lines.append(f"  {len(self.dropped)} samples without any modality are left out: {named(self.dropped)}")
        return "\n".join(lines)

    def listing(self) -> str:
        """One line for each missing feature: sample, modality, cause, detail."""
        return "\n".join(f"{each.sample_id}\t{each.modality}\t{each.cause}\t{each.detail}" for each in self.features)


def named(sample_ids: Sequence[str]) -> str:
    """The first few ids, and how many more there are."""
    more = len(sample_ids) - NAMED_SAMPLES
    return ", ".join(sample_ids[:NAMED_SAMPLES]) + (f" and {more} more" if more > 0 else "")


def nulls(split: Dataset, modalities: Iterable[str]) -> list[MissingFeature]:
    """What is null in the columns of these modalities."""
    names = list(modalities)
    if not names:
        return []
    sample_ids = split.select_columns(["sample_id"])["sample_id"]
    return [
        not_given(sample_id, name)
        for sample_id, mask in zip(sample_ids, available_masks(split, names), strict=True)
        for name, present in zip(names, mask, strict=True)
        if not present
    ]


def not_given(sample_id: str, modality: str) -> MissingFeature:
    """A modality that the labels themselves lack."""
    return MissingFeature(sample_id, modality, "not given", "the dataset has none")
