"""Scores of very many samples with Ray Data, on all cores or GPUs of a machine or a cluster; a restart continues.

OUT/
    predictions.parquet     one row per sample and score, once every sample is scored
    .scoring/               until then
        samples.parquet     samples to score, and what tells this scoring from others
        parts/              scores as Ray writes them
        done/               Ray's checkpoint: numbers of the samples in `parts`
        tries/              how often the shards in work were begun
"""

import hashlib
import json
import logging
import os
import platform
import secrets
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm

from ...configuration.calibration_limssr import check_level
from ...processing.recordings_limssr import Recording
from ..utils.files import atomic_write, remove_leftovers
from ..utils.locks import LOCK_FILE, lock
from .audit import digest_of_settings, digest_of_weights
from .files import ROW_SCHEMA, FileSample, prediction_rows
from .predictor import Member, load_members, predict_stream

RESULT_FILE, PROGRESS = "predictions.parquet", ".scoring"
MAX_TRIES = 3  # of a shard; Ray would start workers for ever for a sample that kills them
OBJECT_STORE_BYTES = 128 * 2**20  # for paths and scores; features never enter it


def predict_into_folder(
    models: Sequence[str],
    samples: Sequence[FileSample],
    out: str | Path,
    workers: int | None = None,
    samples_per_shard: int = 256,
    batch_size: int = 16,
    windows: bool = False,
    level: float | None = None,
    **loading,
) -> pa.Table:
    """Score samples into `OUT/predictions.parquet`, in their order.

    Args:
        models: checkpoint folders or Hub names; the score is the mean over all.
        samples: samples to score, each id once.
        out: folder that all machines see: new, empty, or left by a call that was stopped.
        workers: number of processes that score; by default one per GPU, or per core where there is no GPU.
        samples_per_shard: samples scored and written together; a stopped worker repeats no more.
        batch_size: samples per batch.
        windows: score all clips of a sample, as for `predict_stream`.
        level: probability of the intervals, as for `predict_stream`.
        **loading: further arguments of `load_members`.

    Returns:
        The samples that could not be scored, columns `sample_id` and `error`.

    Raises:
        FileExistsError: the folder holds something else.
        ModuleNotFoundError: Ray is not installed.
        OSError, ValueError: samples or models cannot be used, a sample ends its worker again and again, or another
            process is scoring into the folder.
    """
    ray, out, table = _import_ray(), Path(out).absolute(), sample_table(samples)
    progress = out / PROGRESS
    if min(samples_per_shard, workers or 1) < 1:
        raise ValueError(f"got {samples_per_shard} samples per shard and {workers} workers, expected 1 or more")
    if out.exists() and os.listdir(out) and not progress.exists() and not (out / RESULT_FILE).exists():
        raise FileExistsError(f"{out} is not empty, and what is in it are no scores; name another folder")
    loading["names"] = [_absolute(name) for name in models]
    loading["language_model"] = _absolute(loading.get("language_model"))
    progress.mkdir(parents=True, exist_ok=True)
    with lock(progress / LOCK_FILE), _connection(ray, workers):
        remove_leftovers(out)
        remove_leftovers(progress)
        gpus = int(ray.cluster_resources().get("GPU", 0))
        workers = min(workers or gpus or int(ray.cluster_resources()["CPU"]), len(table))
        # Workers reserve no CPU: their number is given, and Ray's own tasks would wait for ever for a free one.
        needs = {"num_cpus": 0, "num_gpus": 1 / -(-workers // gpus) if gpus else 0}
        digest = ray.get(ray.remote(**needs)(_digest_of_models).remote(loading))
        settings = f"{digest} at level {check_level(level)}{' in windows' if windows else ''}"
        if not is_finished(out, table, settings):
            shard = min(samples_per_shard, -(-len(table) // workers))  # at least one for each worker
            worker = {"loading": loading, "digest": digest, "tries": progress / "tries"}
            worker |= {"batch_size": batch_size, "windows": windows, "level": level}
            with _progress_bar(progress / "done", -(-len(table) // shard)):
                _score(ray, progress, shard, worker, compute=ray.data.ActorPoolStrategy(size=workers), **needs)
            merge(out)
        shutil.rmtree(progress)
    failed = pa.compute.field("error").is_valid()
    return pq.read_table(out / RESULT_FILE, columns=["sample_id", "error"], filters=failed)


def sample_table(samples: Sequence[FileSample]) -> pa.Table:
    """One row per sample: `row`, `sample_id`, `paths` (JSON, modality -> absolute path), `error`, `zeros_are_missing`,
    `recording` (JSON, with absolute path) and `without` (JSON).

    Raises:
        ValueError: there is no sample, or an id occurs twice.
    """
    counts = Counter(sample.sample_id for sample in samples)
    repeated = [sample_id for sample_id, count in counts.items() if count > 1]
    if repeated or not samples:
        raise ValueError(f"the sample {repeated[0]!r} is given twice" if repeated else "there is no sample to score")
    paths = [json.dumps({name: str(path.absolute()) for name, path in each.paths.items()}) for each in samples]
    columns = {
        "row": pa.array(range(len(samples)), pa.int64()),
        "sample_id": pa.array([sample.sample_id for sample in samples], pa.string()),
        "paths": pa.array(paths, pa.string()),
        "error": pa.array([sample.error for sample in samples], pa.string()),
        "zeros_are_missing": pa.array([sample.zeros_are_missing for sample in samples], pa.bool_()),
        "recording": pa.array([_describe_recording(sample.recording) for sample in samples], pa.string()),
        "without": pa.array([json.dumps(sample.without) for sample in samples], pa.string()),
    }
    return pa.table(columns)


def read_samples(table: pa.Table) -> Iterator[FileSample]:
    """The inverse of `sample_table`."""
    for row in table.to_pylist():
        paths = {name: Path(path) for name, path in json.loads(row["paths"]).items()}
        recording = Recording(**json.loads(row["recording"])) if row["recording"] else None
        without = tuple(json.loads(row["without"]))
        yield FileSample(row["sample_id"], paths, row["error"], row["zeros_are_missing"], recording, without)


def _describe_recording(recording: Recording | None) -> str | None:
    """JSON of a recording, which means the same in every process."""
    if recording is None:
        return None
    return json.dumps({"path": os.path.abspath(recording.path), "start": recording.start, "end": recording.end})


def is_finished(out: Path, table: pa.Table, model: str) -> bool:
    """Whether the folder holds all scores; where it holds nothing yet, write down what is to be scored.

    Args:
        out: folder of the scores.
        table: samples, see `sample_table`.
        model: digest of the models, and how they score.

    Raises:
        FileExistsError: the folder holds scores of another model or of other samples.
    """
    digest = hashlib.sha256(model.encode())
    for batch in table.to_batches(max_chunksize=1024):
        digest.update(json.dumps(batch.to_pylist()).encode())
    metadata = {b"limssr": digest.hexdigest().encode()}
    for path in (out / RESULT_FILE, out / PROGRESS / "samples.parquet"):
        if path.exists():
            if pq.read_schema(path).metadata != metadata:
                raise FileExistsError(
                    f"{out} holds scores of another model or of other samples; name another folder or remove it"
                )
            return path.name == RESULT_FILE
    with atomic_write(out / PROGRESS / "samples.parquet") as path:
        pq.write_table(table.replace_schema_metadata(metadata), path)
    return False


def merge(out: Path) -> None:
    """Check that every sample was scored exactly once, then write all scores to one file, in the samples' order.

    Raises:
        ValueError: a sample is missing or there twice; the message names it.
    """
    samples = pq.read_table(out / PROGRESS / "samples.parquet", columns=["sample_id"])
    found = pq.read_table(out / PROGRESS / "parts").sort_by("row")  # stable: scores keep their order
    rows, failed = found["row"].to_numpy(), found["error"].is_valid().to_numpy()
    times = np.bincount(rows, minlength=len(samples))
    is_failed = np.bincount(rows, failed, minlength=len(samples)) > 0
    expected = np.where(is_failed, 1, len(found["score_name"].drop_null().unique()) or 1)
    for number in np.flatnonzero(times != expected):
        raise ValueError(
            f"{out / PROGRESS}: sample {samples['sample_id'][number].as_py()!r} is there {times[number]} times, "
            f"expected {expected[number]}; remove this folder and give the same command again"
        )
    with atomic_write(out / RESULT_FILE) as path:
        pq.write_table(found.drop_columns("row").cast(ROW_SCHEMA.with_metadata(samples.schema.metadata)), path)


class Worker:
    """Scores shards, with models that are loaded once.

    Args:
        loading: arguments of `load_members`.
        digest: digest of the models that the scoring was begun with.
        batch_size: samples per batch.
        tries: folder that counts how often a shard was begun.
        windows: score all clips of a sample, as for `predict_stream`.
        level: probability of the intervals, as for `predict_stream`.

    Raises:
        ValueError: the models on this machine are others.
    """

    def __init__(
        self,
        loading: dict,
        digest: str,
        batch_size: int,
        tries: Path,
        windows: bool = False,
        level: float | None = None,
    ) -> None:
        self.members, self.tries = load_members(**loading), tries
        self.settings = {"batch_size": batch_size, "windows": windows, "level": level}
        self.score_names = list(self.members[0][0].config.score_names)
        if digest_of(self.members) != digest:
            raise ValueError(f"{platform.node()} loads another model than the first machine; copy the same to both")

    def __call__(self, shard: pa.Table) -> pa.Table:
        """Rows of `sample_table` -> rows of `ROW_SCHEMA`, each with the `row` of its sample.

        Raises:
            ValueError: the shard has ended its worker too often.
        """
        ids, tries = shard["sample_id"].to_pylist(), self.tries / str(shard["row"][0])
        with tries.open("a") as file:
            file.write(".")
        if tries.stat().st_size > MAX_TRIES:
            raise ValueError(
                f"{MAX_TRIES} workers ended while they scored {ids[0]} to {ids[-1]}; move the files away that end "
                "them, and give the same command again"
            )
        predictions = predict_stream(self.members, read_samples(shard), **self.settings)
        numbered = zip(shard["row"].to_pylist(), predictions, strict=True)
        rows = [{"row": row, **fields} for row, one in numbered for fields in prediction_rows(one, self.score_names)]
        tries.unlink()
        return pa.Table.from_pylist(rows, pa.schema([("row", pa.int64()), *ROW_SCHEMA]))


def digest_of(members: Sequence[Member]) -> str:
    """SHA-256 of all that decides a score: weights in their precision, configuration and processor of each model."""
    digests = [digest for member in members for digest in (digest_of_settings(*member), digest_of_weights(member[0]))]
    return hashlib.sha256("".join(digests).encode()).hexdigest()


def _absolute(name: str | Path | None) -> str | None:
    """A name that means the same in every process."""
    return str(Path(name).absolute()) if name is not None and Path(name).exists() else name


def _digest_of_models(loading: dict) -> str:
    return digest_of(load_members(**loading))


def _score(ray, progress: Path, shard: int, worker: dict, **resources) -> None:
    """Score the samples that are not in the checkpoint yet."""
    shutil.rmtree(worker["tries"], ignore_errors=True)
    worker["tries"].mkdir()
    checkpoint = ray.data.checkpoint.CheckpointConfig(
        "row", str(progress / "done"), delete_checkpoint_on_success=False
    )
    checkpoint.checkpoint_actor_pool_max_size, checkpoint.checkpoint_actor_memory_bytes = 1, 2**28
    samples = ray.data.read_parquet(str(progress / "samples.parquet"))
    context = samples.context
    context.checkpoint_config, context.enable_progress_bars = checkpoint, False
    context.raise_original_map_exception = True
    context.execution_no_progress_timeout_s = -1  # a shard may take long
    shards = samples.repartition(target_num_rows_per_block=shard)
    settings = {"batch_size": shard, "batch_format": "pyarrow", "fn_constructor_kwargs": worker}
    shards.map_batches(Worker, **settings, **resources).write_parquet(str(progress / "parts"))


def _import_ray():
    try:
        import ray
        import ray.data.checkpoint
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("--output_dir needs the package ray: pip install 'ray[data]'") from error
    return ray


@contextmanager
def _connection(ray, workers: int | None) -> Iterator[None]:
    """Ray on the cluster that `RAY_ADDRESS` names, or else on this machine alone; raises what a worker raises."""
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder:  # sockets need a short path
        if "RAY_ADDRESS" in os.environ:
            ray.init(**quiet)
        else:
            os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # Ray would write one to the home folder
            cpus = max(2, workers or len(os.sched_getaffinity(0)))  # Ray's own tasks need two
            local = {"object_store_memory": OBJECT_STORE_BYTES, "_temp_dir": folder, "include_dashboard": False}
            ray.init("local", num_cpus=cpus, **local, **quiet)
        try:
            yield
        except ray.exceptions.RayTaskError as error:
            raise error.cause from error
        except ray.exceptions.ActorDiedError as error:
            raise ChildProcessError(f"no worker: {str(error).strip().splitlines()[-1]}") from error
        finally:
            ray.shutdown()


@contextmanager
def _progress_bar(done: Path, shards: int) -> Iterator[None]:
    """Show how many files Ray's checkpoint has."""
    finished = threading.Event()

    def watch() -> None:
        with tqdm(total=shards, desc="scoring", unit="shard", disable=None) as bar:
            while not finished.wait(timeout=1):
                bar.update(len(list(done.glob("*[0-9].parquet"))) - bar.n)  # not *.pending.parquet

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        finished.set()
        thread.join()
