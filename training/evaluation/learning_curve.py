"""The learning curve of a run as one picture."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ...modeling_limssr.losses_limssr import LOSS_TERMS


def save_curve(history: Sequence[dict], path: str | Path, title: str = "") -> None:
    """
    Draws the loss terms of training and, if there was one, Spearman and squared error of validation over the epochs.

    Args:
        history: the trainer's `log_history`: entries with `epoch`, and the terms of the loss or `eval_...` metrics.
        path: of the PNG.
        title: above the picture.
    """
    validated = any("eval_spearman" in entry for entry in history)
    figure = Figure(figsize=(11 if validated else 5, 3.4), layout="constrained")
    losses, *validation = np.atleast_1d(figure.subplots(1, 3 if validated else 1))
    for name in LOSS_TERMS:
        losses.plot(*_series(history, name), label=name.removesuffix("_loss"))
    losses.set(title="training loss, unweighted terms", yscale="log")
    losses.legend(frameon=False)
    if validated:
        _draw_validation(history, *validation)
    for axes in (losses, *validation):
        axes.set_xlabel("epoch")
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=150)


def _draw_validation(history: Sequence[dict], correlation: Axes, error: Axes) -> None:
    correlation.plot(*_series(history, "eval_spearman"), color="black", linewidth=2, label="mean")
    views = [name for name in _names(history) if re.fullmatch(r"eval_.+_spearman", name)]
    for name in views:
        label = name.removeprefix("eval_").removesuffix("_spearman")
        correlation.plot(*_series(history, name), linewidth=1, alpha=0.8, label=label)
    correlation.set(title="validation, Spearman")
    if views:
        correlation.legend(frameon=False)
    error.plot(*_series(history, "eval_mse"), color="black", linewidth=2)
    error.set(title="validation, mean squared error")


def _names(history: Sequence[dict]) -> list[str]:
    return list(dict.fromkeys(name for entry in history for name in entry))


def _series(history: Sequence[dict], name: str) -> tuple[list[float], list[float]]:
    points = [(entry["epoch"], entry[name]) for entry in history if entry.get(name) is not None]
    return [epoch for epoch, _ in points], [value for _, value in points]
