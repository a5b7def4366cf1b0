"""Modalities found as subfolders of feature files, `<modality>/<id>.npy|.safetensors`."""

import logging
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path

from ....configuration.configuration_limssr import TEXT
from .files import SUFFIXES, FeatureFileError, FeatureSource, FileSource, feature_path, read_array

logger = logging.getLogger(__name__)

LOOKED_AT = 100


def modalities_in(
    dataset: str,
    folder: Path,
    sample_ids: Iterable[str],
    wanted: Mapping[str, int | str | None] | Sequence[str] | None,
    features: Mapping[str, str | Path],
) -> dict[str, int | str]:
    """Feature size of each modality, or `"text"`; what is not given is taken from the files.

    The size is that of most of the first readable files, in the order of the ids.

    Args:
        dataset: begins the message of an error.
        folder: its subfolders are the modalities, by name.
        sample_ids: of the samples.
        wanted: sizes by name, or names; by default every subfolder with a feature file, and what `features` names.
        features: places of modalities that are not subfolders of that name.

    Raises:
        ValueError: there is no modality, or no feature file of one.
    """
    if wanted is None:
        wanted = [*_subfolders(folder), *(name for name in features if not (folder / name).is_dir())]
        if not wanted:
            raise ValueError(
                f"{dataset}: {folder} has no subfolder of {' or '.join(SUFFIXES)} files; expected <modality>/<id>.npy"
            )
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    if unknown := [name for name in features if name not in names]:
        raise ValueError(f"{dataset}: features names {unknown[0]!r}; the modalities are {', '.join(names)}")
    given = wanted if isinstance(wanted, Mapping) else {}
    sample_ids = list(sample_ids)
    sizes = dict.fromkeys(names)
    for name in names:
        size = given.get(name)
        size = _size(dataset, name, place_of(folder, name, features), sample_ids) if size is None else size
        if size != TEXT and (type(size) is not int or size < 1):
            raise ValueError(f"{dataset}: modality {name!r} has feature size {size!r}, expected 1 or more, or text")
        sizes[name] = size
    return sizes


def place_of(folder: Path, modality: str, features: Mapping[str, str | Path]) -> Path:
    """The folder of a modality's files; a relative path starts at `folder`."""
    return folder / features.get(modality, modality)


def folder_sources(
    folder: Path, modalities: Mapping[str, int | str], features: Mapping[str, str | Path], sample_ids: Sequence[str]
) -> list[FeatureSource]:
    """A source of files for each modality that is no text."""
    sizes = {name: size for name, size in modalities.items() if size != TEXT}
    return [FileSource(name, sample_ids, size, place_of(folder, name, features)) for name, size in sizes.items()]


def _subfolders(folder: Path) -> list[str]:
    """Names of the subfolders that hold a feature file at any depth, sorted."""
    places = sorted(folder.iterdir()) if folder.is_dir() else []
    return [place.name for place in places if place.is_dir() and _holds_features(place)]


def _holds_features(place: Path) -> bool:
    return any(path.suffix in SUFFIXES for path in place.rglob("*"))


def _size(dataset: str, modality: str, place: Path, sample_ids: Sequence[str]) -> int:
    counts = Counter(islice(_widths(place, sample_ids), LOOKED_AT))
    if not counts:
        raise ValueError(
            f"{dataset}: {place} has no readable feature file of any sample, such as {place / sample_ids[0]}.npy; "
            f"give the size of {modality!r} in modalities={{...}}, or leave the modality out"
        )
    size = counts.most_common(1)[0][0]
    if len(counts) > 1:
        logger.warning("%s: features of %r differ in width, %s; expected is %d", dataset, modality, dict(counts), size)
    return size


def _widths(place: Path, sample_ids: Sequence[str]) -> Iterable[int]:
    for sample_id in sample_ids:
        try:
            shape = read_array(feature_path(place, sample_id)).shape
        except FeatureFileError:
            continue
        if len(shape) == 2 and shape[1]:
            yield shape[1]
