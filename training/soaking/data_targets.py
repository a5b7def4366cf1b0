"""Parsers of features, labels, settings and prepared data, with valid files and independent readers."""

import csv
import io
import json
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
from datasets import Dataset
from safetensors.numpy import save

from ..data.extract import RECORD, read_record
from ..data.prepared import DESCRIPTION_FILE, OTHER_FIELDS, PLAIN_FIELDS, map_split, read_description
from ..data.sources.archives import read_archive
from ..data.sources.files import TIMES_KEY, read_features, read_text, read_times
from ..data.sources.labels import read_label_csv, read_label_table
from ..data.sources.midi import read_midi
from ..data.sources.pickles import load_restricted
from ..prediction.files import samples_from_csv
from ..utils.settings import read_settings
from .checking import Target, require_finite

CLIPS = np.arange(6, dtype=np.float32).reshape(3, 2)


def _saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _npy_seeds() -> list[bytes]:
    return [_saved(CLIPS), _saved(np.asfortranarray(CLIPS, ">f8")), _saved(CLIPS[None].astype(np.int16))]


def _load_npy(path: Path) -> np.ndarray:
    array = np.lib.format.read_array(io.BytesIO(path.read_bytes()), allow_pickle=False)
    return np.asarray(array[0] if array.ndim == 3 else array, np.float32)


def _safetensors_seeds() -> list[bytes]:
    return [
        save({"x": CLIPS}),
        save({"x": CLIPS.astype(np.float16)}, {"recipe": "0"}),
        save({"x": np.ones((1, 1), "i4")}),
    ]


def _load_safetensors(path: Path) -> np.ndarray | None:
    """Read by the description of the format: length of the header, JSON, bytes."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    (entry,) = (entry for name, entry in header.items() if name not in ("__metadata__", TIMES_KEY))
    kinds = {"F16": "<f2", "F32": "<f4", "F64": "<f8", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8"}
    kinds |= {"U8": "u1", "U16": "<u2", "U32": "<u4", "U64": "<u8"}
    if entry["dtype"] not in kinds:  # numpy has no bfloat16 and no float8
        return None
    first, last = entry["data_offsets"]
    array = np.frombuffer(content[start + first : start + last], kinds[entry["dtype"]]).reshape(entry["shape"])
    return np.asarray(array[0] if array.ndim == 3 else array, np.float32)


def _times_seeds() -> list[bytes]:
    times = np.array([[0, 1], [1, 2], [2, 3.5]])
    return [save({"x": CLIPS, TIMES_KEY: times}), save({"x": CLIPS})]


def _npz_seeds() -> list[bytes]:
    found = []
    for write in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        write(stream, x=np.ones((5, 2), np.float32), n=np.array([2, 3]), sample_id=np.array(["a", "b"]))
        found.append(stream.getvalue())
    return found


def _load_npz(path: Path) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        members = {name: io.BytesIO(archive.read(name)) for name in archive.namelist()}
    found = {name.removesuffix(".npy"): np.lib.format.read_array(member) for name, member in members.items()}
    ends = np.cumsum(found["n"]).tolist()
    starts = [0, *ends[:-1]] if ends else []
    parts = [found["x"][start:end] for start, end in zip(starts, ends, strict=True)]
    return dict(zip(found["sample_id"].reshape(-1).tolist(), parts, strict=True))


def _pickle_seeds() -> list[bytes]:
    table = {"a": CLIPS, "b": [1, 2.5, "text", None], ("c", 1): {"d": {1, 2}}}
    plain = {"a": [1, (2.5, b"bytes"), "text", None], ("c", True): {"d": [{}, 2**40, -1]}}
    return [pickle.dumps(value, protocol) for value in (table, plain) for protocol in (0, 2, 4, 5)]


class _PlainUnpickler(pickle._Unpickler):
    """Python's own reader, of files that name nothing to call; that in C takes gigabytes for a number in the memo."""

    def find_class(self, module: str, name: str) -> None:
        raise NotImplementedError


def _load_plain_pickle(path: Path) -> Any:
    try:
        return _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except NotImplementedError:
        return None


def _read_rows(path: Path) -> dict[str, Any]:
    labels = read_label_csv(path, ["score"], ["split"])
    numbers = [None if np.isnan(number) else number for number in labels.columns["score"].tolist()]
    return {"ids": labels.sample_ids, "score": numbers, "split": labels.texts["split"]}


def _load_rows(path: Path) -> dict[str, Any]:
    """Read by pandas, cell by cell as text."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False, encoding="utf-8-sig", skip_blank_lines=True)
    table = table.rename(columns=str.strip).map(str.strip)
    numbers = [float(cell) if cell else None for cell in table["score"]]
    return {"ids": table["sample_id"].tolist(), "score": numbers, "split": [cell or None for cell in table["split"]]}


def _read_table(path: Path) -> dict[str, float]:
    labels = read_label_table(path, ["score"])
    return dict(zip(labels.sample_ids, labels.columns["score"].tolist(), strict=True))


def _load_table(path: Path) -> dict[str, float] | None:
    """Read a table without a header by its words."""
    rows = [line.split() for line in path.read_text(encoding="utf-8-sig").split("\n") if line.split()]
    try:
        return {row[0]: float(row[1]) for row in rows}
    except (IndexError, ValueError):  # a header
        return None


def _read_paths(path: Path) -> dict[str, list[Path | None]]:
    samples = samples_from_csv(path, ["video", "audio"])
    return {each.sample_id: [each.paths.get(name) for name in ("video", "audio")] for each in samples}


def _load_paths(path: Path) -> dict[str, list[Path | None]]:
    found = {}
    for row in csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"))):
        cells = {name.strip(): cell.strip() for name, cell in row.items()}
        found[cells["sample_id"]] = [path.parent / cells[name] if cells.get(name) else None for name in MODALITIES]
    return found


MODALITIES = ("video", "audio")
CSV_SEEDS = [
    b"sample_id,score,split\na,1.5,train\nb,,test\n",
    b'\xef\xbb\xbfsplit,"sample_id",score\r\ntrain,"x,y",-2e1\r\n',
]
TABLE_SEEDS = [b"id score\na 1.5\nb 2\n", b"a\t1.5\t7\nb  2 8\n"]
YAML_SEEDS = [b"dataset: synthetic\nlearning_rate: 1e-4\ndata_options: {a: [1, x]}\n", b"a: &b {c: .inf}\nd: *b\n"]
TEXT_SEEDS = [b"The dive.\n", "\ufeffÜber\u2028".encode()]
PATHS_SEEDS = [b"sample_id,video,recording,start,end\na,v.npy,,,\nb,,r.mp4,0.5,2\n", b"sample_id,audio\nc,x/y.npy\n"]
RECORD_SEEDS = [b'\n{"sample_id": "a", "clips": {"video": 3}}\n{"sample_id": "b", "clips": {}, "error": "x.mp4"}\n']
DESCRIPTION = json.dumps({name: [] for name in (*PLAIN_FIELDS, *OTHER_FIELDS)})


def _midi_seeds() -> list[bytes]:
    """A type 0 and a type 1 file by the description of the format: tempo, pedals, and notes of two channels."""
    tempo, end = bytes.fromhex("00ff5103 07a120"), bytes.fromhex("00ff2f00")
    notes = bytes.fromhex("00b0407f 00903c40 6080 3c00 3090 4050 00b04300 8100 8040 40 00b04000")
    tracks = [tempo + notes + end, tempo + end, notes + end]

    def chunk(kind: bytes, content: bytes) -> bytes:
        return kind + len(content).to_bytes(4, "big") + content

    single = chunk(b"MThd", bytes.fromhex("0000 0001 0060")) + chunk(b"MTrk", tracks[0])
    double = chunk(b"MThd", bytes.fromhex("0001 0002 0060")) + b"".join(chunk(b"MTrk", each) for each in tracks[1:])
    return [single, double]


def _read_midi(path: Path) -> dict[str, np.ndarray]:
    return require_finite(read_midi.__wrapped__(path.parent, path.stem))


def _arrow_seeds() -> list[bytes]:
    table = pa.table({"sample_id": ["a", "b"], "score": [1.0, None], "video": [[[1.0, 2.0]], None]})
    found = []
    for rows in (table, Dataset(table).data.table):
        stream = io.BytesIO()
        with pa.ipc.new_stream(stream, rows.schema) as writer:
            writer.write_table(rows)
        found.append(stream.getvalue())
    return found


# Name -> file, seeds, parser and, where there is one, an independent reader.
DATA_TARGETS = {
    "npy": Target("input.npy", _npy_seeds, read_features, _load_npy),
    "safetensors": Target("input.safetensors", _safetensors_seeds, read_features, _load_safetensors),
    "times": Target("input.safetensors", _times_seeds, read_times),
    "npz": Target("input.npz", _npz_seeds, lambda path: read_archive(path, "x"), _load_npz),
    "pickle": Target("input.pkl", _pickle_seeds, load_restricted, _load_plain_pickle),
    "text": Target(
        "input.txt",
        lambda: TEXT_SEEDS,
        read_text,
        lambda path: "\n".join(re.split("\r\n?|\n", path.read_bytes().decode("utf-8-sig"))).strip(),
    ),
    "label_csv": Target("input.csv", lambda: CSV_SEEDS, _read_rows, _load_rows),
    "label_table": Target("input.txt", lambda: TABLE_SEEDS, _read_table, _load_table),
    "paths_csv": Target("input.csv", lambda: PATHS_SEEDS, _read_paths, _load_paths),
    "midi": Target("input.mid", _midi_seeds, _read_midi),
    "settings": Target("input.yaml", lambda: YAML_SEEDS, read_settings),
    "description": Target(
        DESCRIPTION_FILE, lambda: [DESCRIPTION.encode()], lambda path: read_description(path.parent)
    ),
    "arrow": Target(
        "data/x-train.arrow",
        _arrow_seeds,
        lambda path: map_split(path.parents[1], "train", 2).data.table.to_pylist(),
        surround=lambda folder: (folder / "data").mkdir(),
    ),
    "extracted": Target(RECORD, lambda: RECORD_SEEDS, lambda path: read_record(path.parent)),
}
