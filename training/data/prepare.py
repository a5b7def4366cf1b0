"""A dataset rewritten once as Arrow, in shards that several processes write and a restart does not write again.

OUT/
    README.md               dataset card; what `datasets.load_dataset(OUT)` reads
    data/<split>-00000-of-00004.arrow
    aqa_data.json           modalities, scores and their ranges: what `AqaData` knows beside its rows
    missing.csv             each missing feature with its cause
    checksums.sha256        of all the files above; `sha256sum --check checksums.sha256`
    .preparing/             only until everything is there
"""

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow as pa
from datasets import Dataset, SplitInfo
from tqdm.auto import tqdm

from ..utils.files import atomic_write, atomic_write_text
from .aqa_data import AqaData
from .file_dataset import features_with, read_cell
from .missing import MissingFeature, MissingSummary, not_given
from .sources.files import FeatureSource, ReadSample
from .sources.table_cache import CachedTable, spill
from .sources.tables import TableSource

PROGRESS = ".preparing"


@dataclass(frozen=True)
class Shard:
    """Some consecutive samples of a split, which become one file: a stream of record batches, each a sample."""

    split: str
    number: int
    count: int
    start: int
    stop: int

    @property
    def file(self) -> str:
        return f"data/{self.split}-{self.number:05}-of-{self.count:05}.arrow"

    @property
    def record(self) -> str:
        """What is known of it beside its rows, kept until the end."""
        return f"{PROGRESS}/{self.split}-{self.number:05}.json"


@dataclass
class Preparation:
    """
    Args:
        out: the folder to write.
        index: the dataset; modalities without a column are read from `sources`.
        sources: of those modalities.
        samples_per_shard: samples in a shard, at most.
        rank: number of this process, from 0.
        processes: how many there are; table and shard n belong to process n modulo this.
        wait: returns when every process has called it.
    """

    out: Path
    index: AqaData
    sources: list[FeatureSource]
    samples_per_shard: int = 256
    rank: int = 0
    processes: int = 1
    wait: Callable[[], None] = lambda: None

    def shards(self) -> list[Shard]:
        shards = []
        for split, rows in self.index.splits.items():
            starts = range(0, len(rows), self.samples_per_shard)
            shards += [
                Shard(split, number, len(starts), start, min(start + self.samples_per_shard, len(rows)))
                for number, start in enumerate(starts)
            ]
        return shards

    def write(self) -> None:
        """Writes what is not there yet of all tables, then of all shards; every process does its own."""
        self.write_tables()
        self.wait()
        self.write_shards()
        self.wait()

    def write_tables(self) -> None:
        """Spills the tables of this process that are not spilled yet, unless no shard needs them any more."""
        if all((self.out / shard.file).is_file() for shard in self.shards()):
            return
        for number, (table, cached) in enumerate(self._tables()):
            if number % self.processes == self.rank and not cached.keys_path.is_file():
                spill(table, cached, quiet=self.rank > 0)

    def write_shards(self) -> None:
        """Writes the shards of this process that are not there yet, from the spilled tables."""
        own = [shard for number, shard in enumerate(self.shards()) if number % self.processes == self.rank]
        own = [shard for shard in own if not (self.out / shard.file).is_file()]
        total = sum(shard.stop - shard.start for shard in own)
        with self._opened() as readers, self._bar(total) as bar:
            for shard in own:
                self._write_shard(shard, readers, bar)

    def forget_incomplete(self) -> None:
        """Removes the shards that lack something, and the tables, so that the next run reads them again."""
        for shard in self.shards():
            record = self._record(shard)
            if record["missing"]:
                (self.out / shard.file).unlink()
        for path in (self.out / PROGRESS).glob("*.arrow"):
            path.unlink()
            path.with_suffix(".json").unlink(missing_ok=True)

    def missing(self) -> MissingSummary:
        """What all shards lack."""
        summary = MissingSummary(samples=sum(len(split) for split in self.index.splits.values()))
        for shard in self.shards():
            record = self._record(shard)
            summary.features += [MissingFeature(**each) for each in record["missing"]]
            summary.dropped += record["dropped"]
        return summary

    def check_ids(self) -> dict[str, SplitInfo]:
        """Checks that every sample came out once, or was left out by name.

        Returns:
            Number of samples and of bytes in memory of each split.

        Raises:
            ValueError: one did not, or a split has none left.
        """
        found = {}
        for split, rows in self.index.splits.items():
            expected = Counter(rows.select_columns(["sample_id"])["sample_id"][:])
            dropped, written, size = Counter(), Counter(), 0
            for shard in self.shards():
                if shard.split == split:
                    written.update(Dataset.from_file(str(self.out / shard.file))["sample_id"][:])
                    record = self._record(shard)
                    dropped.update(record["dropped"])
                    size += record["bytes"]
            if wrong := (written + dropped - expected) + (expected - written - dropped):
                raise ValueError(
                    f"{self.out}: sample {min(wrong)!r} of the split {split} is there {written[min(wrong)]} times, "
                    f"expected {expected[min(wrong)]}; remove the folder and prepare the data again"
                )
            if not written:
                raise ValueError(f"no sample of the split {split!r} has any feature; {self.missing()}")
            found[split] = SplitInfo(split, num_bytes=size, num_examples=sum(written.values()))
        return found

    def _sources(self) -> list[FeatureSource]:
        """The sources, each table in its spilled form."""
        cached = {id(table): cached for table, cached in self._tables()}
        return [cached.get(id(source), source) for source in self.sources]

    def _tables(self) -> list[tuple[TableSource, CachedTable]]:
        """Each table and its spilled form."""
        tables = [source for source in self.sources if isinstance(source, TableSource)]
        paths = [self.out / PROGRESS / f"{table.modality}-{number}.arrow" for number, table in enumerate(tables)]
        return [
            (table, CachedTable(table.modality, table.sample_ids, table.path, path))
            for table, path in zip(tables, paths, strict=True)
        ]

    @contextmanager
    def _opened(self) -> Iterator[dict[str, ReadSample]]:
        """modality -> what reads a sample of it."""
        with ExitStack() as stack:
            opened: dict[str, list[tuple[FeatureSource, ReadSample]]] = {}
            for source in self._sources():
                if not isinstance(source, CachedTable) or source.keys_path.is_file():  # absent where no shard is left
                    opened.setdefault(source.modality, []).append((source, stack.enter_context(source.opened())))
            yield {modality: _one_reader(found) for modality, found in opened.items()}

    def _bar(self, total: int) -> tqdm:
        name = f"process 1 of {self.processes}" if self.processes > 1 else "preparing"
        return tqdm(total=total, desc=name, unit="sample", disable=self.rank > 0)

    def _write_shard(self, shard: Shard, readers: dict[str, ReadSample], bar: tqdm) -> None:
        missing = MissingSummary()
        split = self.index.splits[shard.split]
        schema = features_with(split, self.index.modalities).arrow_schema
        with (
            atomic_write(self.out / shard.file) as unfinished,
            pa.OSFile(str(unfinished), "wb") as file,
            pa.ipc.new_stream(file, schema) as stream,
        ):

            def write(position: int) -> int:
                """Writes a sample, a batch, which nothing holds when the next one is read; returns its bytes."""
                row = self._row(split, position, readers, missing)
                bar.update()
                if row is None:
                    return 0
                stream.write_table(row.cast(schema))
                return row.nbytes

            size = sum(map(write, range(shard.start, shard.stop)))
            lost = [asdict(each) for each in missing.features]
            record = {"missing": lost, "dropped": missing.dropped, "bytes": size}
            atomic_write_text(self.out / shard.record, json.dumps(record))  # before the shard, which says it is done

    def _row(
        self, split: Dataset, position: int, readers: dict[str, ReadSample], missing: MissingSummary
    ) -> pa.Table | None:
        """One sample with all columns, or None where it has no modality at all."""
        row = split.with_format("arrow")[position : position + 1]
        sample_id = row["sample_id"][0].as_py()
        present = 0
        for modality in self.index.modalities:
            if modality not in row.column_names:
                cell = read_cell(readers[modality], sample_id, modality, missing)
                row = row.append_column(modality, pa.nulls(1) if cell is None else cell)
            elif not row[modality][0].is_valid:
                missing.features.append(not_given(sample_id, modality))
            present += row[modality][0].is_valid
        if present:
            return row
        missing.dropped.append(sample_id)
        return None

    def _record(self, shard: Shard) -> dict:
        return json.loads((self.out / shard.record).read_text(encoding="utf-8"))


def _one_reader(found: list[tuple[FeatureSource, ReadSample]]) -> ReadSample:
    """What reads each sample from the source that has it."""
    if len(found) == 1:
        return found[0][1]
    reader_of = {sample_id: read for source, read in found for sample_id in source.sample_ids}
    return lambda sample_id: reader_of[sample_id](sample_id)
