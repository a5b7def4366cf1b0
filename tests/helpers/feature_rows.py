"""A dataset of random features that differ in length and in missing modalities."""

import numpy as np
from datasets import Dataset, Features, List, Value

SIZES = {"video": 16, "audio": 12, "flow": 8}


def make_dataset(samples: int = 30, longest: int = 20) -> Dataset:
    """Every sample has video; about a third each lacks audio or flow."""
    random = np.random.default_rng(3)
    columns = {"sample_id": [f"s{number}" for number in range(samples)]}
    for name, size in SIZES.items():
        clips = [random.normal(size=(random.integers(1, longest), size)).astype("float32") for _ in range(samples)]
        columns[name] = [None if name != "video" and random.random() < 0.3 else array for array in clips]
    clip_features = {name: List(List(Value("float32"), length=size)) for name, size in SIZES.items()}
    return Dataset.from_dict(columns, features=Features({"sample_id": Value("string"), **clip_features}))
