"""Pickled tables written once in a form of which single samples can be read."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from ..atomic_files import written_whole
from ..feature_files import FeatureFileError
from .aqa_data import feature_column
from .feature_sources import ReadSample, TableSource


@dataclass(frozen=True)
class SpilledTable:
    """What `spill` wrote of a `TableSource`: an arrow file with a batch for each sample, in the order of the ids."""

    modality: str
    sample_ids: Sequence[str]
    path: Path

    @contextmanager
    def opened(self) -> Iterator[ReadSample]:
        numbers = {sample_id: number for number, sample_id in enumerate(self.sample_ids)}
        with pa.OSFile(str(self.path)) as file, pa.ipc.open_file(file) as batches:

            def read(sample_id: str) -> pa.ListArray:
                batch = batches.get_batch(numbers[sample_id])
                if batch["cause"][0].is_valid:
                    raise FeatureFileError(batch["detail"][0].as_py(), batch["cause"][0].as_py())
                return batch["clips"]

            yield read


def spill(source: TableSource, path: Path, quiet: bool = False) -> None:
    """Reads the table once and writes its samples one by one; what cannot be used is written down with its cause.

    Args:
        source: the table.
        path: the file to write.
        quiet: without a progress bar.
    """
    nothing = feature_column(np.zeros((0, source.feature_size), np.float32), [None])
    schema = pa.schema([("clips", nothing.type), ("cause", pa.string()), ("detail", pa.string())])
    with written_whole(path) as unfinished, source.opened() as read, pa.ipc.new_file(str(unfinished), schema) as file:
        for sample_id in tqdm(source.sample_ids, desc=f"{source.path.name}", unit="sample", disable=quiet):
            try:
                cells = read(sample_id), None, None
            except FeatureFileError as error:
                cells = nothing, error.cause, str(error)
            clips, cause, detail = cells
            arrays = [clips, pa.array([cause], pa.string()), pa.array([detail], pa.string())]
            file.write_batch(pa.record_batch(arrays, schema=schema))
