"""Runs one after another, each a process of `train.py`: finished ones stay, interrupted ones go on, failures are said.

Beside the folder of a run lie its settings (`seed_0.yaml`: `train.py` on this file alone repeats it) and all that it
printed (`seed_0.log`). The log is locked while the run goes on, so that two `reproduce.py` (one a GPU) share the work.
"""

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import yaml
from transformers.trainer import TRAINER_STATE_NAME

from .plan import Run

TRAIN_SCRIPT = Path(__file__).parents[1] / "train.py"

FINISHED, INTERRUPTED, TO_DO = "finished", "interrupted", "to do"
FAILED, ELSEWHERE, IMPOSSIBLE = "failed", "running elsewhere", "not possible"


@dataclass(frozen=True)
class State:
    """
    Attributes:
        kind: `finished` (it left `metrics.json` and `run.json`), `interrupted` (it left a checkpoint to go on from),
            `to do`, `failed`, `running elsewhere` or `not possible`.
        reason: in words, where it is one of the last three.
    """

    kind: str
    reason: str = ""

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}" if self.reason else self.kind


def find_state(run: Run) -> State:
    """How far a run is, from its folder."""
    if run.problem:
        return State(IMPOSSIBLE, run.problem)
    if all((run.folder / name).is_file() for name in ("metrics.json", "run.json")):
        return State(FINISHED)
    return State(INTERRUPTED if _complete_checkpoints(run.folder) else TO_DO)


def check_settings_of_earlier_runs(runs: Sequence[Run]) -> None:
    """
    Raises:
        ValueError: the folder of a run holds one with other settings. Another place of the same data is none.
    """
    for run in runs:
        path = _settings_file(run)
        if not path.is_file():
            continue
        earlier, wanted = _comparable(yaml.safe_load(path.read_text(encoding="utf-8"))), _comparable(run.settings)
        differing = sorted(name for name in earlier.keys() | wanted.keys() if earlier.get(name) != wanted.get(name))
        if differing:
            name = differing[0]
            raise ValueError(
                f"{run.folder} was run with `{name}` {earlier.get(name)!r}, now it is {wanted.get(name)!r}: give "
                "another --output_dir, or remove that run."
            )


def run_all(runs: Sequence[Run], report: Callable[[list[State]], None]) -> list[State]:
    """
    Runs what is not finished.

    Args:
        runs: in their order.
        report: called with the states so far after each run.

    Returns:
        The state of each run.
    """
    states = [find_state(run) for run in runs]
    for index, run in enumerate(runs):
        if states[index].kind in (TO_DO, INTERRUPTED):
            print(f"[{index + 1}/{len(runs)}] {run.name}: {_settings_file(run).with_suffix('.log')}", flush=True)
            states[index] = _run_one(run)
            print(f"[{index + 1}/{len(runs)}] {run.name}: {states[index]}", flush=True)
            report(states)
    return states


def _run_one(run: Run) -> State:
    run.folder.mkdir(parents=True, exist_ok=True)
    settings = _settings_file(run)
    with settings.with_suffix(".log").open("a+", encoding="utf-8") as log:
        try:
            fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held by the child too, should this process be killed
        except BlockingIOError:
            return State(ELSEWHERE, f"another process writes {Path(log.name).name}")
        if find_state(run).kind == FINISHED:  # elsewhere, in the meantime
            return State(FINISHED)
        _remove_incomplete_checkpoints(run.folder)
        try:
            if run.random_language_model is not None:
                run.random_language_model.write()
        except (OSError, ValueError) as error:
            return State(FAILED, f"no random language model, {error}")
        settings.write_text(yaml.safe_dump(run.settings, sort_keys=False, allow_unicode=True), encoding="utf-8")
        command = [sys.executable, str(TRAIN_SCRIPT), str(settings)]
        if _complete_checkpoints(run.folder):
            command += ["--resume_from_checkpoint", "last"]
        code = _run_process(command, log)
    state = find_state(run)
    if code == 0 and state.kind == FINISHED:
        return state
    return State(FAILED, f"exit {code}, {_last_line(Path(log.name))}")


def _run_process(command: Sequence[str], log: TextIO) -> int:
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)  # noqa: S603
    try:
        return process.wait()
    finally:  # if this process is to stop, its child stops too, and goes on from its last checkpoint some day
        process.terminate()
        process.wait()


def _settings_file(run: Run) -> Path:
    return run.folder.with_suffix(".yaml")


def _complete_checkpoints(folder: Path) -> list[Path]:
    """Those that were written to their end: the state of the trainer comes last."""
    return [path for path in folder.glob("checkpoint-*") if (path / TRAINER_STATE_NAME).is_file()]


def _remove_incomplete_checkpoints(folder: Path) -> None:
    complete = _complete_checkpoints(folder)
    for path in folder.glob("checkpoint-*"):
        if path not in complete:
            shutil.rmtree(path)


def _comparable(settings: dict) -> dict:
    options = {name: value for name, value in settings.get("data_options", {}).items() if name != "folder"}
    return settings | {"data_options": options, "output_dir": None}


def _last_line(path: Path) -> str:
    lines = [line.strip() for line in path.read_text(encoding="utf-8", errors="replace").splitlines()]
    return next((line for line in reversed(lines) if line), "")
