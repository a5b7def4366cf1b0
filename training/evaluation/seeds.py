"""Several runs as one result: mean and s.d. over seeds, and the average over tasks as published."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ..utils.files import RECORD_FILE
from .results import PARTS, Cell, average_cells, summarize_cells

TRAINING_SETTINGS = (  # of the training arguments, those that shape the model
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "num_train_epochs",
    "max_steps",
    "learning_rate",
    "head_learning_rate",
    "lr_scheduler_type",
    "lr_scheduler_kwargs",
    "warmup_epochs",
    "warmup_steps",
    "optim",
    "weight_decay",
    "decay_all",
    "max_grad_norm",
    "metric_for_best_model",
)


class RunsDoNotFitError(ValueError):
    """Runs that are no repetitions of each other; the message says what differs."""


@dataclass(frozen=True)
class TaskRun:
    """One score of one run.

    Attributes:
        run: name of the run.
        task: what was to be learned: dataset, its options and the score.
        seeds: what drew the repetition, such as `{"training": 0, "masks": 0}`.
        settings: everything else that shaped the model.
        caveats: what keeps the result from being an honest measure.
        cells: mask -> its `Cell`, the complete mask first.
    """

    run: str
    task: str
    seeds: dict[str, Any]
    settings: dict[str, Any]
    caveats: list[str]
    cells: dict[str, Cell]

    @property
    def rows(self) -> dict[str, Cell]:
        """`cells`, and where there are several incomplete masks the average over them, as published."""
        incomplete = list(self.cells.values())[1:]
        if not incomplete:
            return self.cells
        return {**self.cells, f"average of the {len(incomplete)} incomplete": average_cells(incomplete)}


@dataclass(frozen=True)
class Summary:
    """
    Attributes:
        title: the task, or `average of n tasks`.
        repetitions: for each of them the seeds; one entry without seeds where an average has no repetitions.
        rows: mask or average -> `Cell` of means, with the s.d. over the repetitions under `sd`.
        caveats: of all runs.
        note: what a reader has to know beside.
    """

    title: str
    repetitions: list[dict[str, Any]]
    rows: dict[str, Cell]
    caveats: list[str]
    note: str = ""

    def to_dict(self) -> dict:
        return {**asdict(self), "rows": {name: cell.to_dict() for name, cell in self.rows.items()}}


def read_task_runs(folder: str | Path) -> list[TaskRun]:
    """Each score of a finished training run.

    Raises:
        RunsDoNotFitError: `folder` holds no run, or one that was not evaluated on the subsets.
    """
    record, metrics = (_read(Path(folder) / name) for name in (RECORD_FILE, "metrics.json"))
    if metrics.get("protocol", "subsets") != "subsets":
        raise RunsDoNotFitError(f"{folder} was evaluated under {metrics['protocol']!r}; summaries are of the subsets")
    arguments = record["arguments"]
    options = {name: value for name, value in record["dataset"]["options"].items() if name != "folder"}
    settings = {
        **{name: value for name, value in arguments["data"].items() if name != "mask_seed"},
        "data_options": options,
        **arguments["model"],
        **{name: arguments["training"].get(name) for name in TRAINING_SETTINGS},
    }
    shown = [f"{name}={value}" for name, value in options.items() if name != "scores"]
    task = " ".join([record["dataset"]["name"], *shown])
    return [
        TaskRun(
            run=Path(folder).resolve().name,
            task=f"{task}, {score}",
            seeds={name: seed for name, seed in record["seeds"].items() if seed is not None},
            settings=settings,
            caveats=metrics.get("caveats", []),
            cells={
                mask["name"]: Cell(**{part: mask["scores"][score][part] for part in PARTS})
                for mask in metrics["masks"]
            },
        )
        for score in metrics["score_names"]
    ]


def summarize_runs(runs: Sequence[TaskRun]) -> list[Summary]:
    """A summary of each task, and where there are several tasks their average last.

    The average over tasks is the published one: Fisher's z for correlations, arithmetic for errors. Where all tasks
    have the same seeds it is taken for each seed, and shown as mean and s.d. of these; else it is the average of the
    tasks' means, without s.d.

    Raises:
        RunsDoNotFitError: runs of one task differ in more than their seeds, or two have the same.
    """
    tasks: dict[str, list[TaskRun]] = {}
    for run in runs:
        tasks.setdefault(run.task, []).append(run)
    for repetitions in tasks.values():
        _check_repetitions(repetitions)
    summaries = [_summarize(task, repetitions) for task, repetitions in tasks.items()]
    return [*summaries, _over_tasks(list(tasks.values()))] if len(tasks) > 1 else summaries


def _check_repetitions(runs: Sequence[TaskRun]) -> None:
    first = runs[0]
    for number, run in enumerate(runs):
        for other in runs[:number]:
            if other.seeds == run.seeds:
                raise RunsDoNotFitError(
                    f"{other.run} and {run.run} are runs of the same task ({run.task}) with the same seeds {run.seeds}"
                )
        for name in first.settings:
            if run.settings.get(name) != first.settings[name]:
                values = f"`{name}` is {first.settings[name]!r} and {run.settings.get(name)!r}; only seeds may differ"
                raise RunsDoNotFitError(
                    f"{first.run} and {run.run} are runs of the same task ({run.task}), but {values}"
                )
        if list(run.cells) != list(first.cells):
            raise RunsDoNotFitError(f"{first.run} and {run.run} were evaluated on other masks")


def _summarize(title: str, runs: Sequence[TaskRun]) -> Summary:
    rows = {name: summarize_cells([run.rows[name] for run in runs]) for name in runs[0].rows}
    return Summary(title, [run.seeds for run in runs], rows, _caveats(runs))


def _over_tasks(tasks: Sequence[Sequence[TaskRun]]) -> Summary:
    title, caveats = f"average of {len(tasks)} tasks", _caveats([run for runs in tasks for run in runs])
    shared = [name for name in tasks[0][0].rows if all(name in run.rows for runs in tasks for run in runs)]
    by_seeds = [{json.dumps(run.seeds, sort_keys=True): run for run in runs} for runs in tasks]
    if any(seeds.keys() != by_seeds[0].keys() for seeds in by_seeds):
        means = [_summarize("", runs).rows for runs in tasks]
        rows = {name: average_cells([mean[name] for mean in means]) for name in shared}
        return Summary(
            title, [{}], rows, caveats, "The tasks do not have the same seeds: average of their means, no s.d."
        )
    repetitions = [[seeds[key] for seeds in by_seeds] for key in by_seeds[0]]
    of_seeds = [{name: average_cells([run.rows[name] for run in runs]) for name in shared} for runs in repetitions]
    rows = {name: summarize_cells([averages[name] for averages in of_seeds]) for name in shared}
    return Summary(title, [runs[0].seeds for runs in repetitions], rows, caveats)


def _caveats(runs: Sequence[TaskRun]) -> list[str]:
    return list(dict.fromkeys(caveat for run in runs for caveat in run.caveats))


def _read(path: Path) -> Mapping[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunsDoNotFitError(f"{path} is not there: give folders that train.py wrote to the end") from None
