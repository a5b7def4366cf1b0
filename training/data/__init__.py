"""Datasets: one module and one class each, all giving `AqaData`."""

import inspect
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
        ValueError: no dataset has this name, or this one lacks an option, has no such option or not such a value.
    """
    if name not in REGISTRY:
        raise ValueError(f"no dataset is called {name!r}, known: {', '.join(sorted(REGISTRY))}")
    parameters = inspect.signature(REGISTRY[name])
    try:
        parameters.bind(**options)
        dataset = REGISTRY[name](**options)
    except TypeError as error:
        raise ValueError(
            f"options of the dataset {name!r} (`data_options`): {error}; it has {', '.join(parameters.parameters)}."
        ) from error
    return dataset.load()


__all__ = ["REGISTRY", "AqaData", "load"]
