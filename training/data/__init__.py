"""Datasets by name. Each is one module with one class, and loads as `AqaData`."""

import inspect
import os
from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

from .aqa_data import AqaData, report_missing
from .sources.labels import NUMBER

# Name of a dataset and of its module -> its class. The module is imported when the dataset is used.
REGISTRY = {
    "finediving": "FineDiving",
    "fisv": "FisV",
    "folder": "Folder",
    "fs1000": "Fs1000",
    "mast_melody": "MastMelody",
    "mtl_aqa": "MtlAqa",
    "percepiano": "PercePiano",
    "prepared": "Prepared",
    "rhythmic_gymnastics": "RhythmicGymnastics",
    "simulated_dives": "SimulatedDives",
    "speechocean762": "SpeechOcean762",
    "synthetic": "Synthetic",
}
ENTRY_POINTS = "limssr.datasets"  # group in which other packages register datasets


def dataset_class(name: str) -> type:
    """Class of a dataset.

    Args:
        name: key of `REGISTRY`, name that an installed package registers in the entry points `limssr.datasets`, or
            `package.module:Class`.

    Raises:
        ValueError: there is no such dataset, or two packages register the name.
    """
    if name in REGISTRY:
        return getattr(import_module(f".{name}", __package__), REGISTRY[name])
    if ":" in str(name):
        return _import_class(name, name)
    registered = entry_points(group=ENTRY_POINTS)
    found = registered.select(name=str(name))
    if not found:
        known = ", ".join(sorted({*REGISTRY, *registered.names}))
        raise ValueError(f"no dataset is called {name!r}, known: {known}, or package.module:Class")
    if len(places := sorted({entry.value for entry in found})) > 1:
        raise ValueError(f"several packages register a dataset {name!r}; give one of {', '.join(places)}")
    return _import_class(name, places[0])


def _import_class(name: str, place: str) -> type:
    """Class of another package, given as `package.module:Class`."""
    module, _, class_name = place.partition(":")
    try:
        return getattr(import_module(module), class_name)
    except (ImportError, AttributeError, ValueError, TypeError) as error:  # the last two for words that name no module
        raise ValueError(
            f"the dataset {name!r} cannot be imported: {error}; expected package.module:Class, installed in this "
            "environment or on PYTHONPATH"
        ) from error


def build(name: str, **options: Any) -> Any:
    """Create a dataset by name without reading any of its files.

    Args:
        name: see `dataset_class`.
        **options: fields of the dataset's class. `~` in a path is the home folder.

    Raises:
        ValueError: the name is unknown, or an option is missing, unknown or has an invalid value.
    """
    found = dataset_class(name)
    parameters = inspect.signature(found)
    try:
        parameters.bind(**options)
        return found(**_as_annotated(options, parameters.parameters))
    except TypeError as error:
        raise ValueError(
            f"options of the dataset {name!r} (`data_options`): {error}; it has {', '.join(parameters.parameters)}."
        ) from error


def _as_annotated(options: Mapping[str, Any], parameters: Mapping[str, inspect.Parameter]) -> dict[str, Any]:
    """Options as their types say; TypeError if one is of another type.

    YAML reads a folder called 2024-05-01 as a date, 2024 as a number, and 1e-1 as a string.
    """
    given = {}
    for name, value in options.items():
        kind = parameters[name].annotation if name in parameters else Any
        if Path in (kind, *get_args(kind)) and value is not None:
            value = Path(os.path.expanduser(str(value)))
        elif kind is float and NUMBER.fullmatch(str(value)):
            value = float(value)
        if not _fits(value, kind):
            raise TypeError(f"{name} is {value!r}, expected {kind.__name__ if isinstance(kind, type) else kind}")
        given[name] = value
    return given


def _fits(value: Any, kind: Any) -> bool:
    """Whether a value is of the outermost type of an annotation; one word is as good as a list of it."""
    kinds = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    classes = [get_origin(each) or each for each in kinds]
    if not all(isinstance(each, type) for each in classes) or inspect.Parameter.empty in classes:
        return True  # not annotated
    classes += [str, tuple] * (list in classes) + [int] * (float in classes) + [Path] * (str in classes)
    return isinstance(value, tuple(classes)) and (not isinstance(value, bool) or bool in classes)


def load(name: str, **options: Any) -> AqaData:
    """Load a dataset by name; see `build` and the `load` of its class."""
    return build(name, **options).load()


__all__ = ["REGISTRY", "AqaData", "build", "dataset_class", "load", "report_missing"]
