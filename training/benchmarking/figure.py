"""The picture of a benchmark: everybody beside the bare language model, and what longer samples cost."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

LABELS = {
    "bare": "bare language model",
    "limssr": "LIMSSR",
    "shared": "LIMSSR, prefix shared",
    "naive": "the naive way",
}
COLORS = {"bare": "#b9c4cc", "limssr": "#2f6f9f", "shared": "#1f9e77", "naive": "#d9822b"}


def save_figure(results: dict, path: str | Path) -> None:
    """Writes a PNG: seconds and peak memory of everybody, and seconds against clips beside the operations."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    times, memory, clips = figure.subplots(1, 3)
    _draw_bars(times, results, lambda part, name: part["seconds"][name]["median"], "seconds of a batch")
    _draw_bars(memory, results, lambda part, name: part["peak_bytes"][name] / 1e9, "peak memory, GB")
    _draw_clips(clips, results["curves"]["clips"])
    figure.legend(*times.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(
        f"{results['language_model']}, {results['device_name']}, batch {results['batch_size']}", fontsize=12
    )
    figure.savefig(path, dpi=150, format="png")


def _draw_bars(axes: Axes, results: dict, value, title: str) -> None:
    for number, (name, label) in enumerate(LABELS.items()):
        places = [action + (number - 1.5) * 0.2 for action in range(2)]
        heights = [value(results[action], name) for action in ("inference", "training")]
        axes.bar(places, heights, width=0.18, color=COLORS[name], label=label, zorder=2)
        for place, height in zip(places, heights, strict=True):
            axes.text(place, height, f"{height:.2f}", ha="center", va="bottom", fontsize=8)
    axes.set_xticks([0, 1], ["inference", "training step"])
    _finish(axes, title)


def _draw_clips(axes: Axes, points: list[dict]) -> None:
    clips = [point["clips"] for point in points]
    seconds = [point["seconds"]["median"] for point in points]
    flops = [point["flops"] for point in points]
    middle = len(points) // 2
    expected = [seconds[middle] * count / flops[middle] for count in flops]
    axes.plot(clips, seconds, "o-", color=COLORS["shared"], label="measured")
    axes.plot(clips, expected, "--", color="0.4", label="the operations, scaled to the middle point")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(clips, [str(count) for count in clips])
    axes.set_xlabel("clips of each modality")
    axes.legend(frameon=False, fontsize=8)
    _finish(axes, "seconds of inference, 2 samples")


def _finish(axes: Axes, title: str) -> None:
    axes.set_title(title, fontsize=11, loc="left")
    axes.grid(axis="y", color="0.9", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
