"""Audit records: what a prediction came from, so that anyone can check it later; fields in `audit.schema.json`."""

import hashlib
import json
import os
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch
from jsonschema import Draft202012Validator

from ...configuration.calibration_limssr import check_level
from ...processing.recordings_limssr import Recording
from ..utils.errors import brief
from ..utils.loading import loading_options
from ..utils.versions import package_versions
from .files import FileSample, SamplePrediction, json_scores, prediction_rows
from .predictions import score_step
from .predictor import ORIGIN, Member, describe_processor, load_members, predict_stream

FORMAT = 1
SCHEMA = Path(__file__).with_name("audit.schema.json")
SETTINGS = ("windows", "zeros_are_missing", "without", "language_model", "dtype", "attention", "quantization")
PACKAGES = ("limssr", "torch", "transformers", "tokenizers", "safetensors", "numpy")  # which decide a score
NUMBERS = ("score", "reasoning_score", "cross_modal_score")


def digest_of_weights(model) -> str:
    """SHA-256 of all weights with their names, in their precision."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def digest_of_settings(model, processor) -> str:
    """SHA-256 of configuration and processor, but not of where they came from."""
    settings = {name: value for name, value in model.config.to_dict().items() if name not in ORIGIN}
    described = json.dumps(settings, sort_keys=True, default=str) + describe_processor(processor)
    return hashlib.sha256(described.encode()).hexdigest()


def digest_of_file(path: str | Path) -> str:
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def place_of(name: str | Path) -> str:
    """The absolute path of a file or folder, which means the same elsewhere; a Hub name as it is."""
    return os.path.abspath(name) if Path(name).exists() else str(name)


def describe_scoring(names: Sequence[str], members: Sequence[Member], arguments: Namespace) -> dict[str, Any]:
    """The entries `models`, `versions` and `settings`, which all records of a call share.

    Args:
        names: checkpoint folders or Hub names.
        members: the models, loaded.
        arguments: arguments of `predict.py`.
    """
    settings = {name: getattr(arguments, name) for name in SETTINGS} | {"level": check_level(arguments.level)}
    return {"models": describe_models(names, members), "versions": package_versions(PACKAGES), "settings": settings}


def describe_models(names: Sequence[str], members: Sequence[Member]) -> list[dict[str, str | None]]:
    """The entries `models` of a record."""
    return [
        {
            "name": place_of(name),
            "revision": model.revision,
            "weights": digest_of_weights(model),
            "settings": digest_of_settings(model, processor),
            "recipe": processor.recipe_digest,
        }
        for name, (model, processor) in zip(names, members, strict=True)
    ]


def write_records(
    predictions: Iterable[SamplePrediction],
    samples: Sequence[FileSample],
    members: Sequence[Member],
    about: Mapping[str, Any],
    stream: TextIO,
) -> Iterator[SamplePrediction]:
    """Write a record of each prediction as it passes by; a sample with an error has none.

    Args:
        predictions: predictions of `predict_stream`.
        samples: samples they are of, in their order.
        members: models with their processors.
        about: entries of all records, see `describe_scoring`.
        stream: open text file; it gets one list in JSON.
    """
    separator = "["
    try:
        for sample, prediction in zip(samples, predictions, strict=True):
            if prediction.error is None:
                record = _record(sample, prediction, members[0][0].config) | about
                stream.write(f"{separator}\n{json.dumps(record, allow_nan=False, ensure_ascii=False)}")
                stream.flush()
                separator = ","
            yield prediction
    finally:
        stream.write("[]\n" if separator == "[" else "\n]\n")


def _record(sample: FileSample, prediction: SamplePrediction, config) -> dict[str, Any]:
    recording = sample.recording
    files = {name: path for name, path in sample.paths.items() if name not in sample.without}
    return {
        "format": FORMAT,
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "sample_id": sample.sample_id,
        "files": {name: {"path": place_of(path), "sha256": digest_of_file(path)} for name, path in files.items()},
        "recording": recording and {**_describe(recording), "sha256": digest_of_file(recording.path)},
        "mask": {name: name in prediction.used for name in config.modalities},
        "scores": json_scores(prediction_rows(prediction, config.score_names)),
    }


def _describe(recording: Recording) -> dict[str, Any]:
    return {"path": place_of(recording.path), "start": recording.start, "end": recording.end}


def read_records(path: str | Path) -> list[dict]:
    """Read the records of a file, as `audit.schema.json` describes them.

    Raises:
        OSError: there is no such file, or it cannot be read.
        ValueError: it holds something else; one line that names the file and the place in it.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
        records = content if isinstance(content, list) else [content]
        wrong = next(Draft202012Validator(json.loads(SCHEMA.read_text(encoding="utf-8"))).iter_errors(records), None)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not JSON in UTF-8: {brief(error)}") from None
    if wrong is not None:
        raise ValueError(f"{path}: no records of `limssr predict --audit`: {wrong.json_path}: {brief(wrong)}")
    return records


def verify_records(records: Sequence[dict]) -> Iterator[tuple[dict, list[str]]]:
    """Score again what the records say, and yield each record with what differs; nothing where all is equal.

    A model of the Hub is loaded in the revision of the record, whatever was published since.

    A score is equal where it rounds to the same, or the next, multiple of the step of `round_scores`: other batches,
    machines and kernels change the bits below.

    Raises:
        OSError, ValueError: a model cannot be loaded.
    """
    loaded: dict[str, tuple[list[Member], list[dict]]] = {}
    versions = package_versions(PACKAGES)
    for record in records:
        settings, names = record["settings"], [entry["name"] for entry in record["models"]]
        revisions = [entry["revision"] for entry in record["models"]]
        key = json.dumps([names, revisions, settings])
        if key not in loaded:
            loading = loading_options(settings["dtype"], settings["attention"], settings["quantization"])
            members = load_members(names, settings["language_model"], revisions=revisions, **loading)
            loaded[key] = members, describe_models(names, members)
        members, models = loaded[key]
        differing = _compare(record["versions"], versions, "version of")
        for before, now in zip(record["models"], models, strict=True):
            differing += _compare(before, now, f"{before['name']}:")
        files = [(name, entry) for name, entry in record["files"].items()]
        files += [("recording", record["recording"])] if record["recording"] else []
        lost = [f"{name}: {entry['path']} is not there" for name, entry in files if not Path(entry["path"]).is_file()]
        if lost:
            yield record, differing + lost
            continue
        for name, entry in files:
            if digest_of_file(entry["path"]) != entry["sha256"]:
                differing.append(f"{name}: {entry['path']} has other contents")
        yield record, differing + _compare_scores(record, members)


def _compare(before: Mapping[str, Any], now: Mapping[str, Any], what: str) -> list[str]:
    return [
        f"{what} {name}: {_short(before.get(name))} in the record, {_short(now.get(name))} now"
        for name in {**before, **now}
        if before.get(name) != now.get(name)
    ]


def _short(value) -> str:
    return value[:12] if isinstance(value, str) and len(value) == 64 else str(value)


def _compare_scores(record: dict, members: Sequence[Member]) -> list[str]:
    """What differs between the scores of a record and those of now."""
    settings, recording = record["settings"], record["recording"]
    sample = FileSample(
        record["sample_id"],
        {name: Path(entry["path"]) for name, entry in record["files"].items()},
        zeros_are_missing=settings["zeros_are_missing"],
        recording=recording and Recording(recording["path"], recording["start"], recording["end"]),
        without=tuple(settings["without"]),
    )
    (found,) = predict_stream(members, [sample], windows=settings["windows"], level=settings["level"])
    if found.error is not None:
        return [f"cannot be scored now: {found.error}"]
    config = members[0][0].config
    differing = _compare(record["mask"], {name: name in found.used for name in config.modalities}, "modality")
    steps = dict(zip(config.score_names, score_step(config).tolist(), strict=True))
    now = json_scores(prediction_rows(found, config.score_names))
    for name, before in record["scores"].items():
        if name not in now:
            differing.append(f"{name}: the model has no such score now")
            continue
        pairs = [(key, before[key], now[name][key]) for key in NUMBERS]
        ends = zip(before["interval"] or [None] * 2, now[name]["interval"] or [None] * 2, strict=True)
        pairs += [("interval", *pair) for pair in ends]
        for key, old, new in pairs:
            if (old is None) != (new is None) or (old is not None and not np.abs(old - new) <= steps[name]):
                differing.append(f"{name}, {key}: {old} in the record, {new} now")
        if before["evidence"] != now[name]["evidence"]:
            differing.append(f"{name}, evidence: {before['evidence']} in the record, {now[name]['evidence']} now")
    return differing
