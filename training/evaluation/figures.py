"""One picture of an evaluation: rank correlation of every mask, and predicted against judged scores."""

from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from .missing_rate_curve import save_missing_rate_curve
from .results import EvaluationResult, MaskResult, SeedSummary

_MODEL, _WEAK, _RIDGE, _BEST = "#2f6f9f", "#b9c4cc", "#d9822b", "#2e2e2e"
_PANEL_HEIGHT = 3.9  # inches for one score


def save_figure(result: EvaluationResult, path: str | Path, title: str | None = None) -> None:
    """Writes a PNG with one row of two panels for each score; the protocol `curve` has its own picture.

    Left: Spearman of each mask, or mean over the draws of its masks, as a bar with its bootstrap interval, grey where
    the model is not better than the training mean, with the ridge baseline and the best attainable value as marks.
    Right: the samples with the first mask (all modalities) or draw.
    """
    if result.protocol == "curve":
        save_missing_rate_curve(result, path, title)
        return
    rows = len(result.score_names)
    height = max(_PANEL_HEIGHT, 0.42 * len(result.rows) + 1.6)
    # A Figure of its own draws through Agg, whatever pyplot is set to in the process.
    figure = Figure(figsize=(11.5, rows * height + (0.4 if title else 0)), layout="constrained")
    axes = figure.subplots(rows, 2, squeeze=False, width_ratios=[1.45, 1])
    handles = {}
    for (bars, scatter), score_name in zip(axes, result.score_names, strict=True):
        handles |= {handle.get_label(): handle for handle in _draw_bars(bars, result, score_name)}
        _draw_scatter(scatter, result, score_name)
    figure.legend(handles=handles.values(), loc="outside lower left", ncols=len(handles), frameon=False, fontsize=9)
    if title:
        figure.suptitle(title, fontsize=13, fontweight="bold")
    figure.savefig(path, dpi=150, format="png")


def _draw_bars(axes: Axes, result: EvaluationResult, score_name: str) -> list[Artist]:
    """Draws into `axes`; returns what the legend explains."""
    cells = [row.scores[score_name] for row in result.rows]
    places = np.arange(len(cells))
    values = [cell.model["spearman"] for cell in cells]
    colors = [_WEAK if cell.not_better_than_mean else _MODEL for cell in cells]
    axes.barh(places, [value or 0.0 for value in values], height=0.62, color=colors, zorder=2)
    for place, value in zip(places, values, strict=True):
        text = "undefined" if value is None else f"{value:.3f}"
        axes.text(1.02, place, text, va="center", fontsize=9)  # beside the bars, where no mark can cover it
    weak = Patch(color=_WEAK, label="LIMSSR, not better than the training mean") if _WEAK in colors else None
    handles = [Patch(color=_MODEL, label="LIMSSR"), weak, _draw_intervals(axes, cells)]
    handles.append(_draw_marks(axes, cells, "ridge", {"marker": "D", "s": 38, "color": _RIDGE, "label": "ridge"}))
    style = {"marker": "|", "s": 300, "linewidths": 2.2, "color": _BEST, "label": "best attainable"}
    handles.append(_draw_marks(axes, cells, "best", style))
    axes.set_yticks(places, [_name(row) for row in result.rows])
    axes.invert_yaxis()
    lowest = min([0.0, *(low for _, low, _ in _intervals(cells)), *(value for value in values if value is not None)])
    axes.set_xlim(lowest - (0.05 if lowest < 0 else 0), 1.0)
    axes.set_xlabel("Spearman correlation with the judges")
    title = "missing rates" if result.summaries else "what the model may see"
    axes.set_title(_title(result, score_name, title), fontsize=11, loc="left")
    axes.grid(axis="x", color="0.9", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
    return [handle for handle in handles if handle is not None]


def _intervals(cells: list) -> list[tuple[int, float, float]]:
    """Place, lowest and highest Spearman of every cell that has a bootstrap interval."""
    intervals = [cell.model["intervals"]["spearman"] for cell in cells]
    return [(place, *interval) for place, interval in enumerate(intervals) if interval is not None]


def _draw_intervals(axes: Axes, cells: list) -> LineCollection | None:
    if not _intervals(cells):
        return None
    places, lows, highs = zip(*_intervals(cells), strict=True)
    return axes.hlines(places, lows, highs, color=_BEST, linewidth=1.1, zorder=2.5, label="95 % interval")


def _draw_marks(axes: Axes, cells: list, part: str, style: dict) -> PathCollection | None:
    """Marks at the Spearman of one part of the cells; None where no cell has it."""
    metrics = [getattr(cell, part) for cell in cells]
    points = [
        (entry["spearman"], place)
        for place, entry in enumerate(metrics)
        if entry is not None and entry["spearman"] is not None
    ]
    return axes.scatter(*zip(*points, strict=True), zorder=3, **style) if points else None


def _draw_scatter(axes: Axes, result: EvaluationResult, score_name: str) -> None:
    mask, column = result.masks[0], result.score_names.index(score_name)
    title = f"seen: {_name(mask)}" if mask.seed is None else f"first line, mask seed {mask.seed}"
    axes.set_title(_title(result, score_name, title), fontsize=11, loc="left")
    axes.set_xlabel("judged")
    axes.set_ylabel("predicted")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="0.92", zorder=0)
    if mask.predictions is None:
        return
    judged, predicted = mask.targets[:, column], mask.predictions.scores[:, column]
    shown = np.isfinite(judged) & np.isfinite(predicted)
    axes.scatter(judged[shown], predicted[shown], s=16, alpha=0.55, color=_MODEL, edgecolors="none", zorder=3)
    if shown.any():
        low = min(judged[shown].min(), predicted[shown].min())
        high = max(judged[shown].max(), predicted[shown].max())
        margin = 0.04 * (high - low or 1.0)
        limits = (low - margin, high + margin)
        axes.plot(limits, limits, color="0.55", linewidth=1, linestyle="--", zorder=2)
        axes.set(xlim=limits, ylim=limits)
    axes.set_box_aspect(1)


def _name(row: MaskResult | SeedSummary) -> str:
    return row.name.replace("+", " + ")


def _title(result: EvaluationResult, score_name: str, text: str) -> str:
    return text if len(result.score_names) == 1 else f"{score_name}: {text}"
