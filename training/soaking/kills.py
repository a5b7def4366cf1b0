"""Trainings that are killed between files, inside a file or at random, or asked to end, and then go on.

Each killed training must end like one that was never stopped, bit by bit. A training is a forked child of this
process, so that imports are paid once.
"""

import argparse
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from transformers.trainer import TRAINER_STATE_NAME

from ..utils.checkpoints import checkpoints_in
from ..utils.files import UNFINISHED

KILLED = 137
CHANGES = ("os.rename", "os.mkdir", "os.remove", "os.rmdir")  # audit events that change a folder, beside `open`
TINY = {  # a training of seconds
    "dataset": "synthetic",
    "missingness": "static",
    "missing_rates": 0.3,
    "validation_fraction": 0.25,
    "language_model_config": {
        "model_type": "qwen3",
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 24,
        "max_position_embeddings": 512,
    },
    "missing_length": 1,
    "max_clips": 5,
    "use_prompt": False,
    "disable_tqdm": True,
}
SETTINGS = TINY | {
    "data_options": {"samples_train": 16, "samples_test": 4},
    "max_steps": 5,  # 2 steps an epoch: the last epoch ends within it
    "use_cpu": True,
    "logging_strategy": "steps",
    "logging_steps": 1,
    "save_total_limit": 2,
    "report_to": "none",
}


@dataclass(frozen=True)
class Outcome:
    """What became of one attack.

    Attributes:
        attack: what was done, and when.
        result: `identical`, `different`, or what the training said when it did not go on.
    """

    attack: str
    result: str


class Training:
    """A small training in a folder, as often as wanted.

    Args:
        folder: folder of the settings.
        changes: settings that differ from `SETTINGS`.
    """

    def __init__(self, folder: Path, **changes):
        self.config = folder / "kills.yaml"
        self.config.write_text(json.dumps(SETTINGS | changes), encoding="utf-8")  # JSON is YAML

    def start(self, out: Path, watch: Callable[[int], None] = lambda number: None) -> int:
        """Train in a child, from the last checkpoint in `out` where there is one; return its process id.

        Args:
            out: output folder.
            watch: called in the child with the number of each change of a file in `out`, counted from 1, before it.
        """
        words = [str(self.config), "--output_dir", str(out)]
        words += ["--resume_from_checkpoint", "last"] if checkpoints_in(out) else []
        out.with_suffix(".said").unlink(missing_ok=True)
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            _train(words, out, watch)
        return child

    def finish(self, out: Path) -> str:
        """Train to the end and return the digest of the result, or what was said instead."""
        status = os.waitstatus_to_exitcode(os.waitpid(self.start(out), 0)[1])
        said = out.with_suffix(".said")
        if status == 0:
            return digest_of_run(out)
        return said.read_text(encoding="utf-8") if said.is_file() else f"status {status}"

    def count_changes(self, out: Path) -> int:
        """Train without an attack; return how often a file or folder is changed."""
        read_end, write_end = os.pipe()
        child = self.start(out, lambda number: os.write(write_end, b"."))
        os.close(write_end)
        with os.fdopen(read_end, "rb") as pipe:
            count = len(pipe.read())
        os.waitpid(child, 0)
        return count


def _train(words: list[str], out: Path, watch: Callable[[int], None]) -> None:
    """Train in this process, which ends with the training."""
    count, place, status = 0, str(out), 1

    def hook(event: str, details: tuple) -> None:
        nonlocal count
        writes = event == "open" and isinstance(details[2], int) and details[2] & (os.O_WRONLY | os.O_RDWR)
        if (writes or event in CHANGES) and str(details[0]).startswith(place):
            count += 1
            watch(count)

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(1, 2)
    try:
        sys.addaudithook(hook)
        _train_here(words)
        status = 0
    except BaseException as error:
        out.with_suffix(".said").write_text(f"{type(error).__name__}: {error}", encoding="utf-8")
    finally:
        os._exit(status)


def _train_here(words: list[str]) -> None:
    from ..arguments import parse_training_arguments
    from ..fitting.run import prepare_run, run_folder
    from ..fitting.stopping import train_until_signal

    arguments = parse_training_arguments(words)
    with run_folder(arguments[-1]):
        run = prepare_run(*arguments)
        train_until_signal(run.trainer, run.checkpoint)
        run.trainer.save_model(_internal_call=True)


def digest_of_run(out: Path) -> str:
    """SHA-256 of the final model, of the last checkpoint's optimizer and random state, and of the history."""
    last = checkpoints_in(out)[0]
    files = [out / "model.safetensors", last / "model.safetensors", last / "optimizer.safetensors"]
    digest = hashlib.sha256(b"".join(file.read_bytes() for file in [*files, last / "rng_state.json"]))
    state = json.loads((last / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    clocks = ("runtime", "per_second")
    history = [{key: entry[key] for key in entry if not key.endswith(clocks)} for entry in state["log_history"]]
    kept = [folder.name for folder in checkpoints_in(out)]
    digest.update(json.dumps([history, state["best_global_step"], kept], sort_keys=True).encode())
    return digest.hexdigest()


def attack_trainings(folder: Path, count: int, seed: int = 0) -> Iterator[Outcome]:
    """Stop a training `count` times, each time anew, and let it go on.

    Three of six attacks are kills before a change of a file, evenly over the training, one of them with the file in
    work cut in half; two are SIGKILL at a random time; one is SIGTERM before a change.
    """
    training = Training(folder)
    with redirect_stdout(io.StringIO()):  # imports what each child would have to import
        _train_here([str(training.config), "--output_dir", str(folder / "first")])
    draw = random.Random(seed)  # noqa: S311 (moments, no secrets)
    start = time.monotonic()
    changes = training.count_changes(folder / "counted")
    seconds = time.monotonic() - start
    expected = digest_of_run(folder / "counted")
    for number in range(count):
        out, kind = folder / "attacked", ("between", "kill", "between", "terminate", "inside", "kill")[number % 6]
        point = 1 + number * changes // count
        if kind == "kill":
            moment = draw.uniform(0, seconds)
            child, attack = training.start(out), f"SIGKILL after {moment:.2f} s"
            time.sleep(moment)
            os.kill(child, signal.SIGKILL)
        else:
            action = _terminate if kind == "terminate" else _end
            child = training.start(out, lambda found, action=action, point=point: action() if found == point else None)
            attack = f"{kind}, change {point} of {changes}"
        os.waitpid(child, 0)
        if kind == "inside":
            cut_file_in_work(out)
        found = training.finish(out)
        result = "identical" if found == expected else "different" if len(found) == len(expected) else found
        shutil.rmtree(out)
        yield Outcome(attack, result)


def _end() -> None:
    os._exit(KILLED)


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def cut_file_in_work(out: Path) -> None:
    """Cut the file that was written last, and is not in its place yet, in half, as a power failure can."""
    files = [path for path in out.rglob(f"{UNFINISHED}*/**/*") if path.is_file()]
    if files:
        last = max(files, key=lambda path: path.stat().st_mtime_ns)
        os.truncate(last, last.stat().st_size // 2)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--kills", type=int, default=200, help="trainings to stop (200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments (0)")


def run(arguments: argparse.Namespace) -> bool:
    """Print how the attacked trainings ended; return whether all ended like one that was never stopped."""
    identical = 0
    with TemporaryDirectory() as folder:
        for outcome in attack_trainings(Path(folder), arguments.kills, arguments.seed):
            print(f"{outcome.attack}: {outcome.result}", flush=True)
            identical += outcome.result == "identical"
    print(f"{arguments.kills} trainings stopped: {identical} ended bit-identical")
    return identical == arguments.kills
