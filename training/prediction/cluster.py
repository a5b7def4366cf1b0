"""Scores of very many samples, in shards that several processes write and a restart does not write again.

OUT/
    predictions.parquet     one row a sample and score, once every shard is there
    .scoring/               only until then
        samples.parquet     what is to be scored; a row group is a shard
        shard-00000.parquet
"""

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from tqdm.auto import tqdm

from ..utils.files import atomic_write
from ..utils.launching import join_processes
from .files import FileSample
from .predictor import Member, predict_stream
from .writers import STREAM_SCHEMA, stream_rows

RESULT_FILE, PROGRESS = "predictions.parquet", ".scoring"
PLAN_FILE = f"{PROGRESS}/samples.parquet"
METADATA = b"limssr"


@dataclass(frozen=True)
class Plan:
    """What tells one scoring from another; it lies in the metadata of every Parquet file.

    Attributes:
        samples: digest of the samples, their files and their division into shards.
        model: digest of model and processor.
    """

    samples: str
    model: str

    @classmethod
    def read(cls, path: Path) -> "Plan":
        return cls(**json.loads(pq.read_schema(path).metadata[METADATA]))

    def metadata(self) -> dict[bytes, bytes]:
        return {METADATA: json.dumps(asdict(self)).encode()}


@dataclass
class ShardedPrediction:
    """
    Args:
        out: the folder to write.
        members: models in eval mode, each with its processor, whose mean is the score.
        samples_per_shard: samples in a shard, at most.
        batch_size: samples scored at a time.
        rank: number of this process, from 0.
        processes: how many there are; shard n belongs to process n modulo this.
    """

    out: Path
    members: Sequence[Member]
    samples_per_shard: int = 1024
    batch_size: int = 16
    rank: int = 0
    processes: int = 1

    def __post_init__(self):
        if self.samples_per_shard < 1:
            raise ValueError(f"`samples_per_shard` is {self.samples_per_shard}, expected 1 or more")
        self.out = Path(self.out)
        self.config = self.members[0][0].config
        self.score_names = list(self.config.score_names)
        self.model_digest = digest_of(self.members)

    def begin(self, samples: Sequence[FileSample]) -> None:
        """Writes the plan in a new or empty folder, or finds that what was begun or finished there is the same.

        Raises:
            FileExistsError: the folder holds something else.
        """
        table = sample_table(samples, list(self.config.modalities))
        content = json.dumps([self.samples_per_shard, table.to_pydict()], sort_keys=True)
        plan = Plan(hashlib.sha256(content.encode()).hexdigest(), self.model_digest)
        for name in (RESULT_FILE, PLAN_FILE):
            if (self.out / name).is_file():
                if Plan.read(self.out / name) != plan:
                    raise FileExistsError(
                        f"{self.out} holds scores of another model, of other samples or in other shards; name another "
                        "folder or remove it"
                    )
                return
        if self.out.exists() and any(self.out.iterdir()):
            raise FileExistsError(f"{self.out} is not empty, and what is in it are no scores; name another folder")
        with atomic_write(self.out / PLAN_FILE) as unfinished:
            pq.write_table(table.replace_schema_metadata(plan.metadata()), unfinished, self.samples_per_shard)

    def is_finished(self) -> bool:
        return (self.out / RESULT_FILE).is_file()

    def write(self) -> None:
        """Scores this process's shards that are not there yet.

        Raises:
            ValueError: this process loaded another model than the one that the plan was made with.
        """
        plan = Plan.read(self.out / PLAN_FILE)
        if plan.model != self.model_digest:
            raise ValueError(f"process {self.rank} loaded another model than process 0; copy the same one everywhere")
        with pq.ParquetFile(self.out / PLAN_FILE) as samples:
            own = range(self.rank, samples.num_row_groups, self.processes)
            undone = [number for number in own if not self.shard_file(number).is_file()]
            total = sum(samples.metadata.row_group(number).num_rows for number in undone)
            name = f"process 1 of {self.processes}" if self.processes > 1 else "scoring"
            with tqdm(total=total, desc=name, unit="sample", disable=self.rank > 0) as bar:
                for number in undone:
                    self._write_shard(number, samples.read_row_group(number), plan, bar)

    def shard_file(self, number: int) -> Path:
        return self.out / PROGRESS / f"shard-{number:05}.parquet"

    def merge(self) -> None:
        """Checks that every sample came out exactly once, then makes one file of all shards, in their order.

        Raises:
            ValueError: one did not, or a shard is not there or was made with another model; the message names it.
        """
        plan = Plan.read(self.out / PLAN_FILE)
        schema = STREAM_SCHEMA.with_metadata(plan.metadata())
        with (
            pq.ParquetFile(self.out / PLAN_FILE) as samples,
            atomic_write(self.out / RESULT_FILE) as unfinished,
            pq.ParquetWriter(unfinished, schema) as writer,
        ):
            for number in range(samples.num_row_groups):
                sample_ids = samples.read_row_group(number, columns=["sample_id"])["sample_id"].to_pylist()
                writer.write_table(self._checked_shard(number, sample_ids, plan).cast(schema))
        shutil.rmtree(self.out / PROGRESS)

    def failures(self) -> pa.Table:
        """The samples without a score, columns `sample_id` and `error`."""
        path = self.out / RESULT_FILE
        return pq.read_table(path, columns=["sample_id", "error"], filters=pa.compute.field("error").is_valid())

    def _write_shard(self, number: int, table: pa.Table, plan: Plan, bar: tqdm) -> None:
        predictions = predict_stream(self.members, read_samples(table), self.batch_size)
        rows = []
        for prediction in predictions:
            rows += stream_rows(prediction, self.score_names)
            bar.update()
        with atomic_write(self.shard_file(number)) as unfinished:
            pq.write_table(pa.Table.from_pylist(rows, STREAM_SCHEMA.with_metadata(plan.metadata())), unfinished)

    def _checked_shard(self, number: int, sample_ids: list[str], plan: Plan) -> pa.Table:
        path = self.shard_file(number)
        again = f"remove it and give the same command again, which scores these {len(sample_ids)} samples anew"
        if not path.is_file():
            raise ValueError(f"{path} is not there; give the same command again")
        if Plan.read(path) != plan:
            raise ValueError(f"{path} was made with another model or of other samples; {again}")
        table = pq.read_table(path)
        failed = set(table.filter(pa.compute.is_valid(table["error"]))["sample_id"].to_pylist())
        found = Counter(zip(table["sample_id"].to_pylist(), table["score_name"].to_pylist(), strict=True))
        expected = Counter(
            (id_, name) for id_ in sample_ids for name in ([None] if id_ in failed else self.score_names)
        )
        if wrong := (found - expected) + (expected - found):
            row = min(wrong, key=str)
            raise ValueError(
                f"{path}: sample {row[0]!r} is there {found[row]} times, expected {expected[row]}; {again}"
            )
        return table


def predict_in_shards(
    members: Sequence[Member],
    find_samples: Callable[[], Sequence[FileSample]],
    out: str | Path,
    samples_per_shard: int = 1024,
    batch_size: int = 16,
) -> pa.Table:
    """
    Scores samples into `OUT/predictions.parquet`; called by every process that `accelerate launch` started.

    Args:
        members: models in eval mode, each with its processor, whose mean is the score; the same in every process.
        find_samples: gives the samples, each id once; only the first process calls it.
        out: the folder to write, which all processes see: new, empty, or one that an earlier call did not finish.
        samples_per_shard: samples in a shard, at most: what a stopped process has to score again.
        batch_size: samples scored at a time.

    Returns:
        The samples that could not be scored, columns `sample_id` and `error`.

    Raises:
        ValueError, OSError: the samples or the folder cannot be used; the message says why.
    """
    state = join_processes()
    settings = (samples_per_shard, batch_size, state.process_index, state.num_processes)
    prediction = ShardedPrediction(Path(out), members, *settings)
    if state.is_main_process:
        prediction.begin(find_samples())
    state.wait_for_everyone()
    finished = prediction.is_finished()
    if not finished:
        prediction.write()
    state.wait_for_everyone()
    if state.is_main_process and not finished:
        prediction.merge()
    state.wait_for_everyone()
    return prediction.failures()


def sample_table(samples: Sequence[FileSample], modalities: Sequence[str]) -> pa.Table:
    """One row a sample: `sample_id`, `paths` by modality (null = missing) and `error`.

    Raises:
        ValueError: there is none, or an id occurs twice.
    """
    repeated = [sample_id for sample_id, count in Counter(each.sample_id for each in samples).items() if count > 1]
    if repeated or not samples:
        raise ValueError(f"the sample {repeated[0]!r} is given twice" if repeated else "there is no sample to score")
    paths = pa.struct([(name, pa.string()) for name in modalities])
    columns = {
        "sample_id": pa.array([sample.sample_id for sample in samples], pa.string()),
        "paths": pa.array([{name: str(path) for name, path in each.paths.items()} for each in samples], paths),
        "error": pa.array([sample.error for sample in samples], pa.string()),
    }
    return pa.table(columns)


def read_samples(table: pa.Table) -> list[FileSample]:
    """The inverse of `sample_table`."""
    return [
        FileSample(row["sample_id"], {name: Path(path) for name, path in row["paths"].items() if path}, row["error"])
        for row in table.to_pylist()
    ]


def digest_of(members: Sequence[Member]) -> str:
    """SHA-256 of all that decides a score: weights in their precision, configuration and processor of each model."""
    digest = hashlib.sha256()
    for model, processor in members:
        for settings in (model.config.to_dict(), processor.to_dict()):
            for name in ("transformers_version", "_name_or_path"):
                settings.pop(name, None)
            digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
