"""Datasets by name. Each is one module with one class, and loads as `AqaData`."""

import inspect
from importlib import import_module
from typing import Any

from .aqa_data import AqaData, report_missing

# Name of a dataset and of its module -> its class. The module is imported when the dataset is used.
REGISTRY = {
    "finediving": "FineDiving",
    "fisv": "FisV",
    "folder": "Folder",
    "fs1000": "Fs1000",
    "mtl_aqa": "MtlAqa",
    "prepared": "Prepared",
    "rhythmic_gymnastics": "RhythmicGymnastics",
    "synthetic": "Synthetic",
}


def dataset_class(name: str) -> type:
    """Class of a dataset; ValueError if the name is not in `REGISTRY`."""
    if name not in REGISTRY:
        raise ValueError(f"no dataset is called {name!r}, known: {', '.join(sorted(REGISTRY))}")
    return getattr(import_module(f".{name}", __package__), REGISTRY[name])


def build(name: str, **options: Any) -> Any:
    """Create a dataset by name without reading any of its files.

    Args:
        name: key of `REGISTRY`.
        **options: fields of the dataset's class.

    Raises:
        ValueError: the name is unknown, or an option is missing, unknown or has an invalid value.
    """
    found = dataset_class(name)
    parameters = inspect.signature(found)
    try:
        parameters.bind(**options)
        return found(**options)
    except TypeError as error:
        raise ValueError(
            f"options of the dataset {name!r} (`data_options`): {error}; it has {', '.join(parameters.parameters)}."
        ) from error


def load(name: str, **options: Any) -> AqaData:
    """Load a dataset by name; see `build` and the `load` of its class."""
    return build(name, **options).load()


__all__ = ["REGISTRY", "AqaData", "build", "dataset_class", "load", "report_missing"]
