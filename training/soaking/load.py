"""Score very many samples, some of them bad, while a worker is killed, and then the whole run, which is restarted."""

import argparse
import math
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import psutil

from ..data.sources.files import SUFFIXES
from ..utils.figures import write_figure
from ..utils.launching import SCRIPTS

CLIPS, SIZE = 3, 3  # of the features of a sample
SHARD = 256  # samples
BAD_SHARE = 0.01
EVERY = 1.0  # seconds between two measurements of memory
FLAT = 0.1  # by which the memory of the workers may differ between the first and the last third of a run
STARTING = 0.1  # share of the time in which models are loaded and memory grows
COMPARED = 1000  # scores that are made again in this process


@dataclass
class Memory:
    """Memory of a run and of its workers.

    Attributes:
        measured: seconds since the start, bytes of the workers together, and bytes of all other processes.
        events: seconds, and what happened.
    """

    measured: list[tuple[float, int, int]] = field(default_factory=list)
    events: list[tuple[float, str]] = field(default_factory=list)
    start: float = field(default_factory=time.monotonic)

    def measure(self, running: psutil.Process) -> None:
        workers, others = 0, 0
        for process in [running, *running.children(recursive=True)]:
            try:
                taken = process.memory_info().rss
                workers, others = (workers + taken, others) if _is_worker(process) else (workers, others + taken)
            except psutil.NoSuchProcess:
                continue
        self.measured.append((time.monotonic() - self.start, workers, others))

    def note(self, event: str) -> None:
        self.events.append((time.monotonic() - self.start, event))
        print(f"{self.events[-1][0]:6.0f} s  {event}", flush=True)

    def growth(self) -> float:
        """Medians of the workers' memory in the last and the first third of the last run: their quotient, less 1."""
        begin = self.events[-1][0]
        taken = [workers for seconds, workers, _ in self.measured if seconds > begin and workers]
        taken = taken[int(len(taken) * STARTING) :]
        third = max(len(taken) // 3, 1)
        return float(np.median(taken[-third:]) / np.median(taken[:third])) - 1


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--samples", type=int, default=100_000, help="samples to score (100000), 1 %% of them bad")
    parser.add_argument("--figure", type=Path, help="PNG of the memory over time")


def run(arguments: argparse.Namespace) -> bool:
    """Score, kill, restart; print what did not hold, and return whether all did."""
    with TemporaryDirectory() as work:
        folder = Path(work)
        words = [str(_write_model(folder / "model")), "--folder", str(folder / "features")]
        words += ["--output_dir", str(folder / "out"), "--workers", "2", "--samples_per_shard", str(SHARD)]
        bad = write_samples(folder / "features" / "video", arguments.samples)
        print(f"{arguments.samples} samples written, {len(bad)} of them bad", flush=True)
        memory, shards = Memory(), math.ceil(arguments.samples / SHARD)
        with _start(words) as running:
            _watch(running, memory, folder / "out", shards // 4)
            _workers(running)[0].kill()
            memory.note("a worker is killed")
            _watch(running, memory, folder / "out", shards // 2)
            memory.note("the run is killed")
            _kill(running)
        with _start(words) as running:
            memory.note("restarted")
            _watch(running, memory, folder / "out", shards + 1)
            status = running.wait()
        memory.note(f"finished with exit status {status}")
        problems = [] if status == 1 else [f"exit status {status}, expected 1 because of the bad samples"]
        problems += find_mistakes(folder, arguments.samples, bad)
        memory.events.pop()
        if abs(memory.growth()) > FLAT:
            problems.append(f"the memory of the workers changed by {memory.growth():+.0%}")
        print(f"memory of the workers, last against first third: {memory.growth():+.1%}")
        if arguments.figure:
            draw(memory, arguments.figure)
    print("\n".join(problems) or f"each of {arguments.samples - len(bad)} has one score, each of {len(bad)} its error")
    return not problems


def write_samples(folder: Path, count: int) -> dict[str, str]:
    """Write the features of s0000000 ... and return id -> a part of its error for those that are bad."""
    folder.mkdir(parents=True)
    draw, numbers = random.Random(0), np.random.default_rng(0)  # noqa: S311 (no secrets)
    bad = {}
    for number in range(count):
        path, clips = folder / f"s{number:07}.npy", numbers.normal(size=(CLIPS, SIZE)).astype(np.float32)
        if draw.random() < BAD_SHARE:
            bad[path.stem] = _write_bad(path, clips, draw)
        else:
            np.save(path, clips)
    return bad


def _write_bad(path: Path, clips: np.ndarray, draw: random.Random) -> str:
    """Write features that cannot be scored; return a part of their error."""
    kind = draw.choice(("cut", "no array", "width", "not finite", "too large", "empty"))
    if kind == "no array":
        path.write_bytes(b"damaged")
        return "not a .npy array"
    changed = {
        "width": clips[:, :-1],
        "not finite": np.where(np.arange(CLIPS * SIZE).reshape(clips.shape) == 4, np.nan, clips),
        "too large": clips * np.float32(1e30),
        "empty": clips[:0],
    }
    np.save(path, changed.get(kind, clips))
    if kind == "cut":
        os.truncate(path, path.stat().st_size - 4)
    return {"cut": "promises shape", "empty": "neither zero"}.get(kind, path.name)


def find_mistakes(folder: Path, count: int, bad: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with the scores of a run: samples that are missing, twice, or have other results."""
    import pyarrow.parquet as pq

    from ..prediction.cluster import RESULT_FILE
    from ..prediction.files import samples_from_folder
    from ..prediction.predictor import load_members, predict_stream

    table = pq.read_table(folder / "out" / RESULT_FILE).to_pydict()
    expected = [f"s{number:07}" for number in range(count)]
    if table["sample_id"] != expected:
        yield f"{len(table['sample_id'])} rows of {len(set(table['sample_id']))} samples, expected {count} in order"
    found = dict(zip(table["sample_id"], zip(table["score"], table["error"], strict=True), strict=True))
    for sample_id, (score, error) in found.items():
        if sample_id in bad and (score is not None or bad[sample_id] not in error or sample_id not in error):
            yield f"{sample_id} has the error {error!r}, expected {bad[sample_id]!r} and the file"
        if sample_id not in bad and (error is not None or not math.isfinite(score)):
            yield f"{sample_id} has the score {score} and the error {error!r}"
    samples = samples_from_folder(folder / "features", {"video": SUFFIXES})
    good = [each for each in samples if each.sample_id not in bad]
    for one in predict_stream(load_members([str(folder / "model")]), good[:: max(len(good) // COMPARED, 1)]):
        if not math.isclose(one.scores[0], found[one.sample_id][0], abs_tol=1e-3):
            yield f"{one.sample_id} has the score {found[one.sample_id][0]}, here it is {one.scores[0]}"


def draw(memory: Memory, path: Path) -> None:
    """Draw the memory over time, and when what happened."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.6), layout="constrained")
    axes = figure.subplots()
    seconds, workers, others = np.array(memory.measured, dtype=float).T
    axes.plot(seconds, workers / 2**20, label="two workers together", color="#2f6f9f")
    axes.plot(seconds, others / 2**20, label="all other processes of the run", color="#7a858d", linewidth=1)
    axes.set(xlabel="seconds", ylabel="MiB in memory", ylim=(0, None))
    for moment, event in memory.events:
        axes.axvline(moment, color="#d9822b", linestyle="--", linewidth=1)
        place = {"xy": (moment, axes.get_ylim()[1]), "xytext": (3, -3), "textcoords": "offset points"}
        axes.annotate(event, **place, rotation=90, va="top", fontsize=8)
    figure.legend(frameon=False, fontsize=9, loc="outside upper left", ncols=2)
    axes.spines[["top", "right"]].set_visible(False)
    write_figure(figure, path)


def _write_model(folder: Path) -> Path:
    from .checkpoint_targets import write_checkpoint

    folder.mkdir()
    write_checkpoint(folder)
    return folder


def _start(words: Sequence[str]) -> subprocess.Popen:
    command = [sys.executable, str(SCRIPTS / "predict.py"), *words]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)  # noqa: S603


def _watch(running: subprocess.Popen, memory: Memory, out: Path, shards: int) -> None:
    """Measure memory until so many shards are written, or the run ends."""
    from ..prediction.cluster import PROGRESS

    process = psutil.Process(running.pid)
    while running.poll() is None:
        memory.measure(process)
        done = (out / PROGRESS / "done").glob("*.parquet")
        if sum(".pending" not in path.name for path in done) >= shards:
            return
        time.sleep(EVERY)


def _workers(running: subprocess.Popen) -> list[psutil.Process]:
    return [each for each in psutil.Process(running.pid).children(recursive=True) if _is_worker(each)]


def _is_worker(process: psutil.Process) -> bool:
    return "".join(process.cmdline()[:1]).startswith("ray::MapWorker")


def _kill(running: subprocess.Popen) -> None:
    """Kill a run, and wait until Ray has ended behind it."""
    descendants = psutil.Process(running.pid).children(recursive=True)
    running.kill()
    running.wait()
    psutil.wait_procs(descendants, timeout=60)
    for session in Path("/").glob(f"tmp/ray-*/session_*_{running.pid}"):  # which Ray leaves
        shutil.rmtree(session.parent, ignore_errors=True)
