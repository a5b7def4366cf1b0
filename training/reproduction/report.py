"""A table of the paper and what the runs give, side by side, as Markdown and JSON."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev

from ..utils.files import without_paths
from ..utils.markdown import markdown_table
from .cells import MEANING, METRICS, NOT_RUN, UNDEFINED, Cell, mean_of
from .lines import Line, table_lines
from .plan import Run
from .published_results import published_results
from .runner import FINISHED, State
from .tables import AS_CONFIGURED, Table

HEADINGS = {"spearman": "Spearman", "mse": "MSE"}


def write_report(
    path: str | Path, table: Table, runs: Sequence[Run], states: Sequence[State], changes: Mapping[str, object]
) -> None:
    """
    Writes `<path>.md` and `<path>.json`.

    Args:
        path: without suffix.
        table: what is reproduced.
        runs: of the table.
        states: how far each is.
        changes: settings that differ from the configurations in all runs, for the head of the report.
    """
    lines, caveats = table_lines(table, runs, states), _caveats(runs, states)
    document = {
        "title": table.title,
        "table": table.number,
        "source": published_results()["source"],
        "changes": dict(changes),
        "caveats": caveats,
        "meaning": MEANING.strip(),
        "lines": [
            {"dataset": line.dataset, "task": line.task or None, "variant": line.variant}
            | {"cells": [cell.to_dict() for cell in line.cells]}
            for line in lines
        ],
        "runs": [
            {"configuration": run.configuration, "variant": run.variant.name, "seed": run.seed}
            | {"state": state.kind, "reason": state.reason or None}
            for run, state in zip(runs, states, strict=True)
        ],
    }
    text = json.dumps(without_paths(document), indent=2, allow_nan=False, ensure_ascii=False)
    Path(path).with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    Path(path).with_suffix(".md").write_text(markdown(table, lines, runs, states, changes, caveats), encoding="utf-8")


def markdown(
    table: Table,
    lines: Sequence[Line],
    runs: Sequence[Run],
    states: Sequence[State],
    changes: Mapping[str, object],
    caveats: Sequence[str],
) -> str:
    """The report as a person reads it."""
    parts = [f"# {table.title}", f"{table.number} of {published_results()['source']}, and the runs here."]
    if changes:
        changed = ", ".join(f"`{name}={value}`" for name, value in without_paths(dict(changes)).items())
        parts.append(f"**Other than published, in all runs:** {changed}.")
    if caveats:
        parts.append("**Caveats:** " + "; ".join(caveats) + ".")
    for dataset in dict.fromkeys(line.dataset for line in lines):
        for metric in METRICS:
            own = [line for line in lines if line.dataset == dataset]
            parts += [f"## {dataset}: {HEADINGS[metric]}", _dataset_table(own, metric)]
    parts += ["## What the words mean", MEANING.strip(), "## Runs", _run_list(runs, states)]
    return "\n\n".join(parts) + "\n"


def _dataset_table(lines: Sequence[Line], metric: str) -> str:
    rows = [["line", "", *(cell.column for cell in lines[0].cells if cell.metric == metric)]]
    for line in lines:
        name = line.task or "mean over the tasks"
        heading = name if line.variant == AS_CONFIGURED.name else f"{name}, {line.variant.replace('_', ' ')}"
        for what, values in _rows([cell for cell in line.cells if cell.metric == metric]):
            rows.append([heading, what, *values])
            heading = ""
    return markdown_table(rows)


def _rows(cells: Sequence[Cell]) -> list[tuple[str, list[str]]]:
    """Name and values of the rows of a line."""
    seeds = max((len(cell.values) for cell in cells), default=0)
    here = f"here, {seeds} {'seed' if seeds == 1 else 'seeds'}" if seeds else "here"
    rows = [
        ("published", [_number(cell.published, cell.metric) for cell in cells]),
        (here, [_here(cell) for cell in cells]),
        ("", [cell.mark if seeds and cell.published is not None else "" for cell in cells]),
        ("against as configured", [_difference(cell) for cell in cells]),
    ]
    if not any(cell.differences for cell in cells):  # a variant is scored on the same rows
        rows.append(("ridge", [_number(mean_of(cell.ridge), cell.metric) for cell in cells]))
        rows.append(("training mean", [_number(mean_of(cell.mean_baseline), cell.metric) for cell in cells]))
    return [(name, values) for name, values in rows if name == here or any(value not in ("", "-") for value in values)]


def _here(cell: Cell) -> str:
    if cell.here is None:
        return UNDEFINED if cell.values else NOT_RUN
    spread = "" if cell.deviation is None else f" ± {_number(cell.deviation, cell.metric)}"
    return _number(cell.here, cell.metric) + spread + ("" if cell.beats_mean else "*")


def _difference(cell: Cell) -> str:
    if not cell.differences:
        return "-"
    spread = f" ± {_number(stdev(cell.differences), cell.metric)}" if len(cell.differences) > 1 else ""
    return f"{mean(cell.differences):+.{METRICS[cell.metric]}f}{spread}"


def _number(value: float | None, metric: str) -> str:
    return "-" if value is None else f"{value:.{METRICS[metric]}f}"


def _run_list(runs: Sequence[Run], states: Sequence[State]) -> str:
    counts = [f"{sum(state.kind == FINISHED for state in states)} of {len(runs)} finished."]
    return "\n".join(counts + [""] + [f"- {run.name}: {state}" for run, state in zip(runs, states, strict=True)])


def _caveats(runs: Sequence[Run], states: Sequence[State]) -> list[str]:
    """What keeps the results of the runs from being honest measures, each said once."""
    found = {}
    for run, state in zip(runs, states, strict=True):
        if state.kind == FINISHED:
            metrics = json.loads((run.folder / "metrics.json").read_text(encoding="utf-8"))
            found |= dict.fromkeys(metrics.get("caveats", []))
    return list(found)
