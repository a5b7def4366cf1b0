"""Summarises several training runs: mean and s.d. over seeds, and the published average over tasks."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.files import RECORD_FILE
from .results import ScoredRow, average_repetitions, average_rows, read_results

TRAINING_SETTINGS = (  # training arguments that shape the model
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


@dataclass(frozen=True)
class TaskRun:
    """One score of one run.

    Attributes:
        run: name of the run.
        task: dataset, its options and the score.
        seeds: seeds of the repetition, such as `{"training": 0, "masks": 0}`.
        settings: everything else that shaped the model.
        caveats: reasons why the result is no fair measure.
        masks: mask -> metrics, the complete mask first.
    """

    run: str
    task: str
    seeds: dict[str, Any]
    settings: dict[str, Any]
    caveats: Sequence[str]
    masks: dict[str, ScoredRow]

    @property
    def rows(self) -> dict[str, ScoredRow]:
        """The masks, and the published average over the incomplete ones."""
        incomplete = list(self.masks.values())[1:]
        average = {f"average of the {len(incomplete)} incomplete": average_rows(incomplete)} if incomplete else {}
        return self.masks | average


@dataclass(frozen=True)
class Summary:
    """
    Attributes:
        title: the task, or `average of n tasks`.
        repetitions: seeds of each repetition; one entry without seeds for an average without repetitions.
        rows: mask or average -> mean metrics, with the s.d. over the repetitions under `sd`.
        caveats: caveats of all runs.
        note: remark for the reader.
    """

    title: str
    repetitions: list[dict[str, Any]]
    rows: dict[str, ScoredRow]
    caveats: list[str]
    note: str = ""

    def to_dict(self) -> dict:
        return vars(self) | {"rows": {name: row.to_dict() for name, row in self.rows.items()}}


def read_task_runs(folder: str | Path) -> list[TaskRun]:
    """Read each score of a finished training run.

    Raises:
        ValueError: `folder` holds no finished run, or one that was not evaluated on the subsets.
    """
    try:
        record = json.loads((Path(folder) / RECORD_FILE).read_text(encoding="utf-8"))
        result = read_results(folder)
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename} is not there: give folders of finished train.py runs") from None
    if result.protocol != "subsets":
        raise ValueError(f"{folder} was evaluated under {result.protocol!r}; summaries are of the subsets")
    arguments = record["arguments"]
    options = {name: value for name, value in record["dataset"]["options"].items() if name != "folder"}
    settings = {
        **{name: value for name, value in arguments["data"].items() if name != "mask_seed"},
        "data_options": options,
        **arguments["model"],
        **{name: arguments["training"].get(name) for name in TRAINING_SETTINGS},
    }
    named = [f"{name}={value}" for name, value in options.items() if name != "scores"]
    task = " ".join([record["dataset"]["name"], *named])
    run = Path(folder).resolve().name
    seeds = {name: seed for name, seed in record["seeds"].items() if seed is not None}
    masks = {score: {mask.name: mask.scores[score] for mask in result.masks} for score in result.score_names}
    return [TaskRun(run, f"{task}, {score}", seeds, settings, result.caveats, masks[score]) for score in masks]


def summarize_runs(runs: Sequence[TaskRun]) -> list[Summary]:
    """Summarise each task, and where there are several, their average.

    The average over tasks is the published one: Fisher's z for correlations, arithmetic for errors. Where all tasks
    have the same seeds it is taken seed by seed, which gives a mean and s.d.; otherwise it averages the tasks' means.

    Raises:
        ValueError: runs of one task differ in more than their seeds, or two have the same seeds.
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
                raise ValueError(
                    f"{other.run} and {run.run} are runs of the same task ({run.task}) with the same seeds {run.seeds}"
                )
        for name, value in first.settings.items():
            if run.settings.get(name) != value:
                raise ValueError(
                    f"{first.run} and {run.run} are runs of the same task ({run.task}), but `{name}` is {value!r} and "
                    f"{run.settings.get(name)!r}; only seeds may differ"
                )
        if list(run.masks) != list(first.masks):
            raise ValueError(f"{first.run} and {run.run} were evaluated on different masks")


def _summarize(title: str, runs: Sequence[TaskRun]) -> Summary:
    rows = {name: average_repetitions([run.rows[name] for run in runs]) for name in runs[0].rows}
    return Summary(title, [run.seeds for run in runs], rows, _caveats(runs))


def _over_tasks(tasks: Sequence[Sequence[TaskRun]]) -> Summary:
    title, caveats = f"average of {len(tasks)} tasks", _caveats([run for runs in tasks for run in runs])
    shared = [name for name in tasks[0][0].rows if all(name in run.rows for runs in tasks for run in runs)]
    by_seeds = [{json.dumps(run.seeds, sort_keys=True): run for run in runs} for runs in tasks]
    if any(seeds.keys() != by_seeds[0].keys() for seeds in by_seeds):
        means = [_summarize("", runs).rows for runs in tasks]
        rows = {name: average_rows([mean[name] for mean in means]) for name in shared}
        note = "The tasks do not have the same seeds: average of their means, no s.d."
        return Summary(title, [{}], rows, caveats, note)
    by_repetition = [[seeds[key].rows for seeds in by_seeds] for key in by_seeds[0]]
    averages = [
        {name: average_rows([rows[name] for rows in of_tasks]) for name in shared} for of_tasks in by_repetition
    ]
    rows = {name: average_repetitions([average[name] for average in averages]) for name in shared}
    return Summary(title, [run.seeds for run in by_seeds[0].values()], rows, caveats)


def _caveats(runs: Sequence[TaskRun]) -> list[str]:
    return list(dict.fromkeys(caveat for run in runs for caveat in run.caveats))
