"""A picture of an explanation: the score among those of the training, its parts, and the clips that mattered."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..utils.figures import write_figure
from .explanation import Explanation
from .page import find_span, make_sheet, number, signed

RAISE, LOWER, FILL, BAND, INK, SOFT = "#0f6e96", "#c2511c", "#ccd6de", "#a9cfe0", "#15202b", "#566472"


def save_explanation(explanation: Explanation, path: str | Path) -> None:
    """Write the picture as PNG, one row for each score."""
    count = len(explanation.score_names)
    figure = Figure(figsize=(12, 3.3 * count + 0.5), layout="constrained")
    figure.suptitle(explanation.sample_id, fontsize=13, fontweight="bold", parse_math=False)
    axes = figure.subplots(count, 3, squeeze=False, width_ratios=[1, 1.1, 1.3])
    for score, row in enumerate(axes):
        sheet = make_sheet(explanation, score)
        _draw_scale(row[0], explanation, score, sheet)
        _draw_parts(row[1], explanation, sheet)
        _draw_clips(row[2], explanation, score, sheet)
        for panel in row:
            panel.spines[["top", "right", "left"]].set_visible(False)
    if explanation.neighbours:
        figure.supxlabel(_name_neighbours(explanation), x=0.01, ha="left", fontsize=9, parse_math=False)
    write_figure(figure, path)


def _name_neighbours(explanation: Explanation) -> str:
    decimals = [make_sheet(explanation, score)["decimals"] for score in range(len(explanation.score_names))]
    named = []
    for each in explanation.neighbours:
        scores = " / ".join(number(score, places) for score, places in zip(each.scores, decimals, strict=True))
        named.append(f"{each.sample_id} {scores} (similarity {number(each.similarity, 2)})")
    return f"Judged training performances most like it: {', '.join(named)}"


def _draw_scale(axes: Axes, explanation: Explanation, score: int, sheet: dict) -> None:
    scale, decimals = sheet["scale"], sheet["decimals"]
    if scale["bars"]:
        edges = np.linspace(scale["low"], scale["high"], len(scale["bars"]) + 1)
        axes.stairs(np.array(scale["bars"]) / 100, edges, fill=True, color=FILL, label="training scores")
    title = f"{sheet['name']}: {number(sheet['score'], decimals)}"
    if sheet["interval"]:
        label = f"{100 * explanation.level:g} % interval"
        axes.barh(-0.08, np.ptp(sheet["interval"]), 0.12, sheet["interval"][0], color=BAND, label=label)
        title += f" ({' to '.join(number(end, decimals) for end in sheet['interval'])})"
    axes.plot([sheet["score"]] * 2, [-0.16, 1.05], color=INK, linewidth=2.5, label="this score")
    axes.set(xlim=(scale["low"], scale["high"]), ylim=(-0.18, 1.5), yticks=[])
    axes.set_title(title, loc="left", fontsize=11, parse_math=False)
    axes.legend(loc="upper right", frameon=False, fontsize=8)


def _draw_parts(axes: Axes, explanation: Explanation, sheet: dict) -> None:
    waterfall, end = sheet["waterfall"], sheet["waterfall"]["start"]
    names = [explanation.baseline_name, *(row["name"] for row in waterfall["rows"]), "score"]
    axes.plot([end] * 2, [-0.35, 0.35], color=INK, linewidth=2)
    for place, row in enumerate(waterfall["rows"], 1):
        axes.barh(place, row["value"], 0.55, end, color=RAISE if row["value"] > 0 else LOWER)
        axes.text(
            end + max(row["value"], 0), place, f" {signed(row['value'], sheet['decimals'])}", va="center", fontsize=9
        )
        end += row["value"]
    axes.plot([end] * 2, [len(names) - 1.35, len(names) - 0.65], color=INK, linewidth=2)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.margins(x=0.15)
    missing = f" (missing: {', '.join(explanation.missing)})" if explanation.missing else ""
    axes.set_title(f"Contributions{missing}", loc="left", fontsize=11)


def _draw_clips(axes: Axes, explanation: Explanation, score: int, sheet: dict) -> None:
    if sheet["timeline"] is None:
        axes.set_axis_off()
        return
    rows, is_timed = sheet["timeline"]["rows"], find_span(explanation) is not None
    for place, row in enumerate(rows):
        for clip in row["clips"]:
            left, right = clip["seconds"] if is_timed else (clip["number"] - 1, clip["number"])
            height = np.sign(clip["value"]) * clip["height"] / 100 * 0.45
            axes.bar(
                left,
                height,
                right - left,
                -place,
                align="edge",
                color=RAISE if height > 0 else LOWER,
                edgecolor="white",
            )
        axes.axhline(-place, color=SOFT, linewidth=0.6)
    axes.set_yticks([-place for place in range(len(rows))], [row["name"] for row in rows])
    axes.tick_params(axis="y", length=0)
    axes.set(ylim=(0.55 - len(rows), 0.55), xlabel="seconds" if is_timed else "clips")
    axes.set_title("When: up raised the score", loc="left", fontsize=11)
