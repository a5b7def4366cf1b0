"""Datasets: one module and one class each, all giving `AqaData`."""

from typing import Any

from .aqa_data import AqaData
from .mtl_aqa import MtlAqa
from .synthetic import Synthetic

REGISTRY = {"mtl_aqa": MtlAqa, "synthetic": Synthetic}


def load(name: str, **options: Any) -> AqaData:
    """Load a dataset by its name.

    Args:
        name: a key of `REGISTRY`.
        **options: fields of the dataset's class.

    Raises:
        ValueError: no dataset has this name.
    """
    if name not in REGISTRY:
        raise ValueError(f"no dataset is called {name!r}, known: {', '.join(sorted(REGISTRY))}")
    return REGISTRY[name](**options).load()


__all__ = ["REGISTRY", "AqaData", "load"]
