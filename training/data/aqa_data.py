"""What every dataset provides: rows, what a model needs to know about them, and what they lack."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, field
from functools import cached_property
from html import escape
from typing import Any

import numpy as np
import pyarrow as pa
from datasets import Dataset, DatasetDict

from .fingerprints import fingerprint_splits
from .masks import Mask, available_masks

logger = logging.getLogger(__name__)

NAMED_SAMPLES = 20


@dataclass(frozen=True)
class MissingFeature:
    """A missing or odd modality of a sample.

    Attributes:
        cause: one of `sources.files.CAUSES` or `ODDITIES`, or `not given` by the dataset itself.
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
        odd: features that are used but may be meant otherwise, such as arrays of zeros.
    """

    samples: int = 0
    features: list[MissingFeature] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    odd: list[MissingFeature] = field(default_factory=list)

    def counts(self) -> dict[str, dict[str, int]]:
        """Number of samples by modality and cause."""
        counted: dict[str, dict[str, int]] = {}
        for (modality, cause), count in Counter((each.modality, each.cause) for each in self.features).items():
            counted.setdefault(modality, {})[cause] = count
        return counted

    def __str__(self) -> str:
        """One line for each modality and cause with its first case, then the dropped samples and what is odd."""
        lines = [f"missing in {self.samples} samples:", *_count_lines(self.features)]
        if not self.features:
            lines = [f"no modality is missing in {self.samples} samples"]
        if self.dropped:
            more = f" and {len(self.dropped) - NAMED_SAMPLES} more" if len(self.dropped) > NAMED_SAMPLES else ""
            named = ", ".join(self.dropped[:NAMED_SAMPLES]) + more
            lines.append(f"  {len(self.dropped)} samples without any modality are left out: {named}")
        if self.odd:
            lines += ["used as they are:", *_count_lines(self.odd)]
        return "\n".join(lines)


def _count_lines(features: Sequence[MissingFeature]) -> Iterator[str]:
    """One line for each modality and cause: how many, and the first."""
    groups: dict[tuple[str, str], list[MissingFeature]] = {}
    for each in features:
        groups.setdefault((each.modality, each.cause), []).append(each)
    for (modality, cause), members in sorted(groups.items(), key=lambda group: group[0][0]):
        yield f"  {modality}: {len(members)} {cause}; the first is {members[0].sample_id}, {members[0].detail}"


@dataclass(repr=False)
class AqaData:
    """A dataset with everything a model, a processor and a report need to know about it.

    Attributes:
        splits: `train`, `test` and, where a dataset has one, `validation`, with the columns `sample_id`, one float32
            column for each score in the judges' units, one nullable column for each modality (clips of features, or
            strings) and any further columns.
        modalities: feature size of each modality, or `"text"`, in mask order.
        score_names: name of each score and its column.
        score_minimums: lowest value of each score, in the judges' units.
        score_ranges: highest minus lowest value of each score, in the judges' units.
        max_clips: number of clips a processor keeps of a modality.
        description: one line for reports and model cards.
        leaky: the features are known to reveal the label.
        group_column: column of the rows, such as that of the performer, whose values the validation rows do not share
            with the training rows; None where samples are independent.
        augment: changes a training row, given a generator of random numbers, so that its scores stay right, anew in
            every epoch; None leaves rows as they are. `prepare.py` does not keep it.
        best_attainable: lowest possible `mse` and `mae` and highest possible `spearman` for each mask, where known.
        missing: missing features and their causes; by default the nulls of the columns.
        recipe: recipe that made the features of recordings (`Recipe.to_dict`), where it is known.
    """

    splits: DatasetDict
    modalities: dict[str, int | str]
    score_names: list[str]
    score_minimums: list[float]
    score_ranges: list[float]
    max_clips: int
    description: str
    leaky: bool = False
    group_column: str | None = None
    augment: Callable[[dict[str, Any], np.random.Generator], dict[str, Any]] | None = None
    best_attainable: dict[Mask, dict[str, float]] | None = None
    missing: MissingSummary | None = None
    recipe: dict[str, Any] | None = None

    @cached_property
    def fingerprint(self) -> dict[str, dict[str, Any]]:
        """Split -> column -> digest of all that a model learns from; under `dataset`, what scores and modalities are.

        Every feature is read once for it.
        """
        named = ("modalities", "score_names", "score_minimums", "score_ranges", "max_clips")
        groups = [] if self.group_column is None else [self.group_column]
        columns = dict.fromkeys(["sample_id", *self.score_names, "score", *groups, *self.modalities])
        about = {name: getattr(self, name) for name in named}
        return {"dataset": about} | fingerprint_splits(self.splits, columns)

    def __repr__(self) -> str:
        lines = [f"AqaData: {self.description}", *(f"  {title:<11} {text}" for title, text in self._summary())]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        """The same as a table, for notebooks."""
        rows = [f"<tr><th>{escape(title)}</th><td>{escape(text)}</td></tr>" for title, text in self._summary()]
        return f"<table><caption>{escape(self.description)}</caption>{''.join(rows)}</table>"

    def _summary(self) -> Iterator[tuple[str, str]]:
        """Title and text of each line about the dataset."""
        yield "splits", ", ".join(f"{name} {len(rows)}" for name, rows in self.splits.items())
        yield "modalities", ", ".join(self._describe_modality(*modality) for modality in self.modalities.items())
        ranges = zip(self.score_names, self.score_minimums, self.score_ranges, strict=True)
        yield "scores", ", ".join(f"{name} {lowest:g} to {lowest + size:g}" for name, lowest, size in ranges)
        yield "clips", f"at most {self.max_clips} of a modality are kept"
        if self.leaky:
            yield "caveat", "the features reveal the label"

    def _describe_modality(self, name: str, size: int | str) -> str:
        """Name, feature size and share of the samples that lack it, once features are read."""
        splits = [rows for rows in self.splits.values() if name in rows.column_names]
        available = [bit for rows in splits for (bit,) in available_masks(rows, [name])]
        missing = f", {1 - sum(available) / len(available):.1%} missing" if available else ""
        return f"{name} ({size}{missing})"


def feature_column(clips: np.ndarray, counts: Sequence[int | None]) -> pa.ListArray:
    """Arrow column of a modality of features.

    Args:
        clips: features of all samples one after another, float32 (all clips, dim).
        counts: number of clips of each sample; None where the modality is missing.

    Returns:
        One list of clips for each sample, null where it is missing. The features are not copied.
    """
    missing = np.array([count is None for count in counts], dtype=bool)
    offsets = np.concatenate([[0], np.cumsum([count or 0 for count in counts])])  # (samples + 1,)
    if offsets[-1] != len(clips):
        raise ValueError(f"the counts ask for {offsets[-1]} clips, given: {len(clips)}")
    flat = pa.array(np.ascontiguousarray(clips, dtype=np.float32).reshape(-1))
    vectors = pa.FixedSizeListArray.from_arrays(flat, clips.shape[1])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), vectors, mask=pa.array(missing))


def build_split(
    sample_ids: Sequence[str],
    scores: Mapping[str, np.ndarray],
    feature_columns: Mapping[str, pa.Array],
    extra: Mapping[str, Sequence[Any]] | None = None,
) -> Dataset:
    """Build one split with the columns that every dataset shares.

    Args:
        sample_ids: id of each sample.
        scores: judges' scores by name, (samples,).
        feature_columns: column of each modality, see `feature_column`; strings for a text modality.
        extra: further columns of strings or numbers.
    """
    columns = {"sample_id": pa.array(list(sample_ids), pa.string())}
    columns |= {name: pa.array(np.asarray(values, dtype=np.float32)) for name, values in scores.items()}
    columns |= feature_columns
    columns |= {name: pa.array(values) for name, values in (extra or {}).items()}
    return Dataset(pa.table(columns))


def row_targets(row: dict, score_names: Sequence[str]) -> list[float]:
    """Targets of a row in the judges' units, NaN where a score is not given.

    A dataset with one score may keep it in the column `score`.
    """
    columns = target_columns(row, score_names)
    return [float("nan") if row[column] is None else float(row[column]) for column in columns]


def target_columns(columns: Sequence[str], score_names: Sequence[str]) -> list[str]:
    """Column of each score; ValueError if one is missing, and the column `score` of a single score too."""
    if all(name in columns for name in score_names):
        return list(score_names)
    if len(score_names) == 1 and "score" in columns:
        return ["score"]
    absent = [name for name in score_names if name not in columns]
    raise ValueError(f"the dataset has no column for the scores {absent}; its columns: {list(columns)}")


def read_targets(rows: Sequence[dict], score_names: Sequence[str]) -> np.ndarray:
    """Judges' scores of all rows, float64 (rows, scores), NaN where a score is not given."""
    if hasattr(rows, "select_columns"):  # without reading a single feature
        rows = rows.select_columns(target_columns(rows.column_names, score_names))
    targets = [row_targets(rows[index], score_names) for index in range(len(rows))]
    return np.array(targets, dtype=np.float64).reshape(len(rows), len(score_names))


def report_missing(data: AqaData, list_missing: bool = False, require_complete: bool = False) -> None:
    """Report missing and odd features in one warning.

    Args:
        data: the dataset.
        list_missing: also print a line for each of them: sample, modality, cause and detail.
        require_complete: raise ValueError if a feature is missing.
    """
    missing = data.missing
    if missing is None:
        missing = MissingSummary(sum(map(len, data.splits.values())))
        for split in data.splits.values():
            masks = available_masks(split, list(data.modalities))
            for sample_id, mask in zip(split.select_columns(["sample_id"])["sample_id"], masks, strict=True):
                lacking = [name for name, available in zip(data.modalities, mask, strict=True) if not available]
                missing.features += [not_given(sample_id, name) for name in lacking]
    if not missing.features and not missing.odd:
        return
    if list_missing:
        print("\n".join("\t".join(astuple(each)) for each in [*missing.features, *missing.odd]), flush=True)
    if require_complete and missing.features:
        raise ValueError(f"`require_complete` is given, but {missing}")
    logger.warning("%s", missing)


def not_given(sample_id: str, modality: str) -> MissingFeature:
    """A modality that the dataset itself lacks."""
    return MissingFeature(sample_id, modality, "not given", "the dataset has none")
