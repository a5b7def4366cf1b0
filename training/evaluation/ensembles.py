"""Ensembles of seeds: the averaged predictions of several runs, and what tells how wrong they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from .compare import Comparison, Key, RunScores, compare_runs, pair_scores, read_run_scores


@dataclass(frozen=True)
class Ensemble:
    """Several runs of one task, taken as one model.

    Attributes:
        runs: names of the runs.
        caveats: caveats of all runs.
        against_ridge: the runs' averaged predictions against the averaged predictions of their ridge models.
        uncertainty: what tells the absolute error of the averaged predictions, as rank correlations: the standard
            deviation of the runs' predictions (first), the mean disagreement of their two paths (second).
    """

    runs: list[str]
    caveats: list[str]
    against_ridge: Comparison
    uncertainty: Comparison

    def to_dict(self) -> dict:
        """Plain Python values; of the uncertainty the rank correlations alone, for its errors mean nothing."""
        names = {"standard_deviation": "first", "path_disagreement": "second", "difference": "differences"}
        uncertainty = [
            {"row": row.row, "score_name": row.score_name, "samples": row.samples}
            | {name: getattr(row, part)["spearman"] for name, part in names.items()}
            | {"interval": row.intervals["spearman"]}
            for row in self.uncertainty.rows
        ]
        about = {"runs": self.runs, "caveats": self.caveats, "against_ridge": self.against_ridge.to_dict()}
        return about | {"correlation_with_absolute_error": uncertainty}


def read_ensembles(tasks: Mapping[str, Sequence[str]]) -> tuple[list[Ensemble], list[str]]:
    """Read an ensemble of the runs that have the same tasks; a run without another of its kind makes none.

    Args:
        tasks: folder of a run -> its tasks.

    Returns:
        The ensembles, and the reasons why others could not be made.
    """
    groups: dict[tuple[str, ...], list[str]] = {}
    for folder, names in tasks.items():
        groups.setdefault(tuple(names), []).append(folder)
    ensembles, reasons = [], []
    for folders in (folders for folders in groups.values() if len(folders) > 1):
        try:
            ensembles.append(read_ensemble(folders))
        except (OSError, ValueError) as error:
            reasons.append(f"No ensemble of {', '.join(folders)}: {error}.")
    return ensembles, reasons


def read_ensemble(folders: Sequence[str | Path]) -> Ensemble:
    """Average the predictions of several runs for each sample and mask, and those of their ridge models likewise.

    Raises:
        OSError: a run has no predictions.
        ValueError: the runs differ in masks, scores, samples or targets.
    """
    runs, ridges = ([read_run_scores(folder, ridge) for folder in folders] for ridge in (False, True))
    names = [run.name for run in runs]
    predicted, disagreement = (_columns(runs, name) for name in ("predicted", "disagreement"))
    means = {key: frame.mean(axis=1) for key, frame in predicted.items()}
    model = _replace(runs[0], f"ensemble of {len(runs)} runs ({', '.join(names)})", means)
    ridge_means = {key: frame.mean(axis=1, skipna=False) for key, frame in _columns(ridges, "predicted").items()}
    against_ridge = compare_runs(model, _replace(runs[0], "their ridge models", ridge_means))
    errors = {key: (table["predicted"] - table["target"]).abs() for key, table in model.tables.items()}
    spread = {key: frame.std(axis=1) for key, frame in predicted.items()}
    disagreement = {key: frame.mean(axis=1, skipna=False) for key, frame in disagreement.items()}
    uncertainty = compare_runs(
        _replace(runs[0], "standard deviation of the runs' predictions", spread, errors),
        _replace(runs[0], "disagreement of the two paths, mean of the runs", disagreement, errors),
    )
    caveats = list(dict.fromkeys(caveat for run in runs for caveat in run.caveats))
    return Ensemble(names, caveats, against_ridge, uncertainty)


def _columns(runs: Sequence[RunScores], name: str) -> dict[Key, pd.DataFrame]:
    """Return a column of every run side by side, `(samples, runs)` for each row and score."""
    first, *others = runs
    for run in others:
        if unshared := first.tables.keys() ^ run.tables.keys():
            row, score = min(unshared)
            raise ValueError(f"only one of {first.place} and {run.place} has {score} from {row}")
        for key in first.tables:
            pair_scores(key, first, run)
    return {key: pd.concat([run.tables[key][name] for run in runs], axis=1) for key in first.tables}


def _replace(
    run: RunScores, name: str, predicted: dict[Key, pd.Series], targets: dict[Key, pd.Series] | None = None
) -> RunScores:
    """Return a run without caveats that predicts something else, and perhaps has another target."""
    tables = {
        key: table.assign(predicted=predicted[key], target=table["target"] if targets is None else targets[key])
        for key, table in run.tables.items()
    }
    return RunScores(name, run.place, [], tables)
