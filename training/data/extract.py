"""Features of recordings and of texts beside them, made once and kept in the layout of the dataset `folder`.

OUT/
    recipe.json                         recipe that made them
    <modality>/<sample_id>.safetensors  clips (clips, feature size); digest of the recipe; of a recording also
                                        times (clips, 2) in seconds
    extraction.jsonl                    one line for each sample: its modalities, or why there are none
    labels.csv                          labels of the samples, where they are known
"""

import csv
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path

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
from .sources.recordings import COLUMN, PART, RECORDINGS, clip_extractor, find_recordings, read_recording, read_texts

FEW = 64  # samples that are made before other processes have started
LABELS, RECORD = "labels.csv", "extraction.jsonl"


@dataclass(frozen=True)
class Extracted:
    """What became of a sample.

    Attributes:
        clips: modality -> number of clips; without the modalities that the sample lacks.
        error: why there is nothing, or None.
    """

    sample_id: str
    clips: dict[str, int]
    error: str | None = None


@dataclass(frozen=True)
class Material:
    """What the features of a sample are made of.

    Attributes:
        recording: its recording, or None.
        texts: modality -> text, of those that the recipe makes of text.
    """

    recording: Recording | None
    texts: Mapping[str, str] = field(default_factory=dict)


def extract_features(
    samples: Mapping[str, Material], out: str | Path, recipe: str | Path | dict, workers: int | None = None
) -> list[Extracted]:
    """Extract the features of samples; what a call before has done is kept.

    Args:
        samples: sample id -> what its features are made of.
        out: new folder, or one that the same recipe began.
        recipe: what `Recipe.load` takes.
        workers: number of processes; by default one per core, or this one alone for a few samples.

    Returns:
        The samples that cannot be used.

    Raises:
        FileExistsError: the folder holds features of another recipe.
        ValueError: there is no such recipe, or an id names a place outside the folder.
        OSError: a file cannot be written, or a worker was ended.
    """
    out, recipe = Path(out), Recipe.load(recipe)
    for sample_id in samples:
        _feature_file(out, "features", sample_id)  # raises ValueError
    begin_folder(out, recipe)
    done = read_record(out)
    todo = {name: material for name, material in samples.items() if not _is_done(out, done.get(name))}
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
            # As it is, even where it names a folder of this machine: the digest is of every word.
            atomic_write_text(path, json.dumps(recipe.to_dict(), indent=2, ensure_ascii=False) + "\n")


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
    extractor = clip_extractor(recipe)
    try:
        found = _make_tensors(extractor, material)
    except RecordingError as error:
        return Extracted(sample_id, {}, str(error))
    for modality, tensors in found.items():
        place = _feature_file(out, modality, sample_id)
        try:
            with atomic_write(place) as path:
                path.write_bytes(save(tensors, metadata={RECIPE_KEY: extractor.recipe.digest}))
        except OSError as error:
            raise OSError(f"{place} could not be written: {error}") from error
    return Extracted(sample_id, {modality: len(tensors["clips"]) for modality, tensors in found.items()})


def _make_tensors(extractor: ClipExtractor, material: Material) -> dict[str, dict[str, torch.Tensor]]:
    """Modality -> what its file holds."""
    made = {
        modality: {"clips": torch.from_numpy(extractor.encode_text(text, modality))}
        for modality, text in material.texts.items()
    }
    try:
        found = {} if material.recording is None else extractor.extract(material.recording)
    except MissingStreamError:
        if not made:
            raise
        found = {}
    for modality, clips in found.items():
        made[modality] = {"clips": torch.from_numpy(clips.features), TIMES_KEY: torch.from_numpy(clips.times)}
    return made


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
        if isinstance(entry.sample_id, str) and isinstance(entry.clips, dict):
            found[entry.sample_id] = entry
    return found


def find_material(place: str | Path, out: Path, recipe: Recipe, outside_paths: bool = False) -> dict[str, Material]:
    """What the features of the samples of a folder or a CSV are made of; their labels are copied to `out`.

    Args:
        place: folder of recordings, at any depth; folder with `recordings/` and `labels.csv`; or CSV with the columns
            `sample_id` and `recording`, relative to its folder, and perhaps `start` and `end` in seconds. For each
            modality that the recipe makes of text, the CSV or `labels.csv` has a column of its name.
        out: folder of the features.
        recipe: the recipe.
        outside_paths: paths in the CSV may lead out of its folder.

    Raises:
        LabelError, FeatureFileError: the CSV or the folder cannot be used.
    """
    place = Path(place)
    table = place / LABELS if place.is_dir() else place
    if recipe.written and not table.is_file():
        wanted = f"the recipe {recipe.name!r} makes {recipe.written[0]!r} of text"
        raise LabelError(f"{table}: there is no such file; {wanted}, which it must have in a column of that name")
    texts = read_texts(table, recipe.written) if recipe.written else {}
    recordings = _recordings_of(place, outside_paths) if recipe.recorded else {}
    if table.is_file():
        _copy_labels(table, out / LABELS, without=(COLUMN, *PART, *recipe.written))
    return join_material(recordings, texts)


def join_material(recordings: Mapping[str, Recording], texts: Mapping[str, Mapping[str, str]]) -> dict[str, Material]:
    """Material of each sample, from sample id -> recording and modality -> sample id -> text."""
    joined = {}
    for sample_id in dict.fromkeys(chain(recordings, *texts.values())):
        of_sample = {modality: column[sample_id] for modality, column in texts.items() if sample_id in column}
        joined[sample_id] = Material(recordings.get(sample_id), of_sample)
    return joined


def _recordings_of(place: Path, outside_paths: bool) -> dict[str, Recording]:
    """Sample id -> recording, of a folder or a CSV."""
    if place.is_dir():
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
    return found


def _copy_labels(table: Path, path: Path, without: Sequence[str]) -> None:
    """Write the columns of a table but for `without`, if there are any."""
    columns, rows = read_csv(table)
    kept = [name for name in columns if name not in without]
    if kept == ["sample_id"]:
        return
    with atomic_write(path) as unfinished, unfinished.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.DictWriter(stream, kept, extrasaction="ignore", lineterminator="\n")
        writer.writeheader()
        writer.writerows(cells for _, cells in rows)


def _is_done(out: Path, entry: Extracted | None) -> bool:
    if entry is None or entry.error is not None:
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
