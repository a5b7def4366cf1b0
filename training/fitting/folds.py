"""Cross-validated selection: the epoch that validates best on average over the folds of the training split."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..evaluation.metrics.aqa_metrics import METRIC_NAMES


@dataclass(frozen=True)
class EpochChoice:
    """How long to train.

    Attributes:
        epoch: the chosen epoch.
        share: optimizer steps until its end, as a share in (0, 1] of those of the whole run.
        best: its criterion, mean over the folds; None if that is undefined after every epoch, and the last is chosen.
        folds: for each fold its criterion after each epoch, None = undefined.
        means: for each epoch its number and the mean over the folds of each metric, named as in the trainer's history.
    """

    epoch: float
    share: float
    best: float | None
    folds: list[list[float | None]]
    means: list[dict[str, float | None]]

    def to_dict(self) -> dict:
        return asdict(self)


def choose_epoch(histories: Sequence[Sequence[dict]], criterion: str, greater_is_better: bool) -> EpochChoice:
    """Choose the epoch with the best mean criterion; between equals the lower squared error decides.

    Args:
        histories: for each fold the `log_history` of its trainer, whole runs that were validated after each epoch.
        criterion: validation metric, such as `spearman`.
        greater_is_better: whether it is a correlation rather than an error.
    """
    key = f"eval_{criterion.removeprefix('eval_')}"
    curves = [[entry for entry in history if key in entry and entry["step"]] for history in histories]
    lasts = [max(entry["step"] for entry in history) for history in histories]
    epochs = range(min(map(len, curves)))
    names = dict.fromkeys([key, *(f"eval_{name}" for name in METRIC_NAMES)])
    means = [{name: _mean([curve[epoch].get(name) for curve in curves]) for name in names} for epoch in epochs]
    means = [{"epoch": curves[0][epoch]["epoch"], **means[epoch]} for epoch in epochs]
    chosen, best = epochs[-1], None
    if defined := [epoch for epoch in epochs if means[epoch][key] is not None]:
        best = (max if greater_is_better else min)(means[epoch][key] for epoch in defined)
        equals = [epoch for epoch in defined if math.isclose(means[epoch][key], best)]
        errors = {epoch: means[epoch]["eval_mse"] for epoch in equals}
        chosen = min(equals, key=lambda epoch: math.inf if errors[epoch] is None else errors[epoch])
    share = float(np.mean([curve[chosen]["step"] / last for curve, last in zip(curves, lasts, strict=True)]))
    folds = [[curve[epoch][key] for epoch in epochs] for curve in curves]
    return EpochChoice(means[chosen]["epoch"], share, best, folds, means)


def _mean(values: Sequence[float | None]) -> float | None:
    """Return the mean; None if a value is undefined, which is NaN in memory and None in a record."""
    return None if None in values or np.isnan(values).any() else float(np.mean(values))


def fold_folder(output_dir: str | Path, fold: int) -> Path:
    """Return the folder of a fold, counted from 0; the folder is named by its number from 1."""
    return Path(output_dir) / f"fold_{fold + 1}"


def fold_folders(output_dir: str | Path) -> list[Path]:
    """Return the folders of the folds that were begun."""
    return sorted(Path(output_dir).glob("fold_*"), key=lambda path: int(path.name.removeprefix("fold_")))
