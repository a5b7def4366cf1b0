"""Is one run better than another? Both on the same samples, whose difficulty they share."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from .metrics.aqa_metrics import METRIC_NAMES, average_metrics, score_metrics
from .metrics.bootstrap import average_resampled, draw_resamples, percentile_interval, resampled_metrics
from .metrics.dependent_correlations import CorrelationTest, compare_correlations

PREDICTIONS = "predictions.parquet"
RIDGE = "ridge"
_COLUMNS = ("sample_id", "mask", "rates", "seed", "score_name", "score", "ridge", "target")
Key = tuple[str, str]  # row, score


class RunsDifferError(ValueError):
    """Two runs that cannot be compared; the message says where they differ."""


@dataclass(frozen=True)
class RunScores:
    """What `predictions.parquet` holds of one predictor.

    Attributes:
        name: of the run, without the folders above it.
        place: where it was read, for messages.
        caveats: what keeps its results from being an honest measure.
        tables: (row, score) -> `predicted`, `target` and `mask` by sample id. A row is what a sample was shown:
            `video+audio`, or the missing rates and the mask seed.
    """

    name: str
    place: str
    caveats: list[str]
    tables: dict[Key, pd.DataFrame]


@dataclass(frozen=True)
class Difference:
    """One score in one row; differences are the first run's metric less the second's.

    Attributes:
        row, score_name: what of.
        samples: with a target.
        first, second: metrics of each run.
        differences: metric -> difference, None where one is undefined.
        intervals: metric -> [low, high] of the difference, both measured on the same bootstrap resamples; or None.
        tests: `spearman` and `pearson` -> Williams's test; none for an average.
    """

    row: str
    score_name: str
    samples: int
    first: dict
    second: dict
    differences: dict[str, float | None]
    intervals: dict[str, list[float] | None]
    tests: dict[str, CorrelationTest]


@dataclass(frozen=True)
class Comparison:
    """
    Attributes:
        first, second: names of the runs.
        caveats: of both, each with A or B before it.
        cells: the average over the incomplete masks of a score after its rows.
        not_compared: rows that only one of the runs has.
    """

    first: str
    second: str
    caveats: list[str]
    cells: list[Difference]
    not_compared: list[str]

    def to_dict(self) -> dict:
        return asdict(self)


def read_run_scores(folder: str | Path, ridge: bool = False) -> RunScores:
    """
    Args:
        folder: of a run, with `predictions.parquet` in it, or that file.
        ridge: the ridge baseline of that run in place of its model.

    Raises:
        RunsDifferError: no predictions of this package, or a sample twice in one row.
        OSError: no such file.
    """
    path = Path(folder) / PREDICTIONS if Path(folder).is_dir() else Path(folder)
    table = pq.read_table(path)
    if lacking := [name for name in _COLUMNS if name not in table.column_names]:
        raise RunsDifferError(f"{path} has no column {', '.join(lacking)}; evaluate the model again with eval.py")
    caveats = json.loads((table.schema.metadata or {}).get(b"caveats", b"[]"))
    frame = table.select(_COLUMNS).to_pandas()
    drawn = frame["rates"].notna()
    seeds = frame["seed"].astype("Int64").astype(str)
    frame["row"] = frame["mask"].where(~drawn, "missing rates " + frame["rates"] + ", mask seed " + seeds)
    frame["predicted"] = frame[RIDGE if ridge else "score"]
    tables = {}
    for (row, score), part in frame.groupby(["row", "score_name"], sort=False):
        if part["sample_id"].duplicated().any():
            twice = part["sample_id"][part["sample_id"].duplicated()].iloc[0]
            raise RunsDifferError(f"{path} has the sample {twice!r} twice for {row}, {score}")
        tables[row, score] = part.set_index("sample_id")[["predicted", "target", "mask"]]
    name = path.parent.resolve().name
    return RunScores(f"ridge of {name}" if ridge else name, str(folder), caveats, tables)


def compare_runs(first: RunScores, second: RunScores) -> Comparison:
    """Every metric of every row and score that both have, with a paired interval and Williams's test.

    Raises:
        RunsDifferError: they have no row in common, or in one of them other samples, targets or masks.
    """
    keys = [key for key in first.tables if key in second.tables]
    if not keys:
        raise RunsDifferError(
            f"no row in common: {_names(first.tables)} in {first.place}, {_names(second.tables)} in {second.place}"
        )
    pairs = {key: _paired(key, first, second) for key in keys}
    sample_ids = list(dict.fromkeys(sample for pair in pairs.values() for sample in pair.index))
    resamples = pd.DataFrame(draw_resamples(len(sample_ids)), index=sample_ids)
    cells = []
    for score in dict.fromkeys(score for _, score in keys):
        parts = [_Part.measure(row, pairs[row, score], resamples) for row, other in keys if other == score]
        cells += [part.difference(score) for part in parts]
        incomplete = _incomplete(parts)
        if len(incomplete) > 1:
            cells.append(_average(incomplete).difference(score))
    runs = {"A": first, "B": second}
    other = [
        f"{_names([key])} (only in {name})" for name, run in runs.items() for key in run.tables if key not in pairs
    ]
    caveats = [f"{name}: {caveat}" for name, run in runs.items() for caveat in run.caveats]
    return Comparison(first.name, second.name, caveats, cells, other)


@dataclass(frozen=True)
class _Part:
    """Both runs in one row, measured as they are and in every resample."""

    row: str
    samples: int
    metrics: tuple[dict, dict]
    resampled: tuple[dict[str, np.ndarray], dict[str, np.ndarray]]
    tests: dict[str, CorrelationTest]

    @classmethod
    def measure(cls, row: str, pair: pd.DataFrame, resamples: pd.DataFrame) -> "_Part":
        targets, counts = pair["target"].to_numpy(float), resamples.loc[pair.index].to_numpy()
        scored = [pair[name].to_numpy(float) for name in ("first", "second")]
        metrics = tuple(score_metrics(values, targets) for values in scored)
        resampled = tuple(resampled_metrics(values, targets, counts) for values in scored)
        tests = {name: compare_correlations(*scored, targets, name == "spearman") for name in ("spearman", "pearson")}
        return cls(row, metrics[0]["samples"], metrics, resampled, tests)

    def difference(self, score: str) -> Difference:
        differences, intervals = {}, {}
        for name in METRIC_NAMES:
            values = [metrics[name] for metrics in self.metrics]
            differences[name] = None if None in values else values[0] - values[1]
            paired = self.resampled[0][name] - self.resampled[1][name]
            intervals[name] = None if None in values else percentile_interval(paired)[0]
        return Difference(self.row, score, self.samples, *self.metrics, differences, intervals, self.tests)


def _paired(key: Key, first: RunScores, second: RunScores) -> pd.DataFrame:
    """`first`, `second` and `target` by sample id, in the order of the first run."""
    one, other, what = first.tables[key], second.tables[key], _names([key])
    for table, less, run in ((one, other, first.place), (other, one, second.place)):
        extra = table.index.difference(less.index)
        if len(extra):
            shown = ", ".join(map(repr, extra[:3]))
            raise RunsDifferError(
                f"{what}: {len(extra)} samples are only in {run}, such as {shown}; compare runs of one test split"
            )
    other = other.loc[one.index]
    same = np.isclose(one["target"], other["target"], rtol=1e-5, atol=1e-6, equal_nan=True)
    if not same.all():
        sample = one.index[~same][0]
        count, values = int((~same).sum()), [f"{table.loc[sample, 'target']:g}" for table in (one, other)]
        raise RunsDifferError(
            f"{what}: {count} samples have other targets, such as {sample!r}: {values[0]} in {first.place} "
            f"and {values[1]} in {second.place}; compare runs on the same scores"
        )
    if (one["mask"] != other["mask"]).any():
        raise RunsDifferError(
            f"{what}: the masks that were drawn are not the same; compare runs with the same modalities"
        )
    return pd.DataFrame({"first": one["predicted"], "second": other["predicted"], "target": one["target"]})


def _incomplete(parts: Sequence[_Part]) -> list[_Part]:
    """Without the mask that shows most; empty where masks were drawn."""
    if any(part.row.startswith("missing rates") for part in parts):
        return []
    complete = max(parts, key=lambda part: part.row.count("+"))
    return [part for part in parts if part is not complete]


def _average(parts: Sequence[_Part]) -> _Part:
    metrics = tuple(average_metrics([part.metrics[run] for part in parts]) for run in (0, 1))
    resampled = tuple(average_resampled([part.resampled[run] for part in parts]) for run in (0, 1))
    return _Part(
        f"average of the {len(parts)} incomplete", max(part.samples for part in parts), metrics, resampled, {}
    )


def _names(keys: Sequence[Key] | Mapping[Key, pd.DataFrame]) -> str:
    return "; ".join(f"{score} from {row}" for row, score in keys)
