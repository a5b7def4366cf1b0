"""Report of the benchmark: each requirement with its bound, seconds and memory, and a picture."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..utils.figures import FigureFormat, write_figure
from ..utils.markdown import markdown_table

ACTIONS = {"inference": "inference", "training": "training step"}
CONTENDERS = {  # label and colour
    "bare": ("bare language model", "#b9c4cc"),
    "limssr": ("LIMSSR", "#2f6f9f"),
    "cached": ("LIMSSR, prompt prefix cache", "#1f9e77"),
    "naive": ("naive implementation", "#d9822b"),
}


def requirements_table(results: dict) -> str:
    """Markdown: each requirement, its bound, and whether the results of `measure_all` meet it."""
    inference, training = results["inference"], results["training"]
    missing, subsets, data = results["missing"], results["all_subsets"], results["data_path"]
    cached, saved = inference["over_bare"]["cached"], 1 - inference["tokens"]["cached"] / inference["tokens"]["limssr"]
    peaks = {action: results[action]["peak_bytes"] for action in ACTIONS}
    stream = f"memory growth over {results['streamed_samples']} streamed predictions, MiB"
    rows = [
        at_most("inference, time over bare", inference["over_bare"]["limssr"]["median"], 1.03),
        at_most("inference, peak memory over bare", peaks["inference"]["limssr"] / peaks["inference"]["bare"], 1.1),
        at_most(f"inference, prefix cache saves {saved:.0%} tokens, over bare", cached["median"], 1 - 0.9 * saved),
        at_most("training step, time over bare", training["over_bare"]["limssr"]["median"], 1.05),
        at_most("training step, peak memory over bare", peaks["training"]["limssr"] / peaks["training"]["bare"], 1.1),
        at_least("training step, speed-up over naive", training["speedup_over_naive"]["median"], 1.4),
        at_least("training, 30 % missing, speed-up over naive", missing["training_over_naive"], 1.4),
        at_least("two of three missing, one placeholder each, speed-up", missing["one_placeholder"], 1.9),
        at_least("two of three missing, a placeholder for each clip, speed-up", missing["match"], 1.0),
        at_most("padding in batches grouped by length", results["padding"]["grouped"], 0.1, "{:.1%}"),
        at_most("padding in sorted batches", results["padding"]["sorted"], 0.1, "{:.1%}"),
        at_most(
            f"all subsets, time over tokens ({subsets['token_ratio']:.2f} x complete)",
            subsets["time_ratio"]["median"] / subsets["token_ratio"],
            1.05,
        ),
        at_least("data loader, over what training consumes", data["loaded"] / data["consumed"], 20, "{:.0f}"),
        at_least("reading samples, over reading tables", data["read"] / data["from_tables"], 200, "{:.0f}"),
        at_least("data loader, over reading tables", data["loaded"] / data["from_tables"], 200, "{:.0f}"),
        at_most("trainer outside forward and backward", data["trainer_share"], 0.03, "{:.1%}"),
        at_most(stream, results["memory_growth"] / 2**20, 8, "{:.1f}"),  # an allocator may keep as much
    ]
    return markdown_table([["", "measured", "required", "met"], *rows])


def at_most(name: str, value: float, bound: float, form: str = "{:.3f}") -> list[str]:
    """The row of a value that must not exceed its bound."""
    return [name, form.format(value), "≤ " + form.format(bound), "yes" if value <= bound else "NO"]


def at_least(name: str, value: float, bound: float, form: str = "{:.3f}") -> list[str]:
    """The row of a value that must reach its bound."""
    return [name, form.format(value), "≥ " + form.format(bound), "yes" if value >= bound else "NO"]


def cost_table(results: dict) -> str:
    """Markdown: seconds and peak memory of each contender."""
    rows = [["", "seconds a batch (lowest to highest)", "over bare", "peak GB"]]
    for action, label in ACTIONS.items():
        for name, seconds in results[action]["seconds"].items():
            rows.append(
                [
                    f"{label}, {CONTENDERS[name][0]}",
                    f"{seconds['median']:.2f} ({seconds['low']:.2f} to {seconds['high']:.2f})",
                    f"{results[action]['over_bare'][name]['median']:.3f}",
                    f"{results[action]['peak_bytes'][name] / 1e9:.2f}",
                ]
            )
    return markdown_table(rows)


def title(results: dict) -> str:
    """What was measured and where."""
    layers, width = (results["language_model"][name] for name in ("num_hidden_layers", "hidden_size"))
    return f"{layers} layers of size {width}, {results['device_name']}, batch {results['batch_size']}, float32"


def save_figure(results: dict, path: str | Path, figure_format: FigureFormat | None = None) -> None:
    """Draw seconds and peak memory of each contender, and seconds over clips."""
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    seconds, memory, clips = figure.subplots(1, 3)
    _draw_bars(seconds, results, lambda cost, name: cost["seconds"][name]["median"], "seconds a batch")
    _draw_bars(memory, results, lambda cost, name: cost["peak_bytes"][name] / 1e9, "peak memory, GB")
    _draw_clips(clips, results["curve"])
    figure.legend(*seconds.get_legend_handles_labels(), loc="outside lower center", ncols=4, frameon=False)
    figure.suptitle(title(results), fontsize=12)
    write_figure(figure, path, figure_format)


def _draw_bars(axes: Axes, results: dict, value, heading: str) -> None:
    for number, (name, (label, color)) in enumerate(CONTENDERS.items()):
        bars = axes.bar(
            [action + (number - 1.5) * 0.2 for action in range(len(ACTIONS))],
            [value(results[action], name) for action in ACTIONS],
            width=0.18,
            color=color,
            label=label,
            zorder=2,
        )
        axes.bar_label(bars, fmt="%.2f", fontsize=8)
    axes.set_xticks(range(len(ACTIONS)), ACTIONS.values())
    _finish(axes, heading)


def _draw_clips(axes: Axes, points: list[dict]) -> None:
    clips = [point["clips"] for point in points]
    seconds = [point["seconds"]["median"] for point in points]
    middle = points[len(points) // 2]
    scale = middle["seconds"]["median"] / middle["flops"]
    axes.plot(clips, seconds, "o-", color=CONTENDERS["cached"][1], label="measured")
    flops = [scale * point["flops"] for point in points]
    axes.plot(clips, flops, "--", color="0.4", label="operations, scaled to the middle point")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log", base=2)
    axes.set_xticks(clips, map(str, clips))
    axes.set_xlabel("clips of each modality")
    axes.legend(frameon=False, fontsize=8)
    _finish(axes, "seconds of inference, 2 samples")


def _finish(axes: Axes, heading: str) -> None:
    axes.set_title(heading, fontsize=11, loc="left")
    axes.grid(axis="y", color="0.9", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)
