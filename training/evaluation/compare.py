"""Compares two runs on the samples they share, whose difficulty is common to both."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import stats

from ..utils.errors import reading
from .metrics.aqa_metrics import CORRELATIONS, METRIC_NAMES
from .metrics.bootstrap import draw_resamples, percentile_interval
from .results import PREDICTIONS, ScoredRow, average_rows, measure_row

RIDGE = "ridge"
PATH_COLUMNS = ("reasoning_score", "cross_modal_score")
COLUMNS = ("sample_id", "mask", "rates", "seed", "score_name", "score", *PATH_COLUMNS, "ridge", "target")
NUMBERS = ("score", *PATH_COLUMNS, "ridge", "target")
SCHEMA = pa.schema([(name, pa.float64() if name in NUMBERS else pa.string()) for name in COLUMNS if name != "seed"])
SCHEMA = SCHEMA.insert(COLUMNS.index("seed"), pa.field("seed", pa.int64()))
Key = tuple[str, str]  # row, score


@dataclass(frozen=True)
class RunScores:
    """Predictions of one run.

    Attributes:
        name: folder name of the run.
        place: where it was read, for messages.
        caveats: reasons why its results are no fair measure.
        tables: (row, score) -> `predicted`, `target`, `mask` and `disagreement` (absolute difference of the two paths)
            by sample id. A row is a mask (`video+audio`), or missing rates with their mask seed.
    """

    name: str
    place: str
    caveats: list[str]
    tables: dict[Key, pd.DataFrame]


@dataclass(frozen=True)
class CorrelationTest:
    """Williams's t (positive where the first correlation is larger), two-sided; or the reason why there is no test."""

    statistic: float | None = None
    degrees_of_freedom: int | None = None
    p_value: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Difference:
    """One score in one row.

    Attributes:
        samples: number of samples with a target.
        first, second: metrics of the runs.
        differences: metric -> first less second, None where one is undefined.
        intervals: metric -> [low, high] of the difference, both runs measured on the same resamples; or None.
        tests: `spearman` and `pearson` -> Williams's test; empty for an average.
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
    """Names and caveats of two runs, their differences, and rows that only one has.

    The average over the incomplete masks comes last for each score, the average over several scores after all of them.
    """

    first: str
    second: str
    caveats: list[str]
    rows: list[Difference]
    not_compared: list[str]

    def to_dict(self) -> dict:
        return asdict(self)


def read_run_scores(folder: str | Path, ridge: bool = False) -> RunScores:
    """Read the predictions of a run.

    Args:
        folder: folder of the run, or its `predictions.parquet`.
        ridge: whether to read the run's ridge baseline in place of its model.

    Raises:
        OSError: there is no such file.
        ValueError: it lacks a column, or has a sample twice in one row.
    """
    path = Path(folder) / PREDICTIONS if Path(folder).is_dir() else Path(folder)
    if not path.is_file():
        raise FileNotFoundError(f"there is no {path}; give the folder of a run, of `limssr train` or `limssr eval`")
    with reading(path):
        return _read_scores(path, str(folder), ridge)


def _read_scores(path: Path, place: str, ridge: bool) -> RunScores:
    table = pq.read_table(path)
    table.validate(full=True)  # what Arrow otherwise believes
    if lacking := [name for name in COLUMNS if name not in table.column_names]:
        raise ValueError(f"{path} has no column {', '.join(lacking)}; evaluate the model again with `limssr eval`")
    frame = table.select(COLUMNS).cast(SCHEMA).to_pandas()
    drawn = "missing rates " + frame["rates"] + ", mask seed " + frame["seed"].astype("Int64").astype(str)
    frame["row"] = frame["mask"].where(frame["rates"].isna(), drawn)
    frame["predicted"] = frame[RIDGE if ridge else "score"]
    frame["disagreement"] = (frame["reasoning_score"] - frame["cross_modal_score"]).abs()
    tables = {}
    for (row, score), part in frame.groupby(["row", "score_name"], sort=False):
        if (twice := part["sample_id"].duplicated()).any():
            raise ValueError(f"{path} has the sample {part['sample_id'][twice].iloc[0]!r} twice for {row}, {score}")
        tables[row, score] = part.set_index("sample_id")[["predicted", "target", "mask", "disagreement"]]
    name = path.parent.resolve().name
    caveats = json.loads((table.schema.metadata or {}).get(b"caveats", b"[]"))
    return RunScores(f"ridge of {name}" if ridge else name, place, caveats, tables)


def compare_runs(first: RunScores, second: RunScores) -> Comparison:
    """Compare every row and score that both runs have, with paired intervals and Williams's test.

    Raises:
        ValueError: they have no row in common, or differ in samples, targets or drawn masks.
    """
    keys = [key for key in first.tables if key in second.tables]
    if not keys:
        names = [f"{_names(run.tables)} in {run.place}" for run in (first, second)]
        raise ValueError(f"no row in common: {', '.join(names)}")
    pairs = {key: pair_scores(key, first, second) for key in keys}
    sample_ids = list(dict.fromkeys(sample for pair in pairs.values() for sample in pair.index))
    resamples = pd.DataFrame(draw_resamples(len(sample_ids)), index=sample_ids)
    measured: dict[str, dict[str, list[ScoredRow]]] = {}  # score -> row -> of both runs
    rows = []
    for score in dict.fromkeys(score for _, score in keys):
        measured[score] = by_row = {row: _measure(pairs[row, score], resamples) for row, of in keys if of == score}
        for row, both in by_row.items():
            rows.append(_difference(row, score, both[0].model["samples"], *both, _test(pairs[row, score])))
        if len(incomplete := _incomplete(list(by_row))) > 1:
            samples = max(by_row[row][0].model["samples"] for row in incomplete)
            name = f"average of the {len(incomplete)} incomplete"
            by_row[name] = _average([by_row[row] for row in incomplete])
            rows.append(_difference(name, score, samples, *by_row[name], {}))
    rows += _over_scores(rows, list(measured.values())) if len(measured) > 1 else []
    runs = {"A": first, "B": second}
    alone = [(name, key) for name, run in runs.items() for key in run.tables if key not in pairs]
    not_compared = [f"{_names([key])} (only in {name})" for name, key in alone]
    caveats = [f"{name}: {caveat}" for name, run in runs.items() for caveat in run.caveats]
    return Comparison(first.name, second.name, caveats, rows, not_compared)


def _over_scores(rows: Sequence[Difference], measured: Sequence[dict[str, list[ScoredRow]]]) -> list[Difference]:
    """Average each row over the scores, if all of them have it."""
    samples = {row.row: row.samples for row in rows}
    shared = [row for row in measured[0] if all(row in by_row for by_row in measured)]
    averages = {row: _average([by_row[row] for by_row in measured]) for row in shared}
    name = f"average of {len(measured)} scores"
    return [_difference(row, name, samples[row], *both, {}) for row, both in averages.items()]


def _average(pairs: Sequence[list[ScoredRow]]) -> list[ScoredRow]:
    return [average_rows(run) for run in zip(*pairs, strict=True)]


def pair_scores(key: Key, first: RunScores, second: RunScores) -> pd.DataFrame:
    """Return `first`, `second` and `target` by sample id, in the order of the first run.

    Raises:
        ValueError: the runs differ in samples, targets or drawn masks.
    """
    one, other, what = first.tables[key], second.tables[key], _names([key])
    for table, less, run in ((one, other, first.place), (other, one, second.place)):
        extra = table.index.difference(less.index)
        if len(extra):
            examples = ", ".join(map(repr, extra[:3]))
            raise ValueError(
                f"{what}: {len(extra)} samples are only in {run}, such as {examples}; compare runs on one test split"
            )
    other = other.loc[one.index]
    same = np.isclose(one["target"], other["target"], rtol=1e-5, atol=1e-6, equal_nan=True)
    if not same.all():
        sample = one.index[~same][0]
        values = [f"{table.loc[sample, 'target']:g}" for table in (one, other)]
        raise ValueError(
            f"{what}: {int((~same).sum())} samples have other targets, such as {sample!r}: {values[0]} in "
            f"{first.place} and {values[1]} in {second.place}; compare runs on the same scores"
        )
    if (one["mask"] != other["mask"]).any():
        raise ValueError(f"{what}: the drawn masks are not the same; compare runs with the same modalities")
    return pd.DataFrame({"first": one["predicted"], "second": other["predicted"], "target": one["target"]})


def _measure(pair: pd.DataFrame, resamples: pd.DataFrame) -> list[ScoredRow]:
    targets, counts = pair["target"].to_numpy(float), resamples.loc[pair.index].to_numpy()
    return [measure_row({"model": pair[run].to_numpy(float)}, targets, counts) for run in ("first", "second")]


def _test(pair: pd.DataFrame) -> dict[str, CorrelationTest]:
    arrays = [pair[name].to_numpy(float) for name in ("first", "second", "target")]
    return {name: compare_correlations(*arrays, ranks=name == "spearman") for name in CORRELATIONS}


def _difference(row: str, score: str, samples: int, first: ScoredRow, second: ScoredRow, tests: dict) -> Difference:
    differences, intervals = {}, {}
    for name in METRIC_NAMES:
        values = (first.model[name], second.model[name])
        paired = first.resampled["model"][name] - second.resampled["model"][name]
        differences[name] = None if None in values else values[0] - values[1]
        intervals[name] = None if None in values else percentile_interval(paired)[0]
    return Difference(row, score, samples, first.model, second.model, differences, intervals, tests)


def _incomplete(rows: list[str]) -> list[str]:
    """All masks but the largest; none where masks were drawn."""
    if any(row.startswith("missing rates") for row in rows):
        return []
    complete = max(rows, key=lambda row: row.count("+"))
    return [row for row in rows if row != complete]


def _names(keys: Iterable[Key]) -> str:
    return "; ".join(f"{score} from {row}" for row, score in keys)


def compare_correlations(first: np.ndarray, second: np.ndarray, targets: np.ndarray, ranks: bool) -> CorrelationTest:
    """Test whether two predictors correlate differently with the same targets.

    Args:
        first: (samples,) predictions of one.
        second: (samples,) predictions of the other.
        targets: (samples,), NaN = not given.
        ranks: whether to test the rank correlations, for which the test is an approximation.
    """
    given = ~np.isnan(targets)
    variables = [np.asarray(values, dtype=np.float64)[given] for values in (first, second, targets)]
    if given.sum() < 2 or any(not np.isfinite(values).all() or np.ptp(values) == 0 for values in variables):
        return CorrelationTest(reason="a correlation is undefined")
    if ranks:
        variables = [stats.rankdata(values) for values in variables]
    matrix = np.clip(np.corrcoef(variables), -1, 1)
    return williams_test(matrix[0, 2], matrix[1, 2], matrix[0, 1], int(given.sum()))


def williams_test(first: float, second: float, between: float, samples: int) -> CorrelationTest:
    """Williams's test of two dependent correlations that share a variable.

    E. J. Williams, The comparison of regression variables, Journal of the Royal Statistical Society B 21 (1959), in
    the form of equation 7 of J. H. Steiger, Tests for comparing elements of a correlation matrix, Psychological
    Bulletin 87 (1980):

        t = (r_1 - r_2) sqrt( (n - 1) (1 + r_12) / (2 (n - 1) / (n - 3) |R| + ((r_1 + r_2) / 2)^2 (1 - r_12)^3) )
        |R| = 1 - r_1^2 - r_2^2 - r_12^2 + 2 r_1 r_2 r_12,   n - 3 degrees of freedom

    Args:
        first: r_1, correlation of one predictor with the targets.
        second: r_2, correlation of the other.
        between: r_12, correlation of the predictors with each other.
        samples: n.

    Raises:
        ValueError: the three cannot be correlations of the same samples.
    """
    if samples < 4:
        return CorrelationTest(reason=f"{samples} samples, at least 4 are needed")
    determinant = 1 - first**2 - second**2 - between**2 + 2 * first * second * between
    if determinant < -1e-9 or max(abs(first), abs(second), abs(between)) > 1:
        raise ValueError(f"{first}, {second} and {between} are no correlations of three variables with each other")
    mean = (first + second) / 2
    spread = 2 * (samples - 1) / (samples - 3) * max(determinant, 0) + mean**2 * (1 - between) ** 3
    if first == second:
        statistic = 0.0
    elif spread < 1e-12:  # the predictors are linear functions of each other: only rounding can tell them apart
        return CorrelationTest(reason="the predictions are the same up to unit and origin")
    else:
        statistic = (first - second) * math.sqrt((samples - 1) * (1 + between) / spread)
    freedom = samples - 3
    return CorrelationTest(statistic, freedom, float(2 * stats.t.sf(abs(statistic), freedom)))
