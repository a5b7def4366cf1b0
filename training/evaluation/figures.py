"""Pictures of an evaluation and of a training run."""

import re
import textwrap
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ...modeling_limssr.losses_limssr import LOSS_TERMS
from ..utils.figures import FigureFormat, write_figure
from .results import EvaluationResult, MaskResult, ScoredRow

MODEL, WEAK, RIDGE, MEAN, BEST = "#2f6f9f", "#b9c4cc", "#d9822b", "#7a858d", "#2e2e2e"  # colours
CURVES = (  # part of a `ScoredRow`, label, colour, line style
    ("model", "LIMSSR, ± s.d. of the draws", MODEL, "-"),
    ("ridge", "ridge", RIDGE, "-"),
    ("mean_baseline", "training mean", MEAN, "--"),
)
POINTS = {"marker": "o", "markersize": 3}  # a single epoch is seen too
TITLE_WIDTH = 36  # characters above the narrower panel
AXES = {"spearman": "Spearman correlation with the judges", "mse": "mean squared error"}


def save_figure(result: EvaluationResult, path: str | Path, figure_format: FigureFormat | None = None) -> None:
    """Draw an evaluation with two panels for each score; see `write_figure` for the files.

    Left: Spearman of each mask, or the mean over its draws, with its bootstrap interval; the bar is grey where the
    model is not better than the training mean. Right: predicted and judged scores under the first mask or draw, with
    their `calibration_line`. For the protocol `curve`: Spearman and squared error over the missing rate, with the s.d.
    over the draws.
    """
    curve, count = result.protocol == "curve", len(result.score_names)
    width, height = (10.5, 3.7) if curve else (11.5, max(3.9, 0.42 * len(result.rows) + 1.6))  # inches
    # A Figure of its own draws through Agg, whatever pyplot is set to in the process.
    figure = Figure(figsize=(width, count * height + (0.4 if result.title else 0)), layout="constrained")
    axes = figure.subplots(count, 2, squeeze=False, width_ratios=[1, 1] if curve else [1.45, 1])
    handles = {}
    for (left, right), score_name in zip(axes, result.score_names, strict=True):
        if curve:
            artists = _draw_curve(left, result, score_name, "spearman") + _draw_curve(right, result, score_name, "mse")
        else:
            artists = _draw_bars(left, result, score_name)
            _draw_scatter(right, result, score_name)
        handles |= {artist.get_label(): artist for artist in artists}
        for panel in (left, right):
            title = panel.get_title(loc="left")
            title = title if count == 1 else f"{score_name}: {title}"
            panel.set_title(textwrap.fill(title, TITLE_WIDTH), fontsize=11, loc="left")
    figure.legend(handles=handles.values(), loc="outside lower left", ncols=len(handles), frameon=False, fontsize=9)
    if result.title:
        figure.suptitle(result.title, fontsize=13, fontweight="bold")
    write_figure(figure, path, figure_format)


def _draw_bars(axes: Axes, result: EvaluationResult, score_name: str) -> list[Artist]:
    """Draw one bar for each row; return what the legend explains."""
    rows = [row.scores[score_name] for row in result.rows]
    places = np.arange(len(rows))
    values = [row.model["spearman"] for row in rows]
    colors = [WEAK if row.not_better_than_mean else MODEL for row in rows]
    axes.barh(places, [value or 0.0 for value in values], height=0.62, color=colors, zorder=2)
    for place, value in zip(places, values, strict=True):
        text = "undefined" if value is None else f"{value:.3f}"
        axes.text(1.02, place, text, va="center", fontsize=9)  # beside the bars, where no marker can cover it
    handles = [Patch(color=MODEL, label="LIMSSR")]
    if WEAK in colors:
        handles.append(Patch(color=WEAK, label="LIMSSR, not better than the training mean"))
    intervals = [row.model["intervals"]["spearman"] for row in rows]
    intervals = [(place, *interval) for place, interval in enumerate(intervals) if interval is not None]
    if intervals:
        style = {"color": BEST, "linewidth": 1.1, "zorder": 2.5, "label": "95 % interval"}
        handles.append(axes.hlines(*zip(*intervals, strict=True), **style))
    handles += _draw_markers(axes, rows, "ridge", {"marker": "D", "s": 38, "color": RIDGE, "label": "ridge"})
    style = {"marker": "|", "s": 300, "linewidths": 2.2, "color": BEST, "label": "best attainable"}
    handles += _draw_markers(axes, rows, "best", style)
    lowest = min([0.0, *(low for _, low, _ in intervals), *(value for value in values if value is not None)])
    axes.set_xlim(lowest - (0.05 if lowest < 0 else 0), 1.0)
    axes.set_yticks(places, [_name(row) for row in result.rows])
    axes.invert_yaxis()
    _finish(axes, "missing rates" if result.summaries else "allowed modalities", AXES["spearman"], grid="x")
    return handles


def _draw_markers(axes: Axes, rows: Sequence[ScoredRow], part: str, style: dict) -> list[Artist]:
    """Draw the Spearman of one part of the rows; return the markers, if there are any."""
    metrics = enumerate(getattr(row, part) for row in rows)
    points = [(found["spearman"], place) for place, found in metrics if found and found["spearman"] is not None]
    return [axes.scatter(*zip(*points, strict=True), zorder=3, **style)] if points else []


def _draw_scatter(axes: Axes, result: EvaluationResult, score_name: str) -> None:
    first, column = result.masks[0], result.score_names.index(score_name)
    title = f"allowed: {_name(first)}" if first.seed is None else f"first row, mask seed {first.seed}"
    _finish(axes, title, "judged score")
    axes.set_ylabel("predicted score")
    axes.set_box_aspect(1)
    if first.predictions is None:
        return
    judged, predicted = first.targets[:, column], first.predictions.scores[:, column]
    given = np.isfinite(judged) & np.isfinite(predicted)
    axes.scatter(judged[given], predicted[given], s=16, alpha=0.55, color=MODEL, edgecolors="none", zorder=3)
    if given.any():
        both = np.concatenate([judged[given], predicted[given]])
        margin = 0.04 * (np.ptp(both) or 1.0)
        limits = (both.min() - margin, both.max() + margin)
        axes.plot(limits, limits, color="0.55", linewidth=1, linestyle="--", zorder=2)
        axes.set(xlim=limits, ylim=limits)
    line = first.scores[score_name].model["calibration"]
    if line["slope"] is not None:
        ends = np.array(line["predicted"])
        label = f"calibration line, slope {line['slope']:.2f}"
        axes.plot(line["intercept"] + line["slope"] * ends, ends, color=RIDGE, linewidth=1.8, zorder=4, label=label)
        axes.legend(loc="upper left", frameon=False, fontsize=9)


def _draw_curve(axes: Axes, result: EvaluationResult, score_name: str, metric: str) -> list[Artist]:
    """Draw one metric over the missing rate for every part that has it; return what the legend explains."""
    handles = []
    for part, label, color, line in CURVES:
        found = [(float(row.name), getattr(row.scores[score_name], part)) for row in result.summaries]
        found = [(rate, metrics) for rate, metrics in found if metrics and metrics[metric] is not None]
        if not found:
            continue
        points = [(rate, metrics[metric], metrics["sd"][metric] or 0.0) for rate, metrics in found]
        style = {"color": color, "linestyle": line, "marker": "o", "markersize": 3.5, "capsize": 2.5, "label": label}
        handles.append(axes.errorbar(*zip(*points, strict=True), **style))
        band = [(rate, *metrics["intervals"][metric]) for rate, metrics in found if metrics["intervals"][metric]]
        if part == "model" and band:
            style = {"color": color, "alpha": 0.15, "linewidth": 0, "label": "95 % interval"}
            handles.append(axes.fill_between(*zip(*band, strict=True), **style))
    axes.set_xticks([float(row.name) for row in result.summaries])
    _finish(axes, AXES[metric], "missing rate of each modality (at least one is kept)")
    return handles


def save_curve(
    history: Sequence[dict],
    path: str | Path,
    title: str = "",
    kept_step: int | None = None,
    figure_format: FigureFormat | None = None,
) -> None:
    """Write the figure of `draw_curve`, see `write_figure`."""
    figure = draw_curve(history, kept_step)
    figure.suptitle(title)
    write_figure(figure, path, figure_format)


def draw_curve(history: Sequence[dict], kept_step: int | None = None) -> Figure:
    """Draw the loss terms over the epochs and, if there is validation, its Spearman and squared error.

    Args:
        history: the trainer's `log_history`: entries with `step` and `epoch`, and loss terms or `eval_...` metrics.
        kept_step: step of the checkpoint that was kept; its epoch is marked.
    """
    names = dict.fromkeys(name for entry in history for name in entry)
    parts = [found for found in (re.fullmatch(r"eval_(.+)_spearman", name) for name in names) if found]
    validated = "eval_spearman" in names
    figure = Figure(figsize=(13 if validated else 5.5, 4.2), layout="constrained")
    losses, *validation = np.atleast_1d(figure.subplots(1, 3 if validated else 1))
    for name in (name for name in LOSS_TERMS if name in names):
        losses.plot(*_series(history, name), **POINTS, label=f"{name.removesuffix('_loss')} loss")
    _scale_with_zeros(losses)
    _finish(losses, "training loss, unweighted terms", "epoch")
    losses.set_ylabel("loss of the scores scaled to 0..1")
    if validated:
        correlation, error = validation
        correlation.plot(*_series(history, "eval_spearman"), **POINTS, color="black", linewidth=2, label="mean")
        for part in parts:
            correlation.plot(*_series(history, part[0]), **POINTS, linewidth=1, alpha=0.8, label=part[1])
        error.plot(*_series(history, "eval_mse"), **POINTS, color="black", linewidth=2)
        _finish(correlation, "validation, Spearman", "epoch")
        _finish(error, "validation, squared error", "epoch")
        correlation.set_ylabel(AXES["spearman"])
        error.set_ylabel("mean squared error, judges' units")
    kept = next((entry["epoch"] for entry in history if entry.get("step") == kept_step is not None), None)
    for panel in (losses, *validation):
        panel.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        if kept is not None:
            panel.axvline(kept, color=BEST, linestyle="--", linewidth=1.2, label="checkpoint kept", zorder=1)
    legends = [(losses, 2)] + [(panel, 2 if panel is validation[0] else 1) for panel in validation]
    for panel, columns in legends:
        if panel.get_legend_handles_labels()[0]:  # below the axis, where it covers no line
            place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": columns}
            panel.legend(frameon=False, fontsize=8, **place)
    return figure


def _scale_with_zeros(axes: Axes) -> None:
    """Make the vertical axis logarithmic where that is possible: a term without a weight, or a perfect one, is 0."""
    values = np.concatenate([line.get_ydata() for line in axes.lines] or [[]])
    positive = values[values > 0]
    if len(positive):
        axes.set_yscale("symlog", linthresh=positive.min()) if (values <= 0).any() else axes.set_yscale("log")


def _series(history: Sequence[dict], name: str) -> tuple[list[float], list[float]]:
    points = [(entry["epoch"], entry[name]) for entry in history if entry.get(name) is not None]
    return [epoch for epoch, _ in points], [value for _, value in points]


def _finish(axes: Axes, title: str, xlabel: str, grid: str = "both") -> None:
    axes.set_title(title, fontsize=11, loc="left")
    axes.set_xlabel(xlabel)
    axes.grid(axis=grid, color="0.92", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)


def _name(row: MaskResult) -> str:
    return row.name.replace("+", " + ")
