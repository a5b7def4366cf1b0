"""Summarises several training runs: mean and s.d. over seeds, and the published average over tasks."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..utils.errors import taking_fields
from ..utils.files import RECORD_FILE, read_json
from .results import EvaluationResult, ScoredRow, average_rows, read_results

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
    "average_decay",
    "max_grad_norm",
    "metric_for_best_model",
)
Rows = dict[str, ScoredRow]


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
    masks: Rows

    @property
    def rows(self) -> Rows:
        """The masks, and the published average over the incomplete ones."""
        incomplete = list(self.masks.values())[1:]
        average = {f"average of the {len(incomplete)} incomplete": average_rows(incomplete)} if incomplete else {}
        return self.masks | average


@dataclass(frozen=True)
class Summary:
    """Mean over repetitions, or over tasks.

    Attributes:
        title: the task, or `average of n tasks`.
        repetitions: seeds of each repetition; one entry without seeds for an average without repetitions.
        rows: mask or average -> mean metrics, with the s.d. over the repetitions under `sd`.
        caveats: caveats of all runs.
        note: remark for the reader.
    """

    title: str
    repetitions: list[dict[str, Any]]
    rows: Rows
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
        record = read_json(Path(folder) / RECORD_FILE)
        result = read_results(folder)
    except FileNotFoundError as error:
        raise ValueError(f"{error.filename} is not there: give folders of finished `limssr train` runs") from None
    if result.protocol != "subsets":
        raise ValueError(f"{folder} was evaluated under {result.protocol!r}; summaries are of the subsets")
    with taking_fields(Path(folder) / RECORD_FILE, "run `limssr train` again"):
        return _task_runs(Path(folder), record, result)


def _task_runs(folder: Path, record: dict, result: EvaluationResult) -> list[TaskRun]:
    arguments, dataset = record["arguments"], record["dataset"]
    options = {name: value for name, value in dataset["options"].items() if name != "folder"}
    settings = arguments["data"] | {"data_options": options} | arguments["model"]
    settings |= {name: arguments["training"].get(name) for name in TRAINING_SETTINGS}
    del settings["mask_seed"]
    task = " ".join([dataset["name"], *(f"{name}={value}" for name, value in options.items() if name != "scores")])
    seeds = {name: seed for name, seed in record["seeds"].items() if seed is not None}
    runs = []
    for score in result.score_names:
        masks = {mask.name: mask.scores[score] for mask in result.masks}
        runs.append(TaskRun(folder.resolve().name, f"{task}, {score}", seeds, settings, result.caveats, masks))
    return runs


def summarize_runs(runs: Iterable[TaskRun]) -> list[Summary]:
    """Summarise each task, and where there are several, their average.

    The average over tasks is the published one: Fisher's z for correlations, arithmetic for errors. Where all tasks
    have the same seeds it is taken seed by seed, which gives a mean and s.d.; otherwise it averages the tasks' means.

    Raises:
        ValueError: runs of one task differ in more than their seeds, or two have the same seeds.
    """
    tasks: dict[str, list[TaskRun]] = {}
    for run in runs:
        for other in tasks.setdefault(run.task, []):
            _check_repetition(other, run)
        tasks[run.task].append(run)
    summaries = [_summarize(task, repetitions) for task, repetitions in tasks.items()]
    return [*summaries, _over_tasks(list(tasks.values()))] if len(tasks) > 1 else summaries


def _check_repetition(first: TaskRun, run: TaskRun) -> None:
    both = f"{first.run} and {run.run} are runs of the same task ({run.task})"
    if first.seeds == run.seeds:
        raise ValueError(f"{both} with the same seeds {run.seeds}")
    for name, value in first.settings.items():
        if (other := run.settings.get(name)) != value:
            raise ValueError(f"{both}, but `{name}` is {value!r} and {other!r}; only seeds may differ")
    if list(run.masks) != list(first.masks):
        raise ValueError(f"{both}, but were evaluated on different masks")


def _summarize(title: str, runs: Sequence[TaskRun]) -> Summary:
    rows = _average([run.rows for run in runs], repeated=True)
    return Summary(title, [run.seeds for run in runs], rows, _caveats(runs))


def _over_tasks(tasks: Sequence[Sequence[TaskRun]]) -> Summary:
    title, caveats = f"average of {len(tasks)} tasks", _caveats([run for runs in tasks for run in runs])
    by_seeds = [{json.dumps(run.seeds, sort_keys=True): run for run in runs} for runs in tasks]
    if any(seeds.keys() != by_seeds[0].keys() for seeds in by_seeds):
        rows = _average([_summarize("", runs).rows for runs in tasks])
        note = "The tasks do not have the same seeds: average of their means, no s.d."
        return Summary(title, [{}], rows, caveats, note)
    averages = [_average([seeds[key].rows for seeds in by_seeds]) for key in by_seeds[0]]
    return Summary(title, [run.seeds for run in by_seeds[0].values()], _average(averages, repeated=True), caveats)


def _average(parts: Sequence[Rows], repeated: bool = False) -> Rows:
    """Average each row that all parts have."""
    shared = [name for name in parts[0] if all(name in rows for rows in parts)]
    return {name: average_rows([rows[name] for rows in parts], repeated) for name in shared}


def _caveats(runs: Sequence[TaskRun]) -> list[str]:
    return list(dict.fromkeys(caveat for run in runs for caveat in run.caveats))
