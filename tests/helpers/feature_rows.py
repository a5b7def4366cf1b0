"""Random rows of a dataset, and the same kind of samples as files."""

from pathlib import Path

import numpy as np
from datasets import Dataset, Features, List, Value

SIZES = {"video": 16, "audio": 12, "flow": 8}


def make_dataset(samples: int = 30, longest: int = 20) -> Dataset:
    """Rows s0, s1 ... that all have video; three in ten lack audio, three in ten flow."""
    random = np.random.default_rng(3)
    columns = {"sample_id": [f"s{number}" for number in range(samples)]}
    for name, size in SIZES.items():
        clips = [random.normal(size=(random.integers(1, longest), size)).astype("float32") for _ in range(samples)]
        columns[name] = [None if name != "video" and random.random() < 0.3 else array for array in clips]
    clip_features = {name: List(List(Value("float32"), length=size)) for name, size in SIZES.items()}
    return Dataset.from_dict(columns, features=Features({"sample_id": Value("string"), **clip_features}))


def write_folder(folder: Path, count: int) -> Path:
    """`<modality>/s000.npy` ...; every third sample has audio too."""
    random = np.random.default_rng(0)
    for number in range(count):
        for name in ("video", "audio")[: 1 + (number % 3 == 0)]:
            (folder / name).mkdir(parents=True, exist_ok=True)
            clips = random.normal(size=(2 + number % 4, SIZES[name])).astype("float32")
            np.save(folder / name / f"s{number:03}.npy", clips)
    return folder
