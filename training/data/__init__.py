"""Datasets: one module and one class each, all giving `AqaData`."""

import inspect
from typing import Any

from .aqa_data import AqaData, report_missing
from .finediving import FineDiving
from .fisv import FisV
from .folder import Folder
from .fs1000 import Fs1000
from .mtl_aqa import MtlAqa
from .prepared import Prepared
from .rhythmic_gymnastics import RhythmicGymnastics
from .synthetic import Synthetic

REGISTRY = {
    "finediving": FineDiving,
    "fisv": FisV,
    "folder": Folder,
    "fs1000": Fs1000,
    "mtl_aqa": MtlAqa,
    "prepared": Prepared,
    "rhythmic_gymnastics": RhythmicGymnastics,
    "synthetic": Synthetic,
}


def build(name: str, **options: Any) -> Any:
    """A dataset by its name, before anything of it is read.

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
    return dataset


def load(name: str, **options: Any) -> AqaData:
    """Load a dataset by its name, see `build`."""
    return build(name, **options).load()


__all__ = ["REGISTRY", "AqaData", "build", "load", "report_missing"]
