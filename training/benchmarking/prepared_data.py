"""Performances on disk: prepared columns, and the pickled tables that published code reads."""

import pickle
import time
from pathlib import Path

import numpy as np
from datasets import Dataset, load_from_disk
from torch.utils.data import DataLoader

from ..data.aqa_data import build_split, feature_column
from ..data.masked_dataset import MaskedDataset
from ..data.sources.tables import load_restricted
from ..fitting.collator import LimssrCollator
from ..fitting.sampler import EpochRows, EpochSampler
from .workload import MODALITIES

WORKERS = 2


def make_dataset(samples: int, clips: int) -> Dataset:
    """One split with random features of every modality."""
    random = np.random.default_rng(0)
    columns = {
        name: feature_column(random.standard_normal((samples * clips, size), dtype=np.float32), [clips] * samples)
        for name, size in MODALITIES.items()
    }
    ids = [f"performance_{number:06d}" for number in range(samples)]
    return build_split(ids, {"score": random.uniform(20, 80, size=samples)}, columns)


def write_tables(dataset: Dataset, folder: Path) -> list[Path]:
    """One pickled dictionary id -> features a modality, as benchmarks publish them."""
    paths = []
    for name in MODALITIES:
        rows = dataset.select_columns(["sample_id", name]).with_format("numpy")
        paths.append(folder / f"{name}.pkl")
        with paths[-1].open("wb") as stream:
            pickle.dump({row["sample_id"]: row[name] for row in rows}, stream, protocol=pickle.HIGHEST_PROTOCOL)
    return paths


def measure_tables(paths: list[Path], samples: int = 3) -> float:
    """Samples a second when every sample reads all tables."""
    start = time.perf_counter()
    for number in range(samples):
        for path in paths:
            load_restricted(path)[f"performance_{number:06d}"]
    return samples / (time.perf_counter() - start)


def measure_reading(folder: Path, samples: int) -> float:
    """Samples a second that one process reads from the prepared data, all features of each, here and there."""
    rows = load_from_disk(folder)
    masked = MaskedDataset(rows, list(MODALITIES), [(1,) * len(MODALITIES)] * len(rows))
    order = np.random.default_rng(0).integers(len(rows), size=samples)
    start = time.perf_counter()
    for number in order:
        masked[int(number)]
    return samples / (time.perf_counter() - start)


def measure_loader(folder: Path, processor, samples: int, batch_size: int) -> float:
    """Samples a second that two workers read from the prepared data, crop, write as sequences and batch."""
    rows = load_from_disk(folder)
    masked = MaskedDataset(rows, list(MODALITIES), [(1,) * len(MODALITIES)] * len(rows))
    loader = DataLoader(
        EpochRows(masked),
        batch_size=batch_size,
        sampler=EpochSampler(len(rows), seed=0),
        collate_fn=LimssrCollator(processor, list(MODALITIES), ["score"]),
        num_workers=WORKERS,
        persistent_workers=True,
    )
    batches = iter(loader)
    next(batches)  # workers have started
    read, start = 0, time.perf_counter()
    for batch in batches:
        read += len(batch["labels"])
        if read >= samples:
            break
    return read / (time.perf_counter() - start)
