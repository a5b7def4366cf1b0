"""One picture of the protocol `curve`: how the scores get worse as more is missing."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from .results import EvaluationResult

_STYLES = {  # part of a cell -> colour, line
    "model": ("#2f6f9f", "-"),
    "ridge": ("#d9822b", "-"),
    "mean_baseline": ("#7a858d", "--"),
}
_LABELS = {"model": "LIMSSR", "ridge": "ridge", "mean_baseline": "training mean"}
_PANELS = {"spearman": "Spearman correlation with the judges", "mse": "mean squared error"}


def save_missing_rate_curve(result: EvaluationResult, path: str | Path, title: str | None = None) -> None:
    """Writes a PNG with one row of two panels for each score: Spearman and squared error over the missing rate.

    Lines are means over the draws of the masks and error bars their standard deviation; the shaded band is the
    bootstrap interval of the model's mean, under other samples.
    """
    rows = len(result.score_names)
    figure = Figure(figsize=(10.5, 3.7 * rows + (0.4 if title else 0)), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False)
    handles = {}
    for panels, score_name in zip(axes, result.score_names, strict=True):
        for panel, metric in zip(panels, _PANELS, strict=True):
            handles |= _draw(panel, result, score_name, metric)
            named = "" if rows == 1 else f"{score_name}: "
            panel.set_title(named + _PANELS[metric], fontsize=11, loc="left")
    figure.legend(handles.values(), handles, loc="outside lower left", ncols=len(handles), frameon=False, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=13, fontweight="bold")
    figure.savefig(path, dpi=150, format="png")


def _draw(axes: Axes, result: EvaluationResult, score_name: str, metric: str) -> dict:
    """Draws every part that has this metric; returns what the legend explains by its text."""
    handles = {}
    for part, (color, line) in _STYLES.items():
        points = []
        for row in result.summaries:
            cell = getattr(row.scores[score_name], part)
            if cell is not None and cell[metric] is not None:
                points.append((float(row.name), cell[metric], cell["sd"][metric] or 0.0, cell["intervals"][metric]))
        if not points:
            continue
        rates, values, deviations, intervals = zip(*points, strict=True)
        style = {"color": color, "linestyle": line, "marker": "o", "markersize": 3.5, "capsize": 2.5}
        handles[_LABELS[part]] = axes.errorbar(rates, values, deviations, **style)
        banded = [(rate, *interval) for rate, interval in zip(rates, intervals, strict=True) if interval is not None]
        if part == "model" and banded:
            band = axes.fill_between(*zip(*banded, strict=True), color=color, alpha=0.15, linewidth=0)
            handles["95 % interval"] = band
    axes.set_xlabel("missing rate of each modality (something is always shown)")
    axes.set_xticks([float(row.name) for row in result.summaries])
    axes.grid(color="0.92", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    return handles
