"""Features of recordings, made once and kept in the layout of the dataset `folder`.

OUT/
    recipe.json                         recipe that made them
    <modality>/<sample_id>.safetensors  clips (clips, feature size), times (clips, 2) in seconds; digest of the recipe
    extraction.jsonl                    one line for each recording: its modalities, or why there are none
    labels.csv                          labels of the recordings, where they are known
"""

import csv
import json
import os
from collections.abc import Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import torch
from filelock import FileLock
from safetensors.torch import save
from tqdm.auto import tqdm

from ...processing.recipes_limssr import Recipe
from ...processing.recordings_limssr import Recording, RecordingError
from ..utils.files import atomic_write, remove_leftovers, write_json
from ..utils.paths import OutsideError, path_below
from ..utils.workers import end_with_parent
from .file_dataset import RECIPE_FILE
from .sources.files import RECIPE_KEY, TIMES_KEY
from .sources.labels import LabelError, path_of_cell, read_csv
from .sources.recordings import COLUMN, PART, RECORDINGS, clip_extractor, find_recordings, read_recording

FEW = 64  # recordings that are read before other processes have started
LABELS, RECORD = "labels.csv", "extraction.jsonl"


@dataclass(frozen=True)
class Extracted:
    """What became of a recording.

    Attributes:
        clips: modality -> number of clips; without the modalities that the recording lacks.
        error: why there is nothing, or None.
    """

    sample_id: str
    clips: dict[str, int]
    error: str | None = None


def extract_features(
    recordings: Mapping[str, Recording], out: str | Path, recipe: str | Path | dict, workers: int | None = None
) -> list[Extracted]:
    """Extract the features of recordings; what a call before has done is kept.

    Args:
        recordings: sample id -> recording.
        out: new folder, or one that the same recipe began.
        recipe: what `Recipe.load` takes.
        workers: number of processes; by default one per core, or this one alone for a few recordings.

    Returns:
        The recordings that cannot be used.

    Raises:
        FileExistsError: the folder holds features of another recipe.
        ValueError: there is no such recipe, or an id names a place outside the folder.
        OSError: a file cannot be written, or a worker was ended.
    """
    out, recipe = Path(out), Recipe.load(recipe)
    for sample_id in recordings:
        _feature_file(out, "features", sample_id)  # raises ValueError
    begin_folder(out, recipe)
    done = read_record(out)
    todo = {name: recording for name, recording in recordings.items() if not _is_done(out, done.get(name))}
    remove_leftovers(out, below=True)
    failed = []
    work = partial(extract_one, out=out, recipe=json.dumps(recipe.to_dict()))
    with tqdm(total=len(recordings), initial=len(recordings) - len(todo), unit="recording", disable=None) as bar:
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


def begin_folder(out: Path, recipe: Recipe) -> None:
    """Write the recipe into a new folder.

    Raises:
        FileExistsError: the folder holds something else.
    """
    path = out / RECIPE_FILE
    out.mkdir(parents=True, exist_ok=True)
    with FileLock(out / ".lock"):  # several machines may begin it
        if path.is_file():
            if Recipe.load(path).digest != recipe.digest:
                raise FileExistsError(f"{out} holds features of another recipe; name another folder or remove it")
        elif any(place.name != LABELS and not place.name.startswith(".") for place in out.iterdir()):
            raise FileExistsError(f"{out} is not empty, and what is in it are no features; name another folder")
        else:
            write_json(path, recipe.to_dict())


def extract_one(sample_id: str, recording: Recording, out: Path, recipe: str) -> Extracted:
    """Extract the features of one recording into its files.

    Args:
        sample_id: its id.
        recording: the recording.
        out: folder of the features.
        recipe: JSON of the recipe.

    Raises:
        OSError: a file cannot be written.
    """
    extractor = clip_extractor(recipe)
    try:
        found = extractor.extract(recording)
    except RecordingError as error:
        return Extracted(sample_id, {}, str(error))
    for modality, clips in found.items():
        tensors = {"clips": torch.from_numpy(clips.features), TIMES_KEY: torch.from_numpy(clips.times)}
        place = _feature_file(out, modality, sample_id)
        try:
            with atomic_write(place) as path:
                path.write_bytes(save(tensors, metadata={RECIPE_KEY: extractor.recipe.digest}))
        except OSError as error:
            raise OSError(f"{place} could not be written: {error}") from error
    return Extracted(sample_id, {modality: len(clips.features) for modality, clips in found.items()})


def read_record(out: Path) -> dict[str, Extracted]:
    """What became of each recording so far; the last line of an id counts."""
    if not (out / RECORD).is_file():
        return {}
    found = {}
    for line in (out / RECORD).read_bytes().splitlines():
        try:
            entry = Extracted(**json.loads(line))
        except (ValueError, TypeError, RecursionError):  # a line that a killed run did not finish
            continue
        if isinstance(entry.sample_id, str) and isinstance(entry.clips, dict):
            found[entry.sample_id] = entry
    return found


def find_all_recordings(place: str | Path, out: Path, outside_paths: bool = False) -> dict[str, Recording]:
    """Recordings of a folder or a CSV; their labels are copied to `out`.

    Args:
        place: folder of recordings, at any depth; folder with `recordings/` and `labels.csv`; or CSV with the columns
            `sample_id` and `recording`, relative to its folder, and perhaps `start` and `end` in seconds.
        out: folder of the features.
        outside_paths: paths in the CSV may lead out of its folder.

    Raises:
        LabelError, FeatureFileError: the CSV or the folder cannot be used.
    """
    place = Path(place)
    if place.is_dir():
        if (place / LABELS).is_file():
            _copy_labels(*read_csv(place / LABELS), out / LABELS)
        return find_recordings(place / RECORDINGS if (place / RECORDINGS).is_dir() else place)
    columns, rows = read_csv(place, f"{COLUMN}, {', '.join(PART)}")
    if COLUMN not in columns:
        raise LabelError(f"{place}: there is no column {COLUMN!r}; the columns are {', '.join(columns)}")
    found = {}
    for line, cells in rows:
        where = f"{place}, line {line}, sample {cells['sample_id']!r}"
        if cells[COLUMN]:
            part = (cells.get(name) for name in PART)
            path = path_of_cell(place.parent, cells[COLUMN], where, outside_paths)
            found[cells["sample_id"]] = read_recording(path, *part, where)
    if set(columns) - {"sample_id", COLUMN, *PART}:
        _copy_labels(columns, rows, out / LABELS)
    return found


def _copy_labels(columns: list[str], rows: list[tuple[int, dict[str, str]]], path: Path) -> None:
    """Write labels without the columns that tell of recordings."""
    kept = [name for name in columns if name not in (COLUMN, *PART)]
    with atomic_write(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, kept, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(cells for _, cells in rows)


def _is_done(out: Path, entry: Extracted | None) -> bool:
    if entry is None or entry.error is not None:
        return False
    return all(_feature_file(out, modality, entry.sample_id).is_file() for modality in entry.clips)


def _usual_workers(recordings: int) -> int:
    return 1 if recordings <= FEW else len(os.sched_getaffinity(0))


def _begin_worker(parent: int) -> None:
    end_with_parent(parent)
    torch.set_num_threads(1)


def _run(work, todo: Mapping[str, Recording], workers: int) -> Iterator[Extracted]:
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
