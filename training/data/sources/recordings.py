"""Features that are made of recordings, or of texts beside them, when they are read."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import pyarrow as pa

from ....processing.recipes_limssr import ClipExtractor
from ....processing.recordings_limssr import MissingStreamError, Recording, RecordingError
from ..aqa_data import feature_column
from .files import FeatureFileError, Reader
from .labels import LabelError, parse_number, read_csv
from .walk import find_samples

RECORDINGS = "recordings"  # folder of recordings beside the labels
COLUMN = "recording"  # column of a table with paths of recordings
PART = ("start", "end")  # columns beside it, in seconds
_KINDS = ("mp4", "m4v", "mov", "mkv", "webm", "avi", "mpg", "mpeg", "ts", "mts", "m2ts", "wmv", "flv", "3gp", "gif")
_KINDS += ("mxf", "wav", "mp3", "m4a", "aac", "flac", "ogg", "opus", "wma", "aiff")
RECORDING_SUFFIXES = tuple(f".{name}" for kind in _KINDS for name in (kind, kind.upper()))  # phones write capitals


@dataclass(frozen=True)
class RecipeSource:
    """A recording or a text for each sample, of which a recipe makes the clips of a modality.

    Args:
        recipe: JSON of the recipe.
        modality: one of its modalities.
        contents: sample id -> recording, or text.
    """

    recipe: str
    modality: str
    contents: Mapping[str, Recording | str]

    def open(self, cache: Path | None = None) -> Reader:
        return self._read

    def _read(self, sample_id: str) -> tuple[pa.ListArray, list[str]]:
        if sample_id not in self.contents:
            raise FeatureFileError(f"sample {sample_id}: there is nothing to make it of", "not given")
        extractor, content = clip_extractor(self.recipe), self.contents[sample_id]
        try:
            if isinstance(content, str):
                clips = extractor.encode_text(content, self.modality)
            else:
                clips = extractor.extract_modality(content, self.modality).features
        except MissingStreamError as error:
            raise FeatureFileError(str(error), "no such stream") from error
        except RecordingError as error:
            where = f"sample {sample_id}: " if isinstance(content, str) else ""  # a recording is named already
            raise FeatureFileError(f"{where}{error}") from error
        return feature_column(clips, [len(clips)]), []


def read_texts(path: Path, columns: Sequence[str]) -> dict[str, dict[str, str]]:
    """Texts of a table with a column for each modality that is made of text.

    Returns:
        Modality -> sample id -> text, without the empty ones.

    Raises:
        LabelError: the table cannot be read, or lacks a column.
    """
    header, rows = read_csv(path)
    if lacking := [name for name in columns if name not in header]:
        raise LabelError(
            f"{path}: there is no column {lacking[0]!r}, with the texts that the recipe makes this modality of; the "
            f"columns are {', '.join(header)}"
        )
    return {name: {cells["sample_id"]: cells[name] for _, cells in rows if cells[name]} for name in columns}


def read_recording(path: Path, start: str | None, end: str | None, where: str) -> Recording:
    """Recording of a row of a table, whose cells `start` and `end` are seconds, or empty.

    Raises:
        LabelError: a cell is no number, or the part is empty; the message begins with `where`.
    """
    numbers = [
        parse_number(text, f"{where}: {name}") if text else None for name, text in zip(PART, (start, end), strict=True)
    ]
    try:
        return Recording(path, *numbers)
    except RecordingError as error:
        raise LabelError(f"{where}: {error}") from error


def find_recordings(folder: Path) -> dict[str, Recording]:
    """Sample id -> recording `<id>.mp4` or the like below a folder.

    Raises:
        FeatureFileError: there is no recording, or an id has two.
    """
    if not folder.is_dir():
        raise FeatureFileError(f"{folder}: there is no such folder of recordings")
    found = find_samples(folder, RECORDING_SUFFIXES)
    for paths in found.values():
        if len(paths) > 1:
            raise FeatureFileError(f"{paths[0]} and {paths[1].name}: two recordings of one sample, expected one")
    if not found:
        raise FeatureFileError(f"{folder}: there is no recording in it; known suffixes are .{', .'.join(_KINDS)}")
    return {sample_id: Recording(paths[0]) for sample_id, paths in sorted(found.items())}


@lru_cache(maxsize=2)
def clip_extractor(recipe: str) -> ClipExtractor:
    """One for each process, because encoders are large and cannot be sent to others."""
    return ClipExtractor(json.loads(recipe))
