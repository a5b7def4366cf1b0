"""The cells of a table: what was published, what the runs give, and how far apart the two are."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from ..metrics.aqa_metrics import average_metrics
from ..published_results import (
    AVERAGE,
    COMPLETE,
    ablation_row,
    dataset_row,
    published_results,
    seed_deviations,
    task_row,
)
from .plan import Run
from .runner import FINISHED, State
from .tables import AS_CONFIGURED, Table, Variant

METRICS = {"spearman": 3, "mse": 2}  # metric -> decimals of the paper

REPRODUCED, WITHIN_TWO, BETTER, WORSE = "reproduced", "within two s.d.", "outside, better", "outside, worse"
NO_DEVIATION, UNDEFINED, NOT_RUN, NOT_PUBLISHED = "no s.d.", "undefined", "not run", ""

MEANING = """
*Here* is the mean over the seeds, ± their s.d. (n - 1); checkpoints were selected on validation, unless the marks
above say otherwise. *Published* is the paper's; its checkpoints were selected on the test split. *Against as
configured* is the difference from the same configuration without the change, mean ± s.d. over the seeds that both
have.

The distance of here and published, less half a unit of the last published digit, is measured in the s.d. over seeds:
the paper's (six seeds) for averages and complete sets of a dataset, the nearest known for its ablations too; for all
other cells that of the seeds here, of which there must be two.

- **reproduced**: no further than one s.d.
- **within two s.d.**: no further than two.
- **outside, better** or **outside, worse**: further.
- **no s.d.**: run with one seed only, and no s.d. is published: no judgement.
- **undefined**: the metric does not exist for a run (a correlation of constant predictions).
- **not run**: there is no seed of which all runs of the cell are finished; the list of runs says why.
"""


@dataclass(frozen=True)
class Cell:
    """
    Attributes:
        column: a mask, or `average`.
        metric: `spearman` or `mse` (squared judges' units).
        published: of the paper; None where it has none.
        published_deviation: the paper's s.d. over its seeds; None where it gives none.
        values: one a seed, None where undefined; empty where not run.
        differences: from the configuration as it is, one for each seed that both have.
    """

    column: str
    metric: str
    published: float | None
    published_deviation: float | None
    values: tuple[float | None, ...]
    differences: tuple[float, ...] = ()

    @property
    def here(self) -> float | None:
        return mean(self.values) if self.values and None not in self.values else None

    @property
    def deviation(self) -> float | None:
        return stdev(self.values) if self.here is not None and len(self.values) > 1 else None

    @property
    def mark(self) -> str:
        """See `MEANING`."""
        if not self.values:
            return NOT_RUN
        if self.here is None:
            return UNDEFINED
        if self.published is None:
            return NOT_PUBLISHED
        deviation = self.deviation if self.published_deviation is None else self.published_deviation
        if deviation is None:
            return NO_DEVIATION
        distance = abs(self.here - self.published) - 0.5 * 10 ** -METRICS[self.metric]
        if distance <= deviation:
            return REPRODUCED
        if distance <= 2 * deviation:
            return WITHIN_TWO
        return BETTER if (self.here > self.published) == (self.metric == "spearman") else WORSE

    def to_dict(self) -> dict:
        computed = {"here": self.here, "deviation": self.deviation, "mark": self.mark or "not published"}
        return vars(self) | computed


@dataclass(frozen=True)
class Line:
    """A line of a table: a dataset or one task of it, under a variant.

    Attributes:
        dataset: as the user named it.
        task: one score of one configuration; empty for the mean over all tasks of the dataset.
        variant: its name.
        cells: in the order of the columns, Spearman before MSE.
    """

    dataset: str
    task: str
    variant: str
    cells: list[Cell]


def read_masks(folder: str | Path) -> dict[str, dict[str, dict]]:
    """Score -> mask -> metrics of the model, from the `metrics.json` of a finished run; the complete mask first."""
    masks = json.loads((Path(folder) / "metrics.json").read_text(encoding="utf-8"))["masks"]
    return {name: {mask["name"]: mask["scores"][name]["model"] for mask in masks} for name in masks[0]["scores"]}


def table_lines(table: Table, runs: Sequence[Run], states: Sequence[State]) -> list[Line]:
    """The lines of a table, dataset by dataset; cells that the paper has are there even where nothing is run."""
    lines = []
    for dataset in dict.fromkeys(run.dataset for run in runs):
        finished = [
            run for run, state in zip(runs, states, strict=True) if run.dataset == dataset and state.kind == FINISHED
        ]
        of_dataset = [run for run in runs if run.dataset == dataset]
        lines += _dataset_lines(table, dataset, of_dataset, finished)
    return lines


def _dataset_lines(table: Table, dataset: str, runs: Sequence[Run], finished: Sequence[Run]) -> list[Line]:
    task_names = {run.configuration: [run.configuration] for run in runs}
    results = {}  # (task, variant, repetition) -> mask -> metrics
    for run in finished:
        tasks = _tasks(run)
        task_names[run.configuration] = list(tasks)
        results |= {(task, run.variant.name, run.repetition): masks for task, masks in tasks.items()}
    tasks = [task for names in task_names.values() for task in names]
    is_published = bool(dataset_row(dataset)) and all(map(task_row, tasks))
    columns = _columns(table, is_published, next(iter(results.values()), {}))
    repetitions = sorted({run.repetition for run in runs})
    lines = []
    for variant in {run.variant.name: run.variant for run in runs}.values():
        if is_published:
            cells = _cells(columns, tasks, variant, repetitions, results, *_published(dataset, variant))
            lines.append(Line(dataset, "", variant.name, cells))
        if not (is_published and table.is_ablation):
            for task in tasks:
                published = task_row(task) if variant is AS_CONFIGURED else {}
                cells = _cells(columns, [task], variant, repetitions, results, published, {})
                lines.append(Line(dataset, task, variant.name, cells))
    return lines


def _tasks(run: Run) -> dict[str, dict[str, dict]]:
    """Task -> mask -> metrics. A configuration with one score is one task of its own name."""
    scores = read_masks(run.folder)
    names = [run.configuration] if len(scores) == 1 else [f"{run.configuration}_{name.lower()}" for name in scores]
    return dict(zip(names, scores.values(), strict=True))


def _columns(table: Table, is_published: bool, masks: Mapping[str, dict]) -> list[str]:
    """Incomplete masks, their average, the complete one; of those what the table has."""
    if is_published:
        return (
            [COMPLETE] if table.only_complete else [AVERAGE, COMPLETE] if table.is_ablation else _published_columns()
        )
    complete, *incomplete = masks or [COMPLETE]
    return [complete] if table.only_complete or not incomplete else [*incomplete, AVERAGE, complete]


def _published_columns() -> list[str]:
    return published_results()["columns"]


def _published(dataset: str, variant: Variant) -> tuple[dict, dict]:
    """Column -> metrics, and their s.d."""
    if variant is AS_CONFIGURED:
        return dataset_row(dataset), seed_deviations(dataset)
    row = {} if variant.published is None else ablation_row(*variant.published, dataset)
    return row, seed_deviations(dataset)


def _cells(
    columns: Sequence[str],
    tasks: Sequence[str],
    variant: Variant,
    repetitions: Sequence[int],
    results: Mapping,
    published: Mapping[str, dict],
    deviations: Mapping[str, dict],
) -> list[Cell]:
    cells = []
    for column in columns:
        own, base = (
            {repetition: _mean(results, tasks, name, repetition, column) for repetition in repetitions}
            for name in (variant.name, AS_CONFIGURED.name)
        )
        for metric in METRICS:
            values = {repetition: means[metric] for repetition, means in own.items() if means is not None}
            differences = [
                value - base[repetition][metric]
                for repetition, value in values.items()
                if variant is not AS_CONFIGURED
                and base[repetition] is not None
                and value is not None
                and base[repetition][metric] is not None
            ]
            cells.append(
                Cell(
                    column,
                    metric,
                    published.get(column, {}).get(metric),
                    deviations.get(column, {}).get(metric),
                    tuple(values.values()),
                    tuple(differences),
                )
            )
    return cells


def _mean(results: Mapping, tasks: Sequence[str], variant: str, repetition: int, column: str) -> dict | None:
    """Metrics over tasks (and the incomplete masks, for the average); None where a task is not run."""
    parts = [results.get((task, variant, repetition)) for task in tasks]
    if None in parts:
        return None
    if column == AVERAGE:
        return average_metrics([cell for masks in parts for cell in list(masks.values())[1:]])
    return average_metrics([masks[column] for masks in parts])
