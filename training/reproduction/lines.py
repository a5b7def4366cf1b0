"""The lines of a table, from the published numbers and the results of the runs."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..evaluation.metrics.aqa_metrics import average_metrics
from .cells import METRICS, Cell
from .plan import Run
from .published_results import (
    AVERAGE,
    COMPLETE,
    ablation_row,
    dataset_row,
    published_results,
    seed_deviations,
    task_row,
)
from .runner import FINISHED, State
from .tables import AS_CONFIGURED, Table, Variant

Masks = dict[str, dict[str, dict | None]]  # mask -> model, ridge, floor -> metrics; the complete mask first
MASKS = [column for column in published_results()["columns"] if column != AVERAGE]


@dataclass(frozen=True)
class Line:
    """
    Attributes:
        dataset: what the runs belong to.
        task: one score of one configuration; empty for the mean over all tasks of the dataset.
        variant: its name.
        cells: column by column, Spearman and MSE of each.
    """

    dataset: str
    task: str
    variant: str
    cells: list[Cell]


def table_lines(table: Table, runs: Sequence[Run], states: Sequence[State]) -> list[Line]:
    """Lines of all datasets; cells that the paper has are there even where nothing is run."""
    lines = []
    for dataset in dict.fromkeys(run.dataset for run in runs):
        own = [(run, state) for run, state in zip(runs, states, strict=True) if run.dataset == dataset]
        results = _Results([run for run, state in own if state.kind == FINISHED])
        lines += _dataset_lines(table, dataset, [run for run, _ in own], results)
    return lines


class _Results:
    """What the finished runs of a dataset left."""

    def __init__(self, finished: Sequence[Run]):
        self.tasks: dict[str, list[str]] = {}  # of each configuration
        self.masks: dict[tuple[str, str, int], Masks] = {}
        for run in finished:
            scores = read_masks(run.folder)
            names = (
                [run.configuration] if len(scores) == 1 else [f"{run.configuration}_{name}".lower() for name in scores]
            )
            self.tasks[run.configuration] = names
            for name, masks in zip(names, scores.values(), strict=True):
                self.masks[name, run.variant.name, run.repetition] = masks

    @property
    def mask_names(self) -> list[str]:
        return list(next(iter(self.masks.values()), {}))

    def mean(self, tasks: Sequence[str], variant: str, repetition: int, column: str, part: str) -> dict | None:
        """Metrics of one seed over tasks (and the incomplete masks, for the average); None where anything lacks."""
        cells = []
        for task in tasks:
            masks = self.masks.get((task, variant, repetition))
            if masks is None:
                return None
            cells += list(masks.values())[1:] if column == AVERAGE else [masks[column]]
        parts = [cell[part] for cell in cells]
        return None if None in parts else average_metrics(parts)


def read_masks(folder: str | Path) -> dict[str, Masks]:
    """Score -> mask -> model, ridge and floor -> metrics, from the `metrics.json` of a finished run."""
    masks = json.loads((Path(folder) / "metrics.json").read_text(encoding="utf-8"))["masks"]
    return {name: {mask["name"]: mask["scores"][name] for mask in masks} for name in masks[0]["scores"]}


def _dataset_lines(table: Table, dataset: str, runs: Sequence[Run], results: _Results) -> list[Line]:
    """One line a variant and task; for a dataset of the paper their mean, which is all its ablations show."""
    configurations = dict.fromkeys(run.configuration for run in runs)
    tasks = [task for name in configurations for task in results.tasks.get(name, [name])]
    has_published_masks = set(results.mask_names or MASKS) == set(MASKS)
    is_published = bool(dataset_row(dataset)) and all(map(task_row, tasks)) and has_published_masks
    columns = _columns(table, is_published, results.mask_names)
    repetitions = sorted({run.repetition for run in runs})
    lines = []
    for variant in {run.variant.name: run.variant for run in runs}.values():
        if is_published:
            published, deviations = _published(dataset, variant), seed_deviations(dataset)
            cells = _cells(columns, tasks, variant, repetitions, results, published, deviations)
            lines.append(Line(dataset, "", variant.name, cells))
        if is_published and table.is_ablation:
            continue
        for task in tasks:
            published = task_row(task) if variant is AS_CONFIGURED and has_published_masks else {}
            cells = _cells(columns, [task], variant, repetitions, results, published, {})
            lines.append(Line(dataset, task, variant.name, cells))
    return lines


def _columns(table: Table, is_published: bool, masks: Sequence[str]) -> list[str]:
    """Incomplete masks, their average, the complete mask; of those what the table has."""
    if is_published and not table.only_complete:
        return [AVERAGE, COMPLETE] if table.is_ablation else published_results()["columns"]
    complete, *incomplete = masks or [COMPLETE]
    return [complete] if table.only_complete or not incomplete else [*incomplete, AVERAGE, complete]


def _published(dataset: str, variant: Variant) -> dict[str, dict]:
    """Column -> metrics."""
    if variant is AS_CONFIGURED:
        return dataset_row(dataset)
    return {} if variant.published is None else ablation_row(*variant.published, dataset)


def _cells(
    columns: Sequence[str],
    tasks: Sequence[str],
    variant: Variant,
    repetitions: Sequence[int],
    results: _Results,
    published: Mapping[str, dict],
    deviations: Mapping[str, dict],
) -> list[Cell]:
    def of_seeds(name: str, part: str, column: str, metric: str) -> dict[int, float | None]:
        means = {seed: results.mean(tasks, name, seed, column, part) for seed in repetitions}
        return {seed: metrics[metric] for seed, metrics in means.items() if metrics is not None}

    cells = []
    for column in columns:
        for metric in METRICS:
            values = of_seeds(variant.name, "model", column, metric)
            base = {} if variant is AS_CONFIGURED else of_seeds(AS_CONFIGURED.name, "model", column, metric)
            both = [seed for seed in values if values[seed] is not None and base.get(seed) is not None]
            cells.append(
                Cell(
                    column,
                    metric,
                    published.get(column, {}).get(metric),
                    deviations.get(column, {}).get(metric),
                    tuple(values.values()),
                    tuple(of_seeds(variant.name, "ridge", column, metric).values()),
                    tuple(of_seeds(variant.name, "mean_baseline", column, metric).values()),
                    tuple(values[seed] - base[seed] for seed in both),
                )
            )
    return cells
