"""Samples from files, folders and CSVs; scores to text, CSV, TSV, JSON and Parquet."""

import csv
import json
from codecs import getwriter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ...configuration.configuration_limssr import TEXT
from ...processing.recordings_limssr import Recording
from ..data.sources.files import (
    ALL_ZEROS,
    SUFFIXES,
    TEXT_SUFFIX,
    FeatureFileError,
    check_recipe,
    read_features,
    read_text,
)
from ..data.sources.labels import LabelError, path_of_cell, read_csv
from ..data.sources.recordings import COLUMN, PART, RECORDINGS, find_recordings, read_recording
from ..data.sources.walk import find_samples
from ..utils.text import printable


@dataclass(frozen=True)
class FileSample:
    """A sample whose features are still on disk.

    Attributes:
        paths: modality -> file, without the missing modalities.
        error: a mistake found before the files are read.
        zeros_are_missing: take a file of zeros for a missing modality.
        recording: recording that all other modalities are made of.
        without: modalities that are left out.
    """

    sample_id: str
    paths: dict[str, Path] = field(default_factory=dict)
    error: str | None = None
    zeros_are_missing: bool = False
    recording: Recording | None = None
    without: tuple[str, ...] = ()

    def read(self, recipe_digest: str | None = None, max_clips: int | None = None) -> dict[str, np.ndarray | str]:
        """Modality -> (clips, dim) float32, or the text of a `.txt` file; what comes of the recording is not in it.

        Args:
            recipe_digest: digest of the recipe that should have made the features; None for any.
            max_clips: clips to read of a very large file, see `read_features`.

        Raises:
            FeatureFileError: `error` is set, the sample has no file, or a file cannot be used.
        """
        if self.error is not None:
            raise FeatureFileError(self.error)
        paths = {name: path for name, path in self.paths.items() if name not in self.without}
        if not paths and self.recording is None:
            raise FeatureFileError(f"sample {self.sample_id}: no modality is given; at least one is needed")
        contents = {}
        for name, path in paths.items():
            try:
                if path.suffix == TEXT_SUFFIX:
                    contents[name] = read_text(path)
                else:
                    contents[name] = read_features(path, self.zeros_are_missing, max_clips)
                    check_recipe(path, recipe_digest)
            except FeatureFileError as error:
                if error.cause != ALL_ZEROS:
                    raise
        if not contents and self.recording is None:
            raise FeatureFileError(f"sample {self.sample_id}: all its files hold only zeros", ALL_ZEROS)
        return contents


@dataclass(frozen=True)
class SamplePrediction:
    """One sample of a stream: its scores in judges' units, or the reason why there are none.

    Attributes:
        used: names of the modalities the sample was scored from.
        scores, reasoning_scores, cross_modal_scores: (scores,) float64; None with an error.
        interval: (scores, 2) ends of the intervals; None without a calibration.
        sufficient_evidence: (scores,) bool, whether the intervals say anything; None without a calibration.
        error: what is wrong with the sample, or None.
    """

    sample_id: str
    used: list[str]
    scores: np.ndarray | None = None
    reasoning_scores: np.ndarray | None = None
    cross_modal_scores: np.ndarray | None = None
    interval: np.ndarray | None = None
    sufficient_evidence: np.ndarray | None = None
    error: str | None = None


def suffixes_of(modalities: Mapping[str, int | str], written: Collection[str] = ()) -> dict[str, tuple[str, ...]]:
    """Suffixes of the files of each modality.

    Args:
        modalities: modality -> feature size, or `"text"`.
        written: modalities of features that may also be given as a text, see `LimssrProcessor.written`.
    """
    of_features = {name: (*SUFFIXES, TEXT_SUFFIX) if name in written else SUFFIXES for name in modalities}
    return {name: (TEXT_SUFFIX,) if size == TEXT else of_features[name] for name, size in modalities.items()}


def samples_from_folder(folder: str | Path, suffixes: Mapping[str, tuple[str, ...]]) -> list[FileSample]:
    """Find the samples of `<modality>/<id>.npy|.safetensors|.txt`, sorted by id; an id may contain subfolders.

    Recordings are `recordings/<id>.mp4`, or `<id>.mp4` where there is no subfolder of features.

    Args:
        folder: folder with a subfolder for one or more modalities, or with recordings.
        suffixes: suffixes of the files of each modality, see `suffixes_of`.

    Raises:
        FeatureFileError: no subfolder is named like a modality, or none holds a file.
        OSError: a folder cannot be read.
    """
    folder = Path(folder)
    found = [name for name in suffixes if (folder / name).is_dir()]
    recordings = _recordings_below(folder, is_all=not found)
    if not found and not recordings:
        raise FeatureFileError(f"{folder}: expected a folder with at least one subfolder of {list(suffixes)}")
    files: dict[str, dict[str, list[Path]]] = {}
    for name in found:
        for sample_id, paths in find_samples(folder / name, suffixes[name]).items():
            files.setdefault(sample_id, {})[name] = paths
    if not files and not recordings:
        expected = " or ".join(dict.fromkeys(suffix for name in found for suffix in suffixes[name]))
        raise FeatureFileError(f"{folder}: no {expected} file in the subfolders {found}")
    ids = sorted({*files, *recordings})
    return [_folder_sample(sample_id, files.get(sample_id, {}), recordings.get(sample_id)) for sample_id in ids]


def _recordings_below(folder: Path, is_all: bool) -> dict[str, Recording]:
    """Recordings in the folder `recordings`, or with `is_all` in any other; empty where there is none."""
    place = folder / RECORDINGS if (folder / RECORDINGS).is_dir() else folder
    if place == folder and not is_all:
        return {}
    try:
        return find_recordings(place)
    except FeatureFileError:
        if place != folder:
            raise
        return {}


def samples_from_csv(path: str | Path, modalities: Sequence[str], outside_paths: bool = False) -> list[FileSample]:
    """Read a CSV with the column `sample_id` and one column of paths per modality.

    An empty cell is a missing modality; paths start at the CSV's folder. The column `recording` names a recording that
    all else is made of, and `start` and `end` the seconds of the part that counts.

    Args:
        path: CSV file.
        modalities: names of the modalities.
        outside_paths: paths may lead out of the CSV's folder.

    Raises:
        LabelError: the CSV cannot be read (see `read_csv`), or has other columns.
    """
    path, expected = Path(path), f"one or more of {list(modalities)}"
    columns, rows = read_csv(path, expected)
    if not set(columns) & {COLUMN, *modalities} or not set(columns) <= {"sample_id", COLUMN, *PART, *modalities}:
        raise LabelError(f"{path}: the columns are {columns}, expected sample_id and {expected}, or {COLUMN}")
    samples = []
    for line, cells in rows:
        sample_id, recording = cells["sample_id"], None
        where = f"{path}, line {line}, sample {sample_id!r}"
        named = {
            name: path_of_cell(path.parent, cells[name], f"{where}: {name}", outside_paths)
            for name in (COLUMN, *modalities)
            if cells.get(name)
        }
        if COLUMN in named:
            recording = read_recording(named[COLUMN], *(cells.get(name) for name in PART), where)
        paths = {name: named[name] for name in modalities if name in named}
        samples.append(FileSample(sample_id, paths, recording=recording))
    return samples


def _folder_sample(sample_id: str, files: dict[str, list[Path]], recording: Recording | None) -> FileSample:
    for paths in files.values():
        if len(paths) > 1:
            error = f"{paths[0]} and {paths[1].name}: two files for one modality, expected one"
            return FileSample(sample_id, error=printable(error))
    return FileSample(sample_id, {name: paths[0] for name, paths in files.items()}, recording=recording)


Rows = Iterable[tuple[SamplePrediction, list[dict]]]  # each sample with its rows of `ROW_SCHEMA`
NUMBERS = ("score", "reasoning_score", "cross_modal_score", "path_disagreement")
ENDS = ("lower", "upper")  # of the interval
# One row per sample and score, in judges' units; a sample with an error has one row without a score.
ROW_SCHEMA = pa.schema(
    [("sample_id", pa.string()), ("score_name", pa.string())]
    + [(name, pa.float64()) for name in (*NUMBERS, *ENDS)]
    + [("evidence", pa.string()), ("used", pa.string()), ("error", pa.string())]
)


def output_format(form: str | None, path: Path | None) -> str:
    """Return the key of `WRITERS` that is asked for: `form`, or what the suffix of the file says, or `text`.

    Raises:
        ValueError: the suffix says nothing, or there is no file and the format is no text.
    """
    if form is None and path is not None:
        form = {"txt": "text"}.get(path.suffix[1:].lower(), path.suffix[1:].lower())
        if form not in WRITERS:
            suffixes = ", ".join(f".{name}" for name in WRITERS if name != "text")
            raise ValueError(f"--output {path}: the suffix is none of .txt, {suffixes}; use one, or give --format")
    if form == "parquet" and path is None:
        raise ValueError("parquet is no text: name a file, --output FILE.parquet")
    return form or "text"


def write_predictions(
    predictions: Iterable[SamplePrediction], score_names: Sequence[str], form: str, stream: BinaryIO
) -> list[SamplePrediction]:
    """Write each sample as it comes, in judges' units; Parquet at the end.

    Args:
        predictions: predictions of `predict_stream`.
        score_names: names of the model's scores.
        form: key of `WRITERS`. CSV, TSV and Parquet have a row per sample and score; JSON is one list with an object
            per sample, JSONL has an object a line.
        stream: open binary file.

    Returns:
        The samples with an error.
    """
    failed: list[SamplePrediction] = []

    def watched() -> Iterator[tuple[SamplePrediction, list[dict]]]:
        for prediction in predictions:
            if prediction.error is not None:
                failed.append(prediction)
            yield prediction, prediction_rows(prediction, score_names)
            stream.flush()

    WRITERS[form](watched(), score_names, stream)
    return failed


def prediction_rows(prediction: SamplePrediction, score_names: Sequence[str]) -> list[dict[str, str | float | None]]:
    """The rows of `ROW_SCHEMA` for a sample; a number is None for a path the model does not have."""
    if prediction.error is not None:
        return [{"sample_id": prediction.sample_id, "error": prediction.error}]
    paths = (prediction.scores, prediction.reasoning_scores, prediction.cross_modal_scores)
    ends = [(np.nan, np.nan)] * len(score_names) if prediction.interval is None else prediction.interval.tolist()
    rows = []
    columns = zip(score_names, *(path.tolist() for path in paths), ends, describe_evidence(prediction), strict=True)
    for name, score, reasoning, cross_modal, interval, evidence in columns:
        numbers = (score, reasoning, cross_modal, abs(reasoning - cross_modal), *interval)
        row = {"sample_id": prediction.sample_id, "score_name": name, "used": "+".join(prediction.used)}
        row |= zip((*NUMBERS, *ENDS), (number if np.isfinite(number) else None for number in numbers), strict=True)
        rows.append(row | {"evidence": evidence})
    return rows


def describe_evidence(prediction: SamplePrediction) -> list[str | None]:
    """`sufficient` or `insufficient` for each score; None without a calibration."""
    if prediction.sufficient_evidence is None:
        return [None] * len(prediction.scores)
    return ["sufficient" if enough else "insufficient" for enough in prediction.sufficient_evidence.tolist()]


def _write_text(rows_by_sample: Rows, score_names: Sequence[str], stream: BinaryIO) -> None:
    id_width, name_width = None, max(5, *map(len, score_names))
    for prediction, rows in rows_by_sample:
        if id_width is None:
            id_width = max(10, len(prediction.sample_id))
            heading = f"{'sample':{id_width}}  {'score':{name_width}}  {'value':>9}"
            stream.write(f"{heading}  reasoning  cross-modal  apart  {'interval':17}  from\n".encode())
        for row in rows:
            line = f"{row['sample_id']:{id_width}}  "
            if "error" in row:
                line += f"ERROR  {row['error']}"
            else:
                score, main, other, apart = ("-" if row[name] is None else f"{row[name]:.2f}" for name in NUMBERS)
                line += f"{row['score_name']:{name_width}}  {score:>9}  {main:>9}  {other:>11}  {apart:>5}  "
                line += f"{_interval_cell(row):17}  {row['used']}"
            stream.write(f"{line}\n".encode())


def _interval_cell(row: dict) -> str:
    """`61.20 to 80.35`, with `?` where the evidence is insufficient."""
    if row["lower"] is None:
        return "-"
    return f"{row['lower']:.2f} to {row['upper']:.2f}" + (" ?" if row["evidence"] == "insufficient" else "")


def _write_table(rows_by_sample: Rows, score_names: Sequence[str], stream: BinaryIO, delimiter: str = ",") -> None:
    writer = csv.DictWriter(getwriter("utf-8")(stream), ROW_SCHEMA.names, delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    for _, rows in rows_by_sample:
        writer.writerows(rows)


def _write_json(rows_by_sample: Rows, score_names: Sequence[str], stream: BinaryIO) -> None:
    separator = "["
    try:
        for prediction, rows in rows_by_sample:
            stream.write(f"{separator}\n  {_json_object(prediction, rows)}".encode())
            separator = ","
    finally:
        stream.write(b"[]\n" if separator == "[" else b"\n]\n")


def _write_json_lines(rows_by_sample: Rows, score_names: Sequence[str], stream: BinaryIO) -> None:
    for prediction, rows in rows_by_sample:
        stream.write(f"{_json_object(prediction, rows)}\n".encode())


def json_scores(rows: Sequence[dict]) -> dict[str, dict]:
    """Score name -> `NUMBERS`, `interval` and `evidence`, of the rows of a sample without an error."""
    ends = {row["score_name"]: [row[end] for end in ENDS] for row in rows}
    intervals = {name: None if None in interval else interval for name, interval in ends.items()}
    return {
        row["score_name"]: {name: row[name] for name in NUMBERS}
        | {"interval": intervals[row["score_name"]], "evidence": row["evidence"]}
        for row in rows
    }


def _json_object(prediction: SamplePrediction, rows: list[dict]) -> str:
    scores = {} if prediction.error is not None else json_scores(rows)
    entry = {"sample_id": prediction.sample_id, "used": prediction.used, "error": prediction.error, "scores": scores}
    return json.dumps(entry, allow_nan=False, ensure_ascii=False)


def _write_parquet(rows_by_sample: Rows, score_names: Sequence[str], stream: BinaryIO) -> None:
    found: list[dict] = []
    try:
        for _, rows in rows_by_sample:
            found += rows
    finally:  # what was scored before an error is kept
        pq.write_table(pa.Table.from_pylist(found, ROW_SCHEMA), stream)


WRITERS = {
    "text": _write_text,
    "csv": _write_table,
    "tsv": partial(_write_table, delimiter="\t"),
    "json": _write_json,
    "jsonl": _write_json_lines,
    "parquet": _write_parquet,
}
