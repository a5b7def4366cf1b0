"""Features of recordings and of texts beside them, made once and kept in the layout of the dataset `folder`.

OUT/
    recipe.json                         recipe that made them
    <modality>/<sample_id>.safetensors  clips (clips, feature size); digest of the recipe; of a recording also
                                        times (clips, 2) in seconds
    extraction.jsonl                    one line for each sample: its modalities, or why there are none
    labels.csv                          labels of the samples, where they are known
"""

import csv
import hashlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors.torch import save
from tqdm.auto import tqdm

from ...processing.recipes_limssr import ClipExtractor, Recipe
from ...processing.recordings_limssr import MissingStreamError, Recording, RecordingError
from ..utils.files import atomic_write, atomic_write_text, remove_leftovers
from ..utils.paths import OutsideError, path_below
from ..utils.workers import end_with_parent
from .file_dataset import RECIPE_FILE
from .sources.files import RECIPE_KEY, TIMES_KEY
from .sources.labels import LabelError, path_of_cell, read_csv
from .sources.recordings import (
    COLUMN,
    PART,
    RECORDING_SUFFIXES,
    RECORDINGS,
    clip_extractor,
    find_recordings,
    read_recording,
    read_texts,
)

FEW = 64  # samples that are made before other processes have started
LABELS, RECORD = "labels.csv", "extraction.jsonl"


@dataclass(frozen=True)
class Extracted:
    """What became of a sample.

    Attributes:
        clips: modality -> number of clips; without the modalities that the sample lacks.
        error: why there is nothing, or not all of it; or None.
        made_of: see `Material.describe`.
    """

    sample_id: str
    clips: dict[str, int]
    error: str | None = None
    made_of: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Material:
    """What the features of a sample are made of.

    Attributes:
        recording: its recording, or None.
        texts: modality -> text, of those that the recipe makes of text.
    """

    recording: Recording | None
    texts: Mapping[str, str] = field(default_factory=dict)

    def describe(self) -> dict[str, Any]:
        """JSON values that tell it from another one; `bytes` is missing where the recording is not there."""
        found = {"texts": hashlib.sha256(json.dumps(sorted(self.texts.items())).encode()).hexdigest()}
        if self.recording is not None:
            path = self.recording.path
            found |= {"recording": Path(path).name, "start": self.recording.start, "end": self.recording.end}
            found |= {"bytes": os.path.getsize(path)} if os.path.isfile(path) else {}
        return found


def extract_features(
    samples: Mapping[str, Material],
    out: str | Path,
    recipe: str | Path | dict,
    workers: int | None = None,
    labels: str | None = None,
) -> list[Extracted]:
    """Extract the features of samples; what a call before has made of the same recordings and texts is kept.

    Args:
        samples: sample id -> what its features are made of.
        out: new folder, or one that the same recipe began.
        recipe: what `Recipe.load` takes.
        workers: number of processes; by default one per core, or this one alone for a few samples.
        labels: content of `labels.csv`, or None.

    Returns:
        The samples that cannot be used, or not whole.

    Raises:
        FileExistsError: the folder holds something else, or features of another recipe.
        ValueError: there is no such recipe, or an id names a place outside the folder.
        OSError: a file cannot be written, or a worker was ended.
    """
    out, recipe = Path(out), Recipe.load(recipe)
    for sample_id in samples:
        _feature_file(out, "features", sample_id)  # raises ValueError
    begin_folder(out, recipe, labels)
    done = read_record(out)
    todo = {name: material for name, material in samples.items() if not _is_done(out, done.get(name), material)}
    remove_leftovers(out, below=True)
    failed = []
    work = partial(extract_one, out=out, recipe=json.dumps(recipe.to_dict()))
    with tqdm(total=len(samples), initial=len(samples) - len(todo), unit="recording", disable=None) as bar:
        for extracted in _run(work, todo, workers or _usual_workers(len(todo))):
            with (out / RECORD).open("a", encoding="utf-8") as file:
                # A line of its own, even after one that a killed run did not finish.
                file.write("\n" + json.dumps(vars(extracted), ensure_ascii=False))
            failed += [] if extracted.error is None else [extracted]
            bar.update()
    return sorted(failed, key=lambda each: each.sample_id)


def _feature_file(out: Path, modality: str, sample_id: str) -> Path:
    try:
        return path_below(out / modality, f"{sample_id}.safetensors")
    except OutsideError as error:
        raise ValueError(f"sample {sample_id!r}: its features would lie outside the folder: {error}") from error


def begin_folder(out: Path, recipe: Recipe, labels: str | None = None) -> None:
    """Write the recipe into a new folder, and the labels.

    Args:
        out: the folder.
        recipe: the recipe.
        labels: content of `labels.csv`; None leaves what is there.

    Raises:
        FileExistsError: the folder holds something else.
    """
    own = () if labels is not None else (LABELS,)
    path = out / RECIPE_FILE
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".lock"):  # several machines may begin it
        if path.is_file():
            if Recipe.load(path).digest != recipe.digest:
                raise FileExistsError(f"{out} holds features of another recipe; name another folder or remove it")
        elif any(place.name not in own and not place.name.startswith(".") for place in out.iterdir()):
            raise FileExistsError(f"{out} is not empty, and what is in it are no features; name another folder")
        else:
            # As it is, even where it names a folder of this machine: the digest is of every word.
            atomic_write_text(path, json.dumps(recipe.to_dict(), indent=2, ensure_ascii=False) + "\n")
        if labels is not None:
            atomic_write_text(out / LABELS, labels)


def extract_one(sample_id: str, material: Material, out: Path, recipe: str) -> Extracted:
    """Extract the features of one sample into its files.

    Args:
        sample_id: its id.
        material: what they are made of.
        out: folder of the features.
        recipe: JSON of the recipe.

    Raises:
        OSError: a file cannot be written.
    """
    extractor, made_of = clip_extractor(recipe), material.describe()
    made, error = _make_tensors(extractor, material)
    is_there = material.recording is None or "bytes" in made_of  # else what was made of it before is kept
    for modality in extractor.recipe.modalities:
        place = _feature_file(out, modality, sample_id)
        try:
            if modality in made:
                with atomic_write(place) as path:
                    path.write_bytes(save(made[modality], metadata={RECIPE_KEY: extractor.recipe.digest}))
            elif is_there:
                place.unlink(missing_ok=True)
        except OSError as reason:
            raise OSError(f"{place} could not be written: {reason}") from reason
    return Extracted(
        sample_id, {modality: len(tensors["clips"]) for modality, tensors in made.items()}, error, made_of
    )


def _make_tensors(
    extractor: ClipExtractor, material: Material
) -> tuple[dict[str, dict[str, torch.Tensor]], str | None]:
    """Modality -> what its file holds; and why there is nothing, or not all: a damaged sound leaves the picture."""
    made, missing, broken = {}, [], []
    for modality, text in material.texts.items():
        try:
            made[modality] = {"clips": torch.from_numpy(extractor.encode_text(text, modality))}
        except RecordingError as error:
            broken.append(error)
    for modality in extractor.recipe.recorded if material.recording is not None else ():
        try:
            clips = extractor.extract_modality(material.recording, modality)
        except MissingStreamError as error:
            missing.append(error)
        except RecordingError as error:
            broken.append(error)
        else:
            made[modality] = {"clips": torch.from_numpy(clips.features), TIMES_KEY: torch.from_numpy(clips.times)}
    reasons = broken or ([] if made else missing)
    return made, str(reasons[0]) if reasons else None


def read_record(out: Path) -> dict[str, Extracted]:
    """What became of each sample so far; the last line of an id counts."""
    if not (out / RECORD).is_file():
        return {}
    found = {}
    for line in (out / RECORD).read_bytes().splitlines():
        try:
            entry = Extracted(**json.loads(line))
        except (ValueError, TypeError, RecursionError):  # a line that a killed run did not finish
            continue
        if isinstance(entry.sample_id, str) and isinstance(entry.clips, dict) and isinstance(entry.made_of, dict):
            found[entry.sample_id] = entry
    return found


def find_material(place: str | Path, recipe: Recipe, outside_paths: bool = False) -> dict[str, Material]:
    """What the features of the samples of a folder or a CSV are made of.

    Args:
        place: folder of recordings, at any depth; folder with `labels.csv`, and the recordings in `recordings/` or
            named by the column `recording`; or CSV with the columns `sample_id` and `recording`. Paths are relative to
            the folder of the table, which may also have `start` and `end` in seconds. For each modality that the
            recipe makes of text, it has a column of its name.
        recipe: the recipe.
        outside_paths: paths in the table may lead out of its folder.

    Raises:
        LabelError, FeatureFileError: the CSV or the folder cannot be used.
    """
    place = Path(place)
    if not place.exists() or (place.suffix in RECORDING_SUFFIXES and not place.is_dir()):
        found = "this is a recording" if place.exists() else "there is no such folder or file"
        raise LabelError(f"{place}: {found}; expected a folder of recordings, or a CSV that names them")
    table = _table_of(place)
    if recipe.written and not table.is_file():
        wanted = f"the recipe {recipe.name!r} makes {recipe.written[0]!r} of text"
        raise LabelError(f"{table}: there is no such file; {wanted}, which it must have in a column of that name")
    texts = read_texts(table, recipe.written) if recipe.written else {}
    recordings = _recordings_of(place, outside_paths) if recipe.recorded else {}
    return join_material(recordings, texts)


def read_labels(place: str | Path, recipe: Recipe) -> str | None:
    """The table of what `find_material` takes, without the columns that the features are made of; None for no table.

    Raises:
        LabelError: the table cannot be read.
    """
    table = _table_of(Path(place))
    if not table.is_file():
        return None
    columns, rows = read_csv(table)
    kept = [name for name in columns if name not in (COLUMN, *PART, *recipe.written)]
    if kept == ["sample_id"]:
        return None
    stream = io.StringIO(newline="")
    writer = csv.DictWriter(stream, kept, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(cells for _, cells in rows)
    return stream.getvalue()


def _table_of(place: Path) -> Path:
    return place / LABELS if place.is_dir() else place


def join_material(recordings: Mapping[str, Recording], texts: Mapping[str, Mapping[str, str]]) -> dict[str, Material]:
    """Material of each sample, from sample id -> recording and modality -> sample id -> text."""
    joined = {}
    for sample_id in dict.fromkeys(chain(recordings, *texts.values())):
        of_sample = {modality: column[sample_id] for modality, column in texts.items() if sample_id in column}
        joined[sample_id] = Material(recordings.get(sample_id), of_sample)
    return joined


def _recordings_of(place: Path, outside_paths: bool) -> dict[str, Recording]:
    """Sample id -> recording, of a folder or a CSV."""
    table = _table_of(place)
    columns, rows = read_csv(table, f"{COLUMN}, {', '.join(PART)}") if table.is_file() else ([], [])
    if COLUMN not in columns and place.is_dir():
        return find_recordings(place / RECORDINGS if (place / RECORDINGS).is_dir() else place)
    if COLUMN not in columns:
        raise LabelError(f"{table}: there is no column {COLUMN!r}; the columns are {', '.join(columns)}")
    found = {}
    for line, cells in rows:
        where = f"{table}, line {line}, sample {cells['sample_id']!r}"
        if cells[COLUMN]:
            part = (cells.get(name) for name in PART)
            path = path_of_cell(table.parent, cells[COLUMN], where, outside_paths)
            found[cells["sample_id"]] = read_recording(path, *part, where)
    return found


def _is_done(out: Path, entry: Extracted | None, material: Material) -> bool:
    if entry is None or entry.error is not None:
        return False
    now = material.describe()
    if {name: value for name, value in entry.made_of.items() if name in now} != now:
        return False
    return all(_feature_file(out, modality, entry.sample_id).is_file() for modality in entry.clips)


def _usual_workers(samples: int) -> int:
    return 1 if samples <= FEW else len(os.sched_getaffinity(0))


def _begin_worker(parent: int) -> None:
    end_with_parent(parent)
    torch.set_num_threads(1)


def _run(work, todo: Mapping[str, Material], workers: int) -> Iterator[Extracted]:
    """Results as they come, from one process or several."""
    workers = min(workers, len(todo))
    if workers <= 1:
        yield from (work(*item) for item in todo.items())
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), _begin_worker, (os.getpid(),)) as pool:
        try:
            for future in as_completed([pool.submit(work, *item) for item in todo.items()]):
                yield future.result()
        except BrokenProcessPool as error:
            raise OSError(
                "a worker was ended from outside, or by a recording; the same command with --workers 1 shows which"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)
