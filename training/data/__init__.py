"""Datasets by name. Each is one module with one class; all of them load as `AqaData`."""

import inspect
from collections.abc import Iterator, Mapping
from importlib import import_module
from typing import Any

from .aqa_data import AqaData, report_missing

CLASSES = {
    "finediving": "FineDiving",
    "fisv": "FisV",
    "folder": "Folder",
    "fs1000": "Fs1000",
    "mtl_aqa": "MtlAqa",
    "prepared": "Prepared",
    "rhythmic_gymnastics": "RhythmicGymnastics",
    "synthetic": "Synthetic",
}


class Registry(Mapping):
    """Class of each dataset by name; the module of that name is imported when its class is asked for."""

    def __getitem__(self, name: str) -> type:
        class_name = CLASSES[name]
        return getattr(import_module(f".{name}", __package__), class_name)

    def __iter__(self) -> Iterator[str]:
        return iter(CLASSES)

    def __len__(self) -> int:
        return len(CLASSES)


REGISTRY = Registry()


def build(name: str, **options: Any) -> Any:
    """Create a dataset by name without reading any of its files.

    Args:
        name: key of `REGISTRY`.
        **options: fields of the dataset's class.

    Raises:
        ValueError: the name is unknown, or an option is missing, unknown or has an invalid value.
    """
    if name not in CLASSES:
        raise ValueError(f"no dataset is called {name!r}, known: {', '.join(sorted(CLASSES))}")
    dataset_class = REGISTRY[name]
    parameters = inspect.signature(dataset_class)
    try:
        parameters.bind(**options)
        return dataset_class(**options)
    except TypeError as error:
        raise ValueError(
            f"options of the dataset {name!r} (`data_options`): {error}; it has {', '.join(parameters.parameters)}."
        ) from error


def load(name: str, **options: Any) -> AqaData:
    """Load a dataset by name; arguments and errors as in `build`, and those of the dataset's own `load`."""
    return build(name, **options).load()


__all__ = ["REGISTRY", "AqaData", "build", "load", "report_missing"]
