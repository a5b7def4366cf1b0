"""From a dataset's own files to Arrow: begins or goes on, writes, checks, describes."""

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

from accelerate import PartialState

from ..data import REGISTRY, AqaData, build, report_missing
from ..utils.files import atomic_write_text, remove_unfinished, without_paths
from ..utils.launching import LONGEST_WAIT
from .dataset_card import write_dataset_card
from .file_dataset import FileDataset, features_with
from .prepare import PROGRESS, Preparation
from .prepared import DESCRIPTION_FILE, Prepared, write_description
from .sources.files import FeatureSource

PLAN_FILE, CHECKSUM_FILE = f"{PROGRESS}/plan.json", "checksums.sha256"
NO_FOLDER = "-"


def prepare_data(
    dataset: str,
    folder: str,
    out: str | Path,
    options: dict[str, Any] | None = None,
    samples_per_shard: int = 256,
    list_missing: bool = False,
    require_complete: bool = False,
) -> None:
    """
    Writes a dataset as Arrow files, see `data.preparation`; called by every process that `accelerate launch` started.

    Args:
        dataset: a key of `REGISTRY`.
        folder: its option `folder`; `-` for a dataset that reads none.
        out: the folder to write: new, empty, or one that an earlier call did not finish.
        options: its other options.
        samples_per_shard: samples in a file, at most.
        list_missing: print each missing feature.
        require_complete: anything missing is an error; what is complete is kept for the next call.

    Raises:
        ValueError, OSError: the dataset or the folder cannot be used; the message says why.
    """
    if samples_per_shard < 1:
        raise ValueError(f"`samples_per_shard` is {samples_per_shard}, expected 1 or more")
    out, state = Path(out), PartialState(cpu=True, timeout=LONGEST_WAIT)
    with state.main_process_first():  # which may write a cache
        index, sources = open_dataset(dataset, folder, options or {})
    fingerprint = fingerprint_of(index, dataset, options or {}, samples_per_shard)
    begun = begin(out, fingerprint, write=state.is_main_process)
    if begun:
        preparation = Preparation(
            out, index, sources, samples_per_shard, state.process_index, state.num_processes, state.wait_for_everyone
        )
        preparation.write()
        if state.is_main_process:
            finish(preparation, dataset, fingerprint, list_missing, require_complete)
    elif state.is_main_process:
        report_missing(Prepared(out).load(), list_missing, require_complete)
    if state.is_main_process:
        print(f"{out} is {'ready' if begun else 'complete already'}", flush=True)
    state.wait_for_everyone()


def open_dataset(dataset: str, folder: str, options: dict[str, Any]) -> tuple[AqaData, list[FeatureSource]]:
    """The dataset and where its features lie; one that is made rather than read has them in its columns already."""
    if "folder" in options:
        raise ValueError("give the folder of the dataset as FOLDER, not among the options")
    takes_folder = dataset not in REGISTRY or "folder" in REGISTRY[dataset].__dataclass_fields__
    if not takes_folder and folder != NO_FOLDER:
        raise ValueError(f"the dataset {dataset!r} reads no folder; give {NO_FOLDER} in its place")
    built = build(dataset, **({"folder": folder} if takes_folder else {}), **options)
    if not isinstance(built, FileDataset):
        return built.load(), []
    index = built.index()
    return index, built.sources(index)


def fingerprint_of(index: AqaData, dataset: str, options: dict[str, Any], samples_per_shard: int) -> str:
    """What tells one preparation from another: the dataset, its options and labels, and the size of the shards."""
    labels = {
        split: rows.remove_columns([name for name in index.modalities if name in rows.column_names]).to_dict()
        for split, rows in index.splits.items()
    }
    ranges = [index.score_names, index.score_minimums, index.score_ranges, index.modalities]
    content = json.dumps([dataset, without_paths(options), ranges, samples_per_shard, labels])
    return hashlib.sha256(content.encode()).hexdigest()


def begin(out: Path, fingerprint: str, write: bool) -> bool:
    """Begins in a new or empty folder, or goes on with the same preparation.

    Returns:
        False where it is finished already.

    Raises:
        FileExistsError: the folder holds something else.
    """
    for name, unfinished in ((PLAN_FILE, True), (DESCRIPTION_FILE, False)):
        if (out / name).is_file():
            if json.loads((out / name).read_text(encoding="utf-8"))["fingerprint"] != fingerprint:
                raise FileExistsError(
                    f"{out} holds data that was prepared from other labels or with other options; name another folder "
                    "or remove it"
                )
            return unfinished
    if write:
        if out.exists() and any(out.iterdir()):
            raise FileExistsError(f"{out} is not empty, and what is in it is no prepared data; name another folder")
        atomic_write_text(out / PLAN_FILE, json.dumps({"fingerprint": fingerprint}))
    return True


def finish(
    preparation: Preparation, dataset: str, fingerprint: str, list_missing: bool, require_complete: bool
) -> None:
    """Checks what all processes wrote, then writes card, description and checksums."""
    out, missing = preparation.out, preparation.missing()
    data = replace(preparation.index, missing=missing)
    try:
        report_missing(data, list_missing, require_complete)
    except ValueError:
        preparation.forget_incomplete()
        raise
    splits = preparation.check_ids()
    remove_unfinished(out)
    counts = {name: split.num_examples for name, split in splits.items()}
    write_description(out, data, missing, splits=counts, dataset=dataset, fingerprint=fingerprint)
    features = features_with(next(iter(data.splits.values())), data.modalities)
    write_dataset_card(out, data, features, splits, missing)
    atomic_write_text(out / CHECKSUM_FILE, checksums(out))
    shutil.rmtree((out / PROGRESS).rename(out / f"{PROGRESS}-done"))  # at once, so that it is finished or not


def checksums(out: Path) -> str:
    """SHA-256 of every file that is not hidden, as `sha256sum` writes them."""
    lines = []
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out)
        if path.is_file() and path.name != CHECKSUM_FILE and not any(part.startswith(".") for part in name.parts):
            with path.open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {name.as_posix()}\n")
    return "".join(lines)
