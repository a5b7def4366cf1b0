"""What was measured against what it must be: a table, and everything as JSON."""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Requirement:
    """
    Attributes:
        what: in words.
        value: measured.
        bound: the number it must not exceed, or with `at_least` not fall below.
        form: of both numbers.
    """

    what: str
    value: float
    bound: float
    at_least: bool = False
    form: str = "{:.3f}"

    @property
    def is_met(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def row(self) -> tuple[str, str, str, str]:
        must = ("≥ " if self.at_least else "≤ ") + self.form.format(self.bound)
        return self.what, self.form.format(self.value), must, "yes" if self.is_met else "NO"


def requirements(results: dict) -> list[Requirement]:
    """The rows of the table, from the results of `measure_all`."""
    inference, training, data = results["inference"], results["training"], results["data_path"]
    saved = 1 - inference["shared_prefix_token_ratio"]
    return [
        Requirement("inference, time over the bare language model", inference["ratio"], 1.03),
        Requirement("inference, peak memory over the bare language model", inference["memory_ratio"], 1.1),
        Requirement(
            f"inference, prefix shared ({saved:.0%} of the tokens saved), time over the bare language model",
            inference["shared_prefix_ratio"],
            1 - 0.9 * saved,
        ),
        Requirement("training step, time over the bare language model with LoRA", training["ratio"], 1.05),
        Requirement("training step, peak memory over the bare language model", training["memory_ratio"], 1.1),
        Requirement("training step, speed-up over the naive way", training["speedup_over_naive"], 1.4, True),
        Requirement(
            "training step with 30 % missing, speed-up over the naive way",
            training["speedup_over_naive_with_missing"],
            1.4,
            True,
        ),
        Requirement("two of three missing, short placeholders, speed-up", results["missing"]["short"], 1.9, True),
        Requirement("two of three missing, placeholders as many as clips", results["missing"]["match"], 1.0, True),
        Requirement("padding of grouped batches", results["padding"]["grouped"], 0.1, form="{:.1%}"),
        Requirement("padding of sorted batches", results["padding"]["sorted"], 0.1, form="{:.1%}"),
        Requirement(
            f"all subsets, time over computed tokens ({results['all_subsets']['token_ratio']:.2f} x complete)",
            results["all_subsets"]["ratio_over_tokens"],
            1.05,
        ),
        Requirement("loader, over what a training step consumes", data["loader_over_step"], 20, True, "{:.0f}"),
        Requirement("reading samples, over reading tables", data["read_speedup_over_tables"], 200, True, "{:.0f}"),
        Requirement("loader with all it does, over reading tables", data["speedup_over_tables"], 200, True, "{:.0f}"),
        Requirement("trainer outside forward and backward", results["trainer_overhead"], 0.03, form="{:.1%}"),
        Requirement(
            f"memory growth over {results['streaming']['samples']} streamed predictions, MiB",
            results["streaming"]["growth_bytes"] / 2**20,
            MEMORY_NOISE,
            form="{:.1f}",
        ),
    ]


MEMORY_NOISE = 8  # MiB that an allocator may keep or give back, whatever is scored


def write_table(results: dict) -> str:
    """Markdown: what was measured, what it must be, and whether it is."""
    rows = [("what", "measured", "must be", "met"), *(row.row() for row in requirements(results))]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|:" + "|:".join("-" * (width + 1) for width in widths) + "|")
    return "\n".join(lines)


def write_seconds(results: dict) -> str:
    """Markdown: seconds and memory of everybody."""
    lines = ["| | seconds (lowest to highest) | over bare | peak GB |", "|:--|:--|--:|--:|"]
    for action in ("inference", "training"):
        part = results[action]
        for name, seconds in part["seconds"].items():
            over = part["ratios_over_bare"].get(name, {"median": 1.0})["median"]
            spread = f"{seconds['median']:.2f} ({seconds['low']:.2f} to {seconds['high']:.2f})"
            lines.append(f"| {action}, {name} | {spread} | {over:.3f} | {part['peak_bytes'][name] / 1e9:.2f} |")
    return "\n".join(lines)


def save_json(results: dict, path: str | Path) -> None:
    """Strict JSON."""
    Path(path).write_text(json.dumps(results, indent=2, allow_nan=False) + "\n", encoding="utf-8")
