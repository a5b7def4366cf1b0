"""Pickled tables written once in a form of which single samples can be read, without a whole one in memory."""

import itertools
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from ...utils.files import atomic_write, atomic_write_text
from ..aqa_data import feature_column
from .files import FeatureFileError, ReadSample, check_clips
from .tables import TableSource, load_table


class BatchNumber(int):
    """Stands where an array was; no pickle can hold one of its own."""


@dataclass(frozen=True)
class CachedTable:
    """What `spill` wrote of a table.

    Args:
        modality: its name.
        sample_ids: of the samples.
        table: the pickled table, for messages.
        path: an arrow file with a batch for each array of the table.
    """

    modality: str
    sample_ids: Sequence[str]
    table: Path
    path: Path

    @property
    def keys_path(self) -> Path:
        """Number of the batch of each key of the table, or why it could not be read; written last."""
        return self.path.with_suffix(".json")

    @contextmanager
    def opened(self) -> Iterator[ReadSample]:
        keys = json.loads(self.keys_path.read_text(encoding="utf-8"))
        with pa.OSFile(str(self.path)) as file, pa.ipc.open_file(file) as batches:

            def read(sample_id: str) -> pa.ListArray:
                if keys["error"] is not None:
                    raise FeatureFileError(keys["detail"], keys["error"])
                where = f"{self.table}, key {sample_id!r}"
                if sample_id not in keys["numbers"]:
                    raise FeatureFileError(f"{where}: the table has no such key", "absent key")
                number = keys["numbers"][sample_id]
                if number is None:
                    raise FeatureFileError(f"{where}: expected an array [clips, dim]")
                batch = batches.get_batch(number)
                if batch["cause"][0].is_valid:
                    raise FeatureFileError(f"{where}{batch['detail'][0].as_py()}", batch["cause"][0].as_py())
                return batch["clips"]

            yield read


def spill(source: TableSource, cached: CachedTable, quiet: bool = False) -> None:
    """Reads a table array by array and writes each as a batch; what cannot be used is written down with its cause.

    Args:
        source: the table.
        cached: what to write.
        quiet: without a progress bar.
    """
    nothing = feature_column(np.zeros((0, source.feature_size), np.float32), [None])
    schema = pa.schema([("clips", nothing.type), ("cause", pa.string()), ("detail", pa.string())])
    numbers = itertools.count()  # the bar does not count where it is not shown
    keys = {"error": None, "detail": None, "numbers": {}}
    with (
        atomic_write(cached.path) as unfinished,
        pa.ipc.new_file(str(unfinished), schema) as file,
        tqdm(total=len(source.sample_ids), desc=source.path.name, unit="array", disable=quiet) as bar,
    ):

        def keep(array: np.ndarray) -> BatchNumber:
            """Writes an array, whose key is not known yet, and returns the number of its batch."""
            clips, cause, detail = nothing, None, None
            try:
                checked = check_clips(array, "", source.feature_size)
                clips = feature_column(checked, [len(checked)])
            except FeatureFileError as error:
                cause, detail = error.cause, str(error)
            arrays = [clips, pa.array([cause], pa.string()), pa.array([detail], pa.string())]
            file.write_batch(pa.record_batch(arrays, schema=schema))
            bar.update()
            return BatchNumber(next(numbers))

        try:
            table = load_table(source.path, keep)
            keys["numbers"] = {key: found if isinstance(found, BatchNumber) else None for key, found in table.items()}
        except FeatureFileError as error:
            keys |= {"error": error.cause, "detail": str(error)}
    atomic_write_text(cached.keys_path, json.dumps(keys))
