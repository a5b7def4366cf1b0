"""The parsers that are fuzzed, each with valid files to begin with and an independent reader to compare with."""

import io
import json
import pickle
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from safetensors.numpy import save

from ..data.prepared import DESCRIPTION_FILE, PLAIN_FIELDS, read_description
from ..data.sources.archives import read_archive
from ..data.sources.files import read_features, read_text
from ..data.sources.labels import read_label_csv, read_label_table
from ..data.sources.pickles import load_restricted
from ..prediction.files import samples_from_csv
from ..utils.settings import read_settings

SLOWEST = 1.0  # seconds of a core for an input


class PromiseBrokenError(AssertionError):
    """A parser took too long, raised what is no message for a user, or read something else than is there."""


@dataclass(frozen=True)
class Target:
    """
    Attributes:
        suffix: of the file.
        seeds: returns contents of valid files.
        read: the parser; a value, or an error that names the file.
        reference: another reader of the same file, for what `read` accepts; by default nothing is compared.
    """

    suffix: str
    seeds: Callable[[], list[bytes]]
    read: Callable[[Path], Any]
    reference: Callable[[Path], Any] | None = None


def check(target: Target, content: bytes, folder: Path) -> bool:
    """Write a content to a file, and return whether the parser accepts it.

    Raises:
        PromiseBrokenError: see there.
    """
    path = folder / f"input{target.suffix}"
    path.write_bytes(content)
    start = time.process_time()
    try:
        found = target.read(path)
    except (OSError, ValueError, pickle.UnpicklingError) as error:
        if path.name not in str(error) or "\n" in str(error):
            raise PromiseBrokenError(f"no line that names the file: {error!r}") from error
        return False
    finally:
        if (seconds := time.process_time() - start) > SLOWEST:
            raise PromiseBrokenError(f"it took {seconds:.1f} s")
    if target.reference is not None and not _same(found, expected := target.reference(path)):
        raise PromiseBrokenError(f"read {found!r}, another reader {expected!r}")
    return True


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, np.ndarray):
        return one.shape == other.shape and np.array_equal(one, other, equal_nan=True)
    return one == other


def _saved(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def _npy_seeds() -> list[bytes]:
    clips = np.arange(6, dtype=np.float32).reshape(3, 2)
    return [_saved(clips), _saved(np.asfortranarray(clips, ">f8")), _saved(clips[None].astype(np.int16))]


def _load_npy(path: Path) -> np.ndarray:
    array = np.lib.format.read_array(io.BytesIO(path.read_bytes()), allow_pickle=False)
    return np.asarray(array[0] if array.ndim == 3 else array, np.float32)


def _safetensors_seeds() -> list[bytes]:
    clips = np.arange(6, dtype=np.float32).reshape(3, 2)
    return [
        save({"x": clips}),
        save({"x": clips.astype(np.float16)}, {"recipe": "0"}),
        save({"x": np.ones((1, 1), "i4")}),
    ]


def _load_safetensors(path: Path) -> np.ndarray:
    """Read by the description of the format: length of the header, JSON, bytes."""
    content = path.read_bytes()
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:start])
    (entry,) = (entry for name, entry in header.items() if name not in ("__metadata__", "times"))
    kinds = {
        "F16": "<f2",
        "F32": "<f4",
        "F64": "<f8",
        "I8": "i1",
        "I16": "<i2",
        "I32": "<i4",
        "I64": "<i8",
        "U8": "u1",
    }
    kinds |= {"U16": "<u2", "U32": "<u4", "U64": "<u8"}
    first, last = entry["data_offsets"]
    array = np.frombuffer(content[start + first : start + last], kinds[entry["dtype"]]).reshape(entry["shape"])
    return np.asarray(array[0] if array.ndim == 3 else array, np.float32)


def _npz_seeds() -> list[bytes]:
    found = []
    for write in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        write(stream, x=np.ones((5, 2), np.float32), n=np.array([2, 3]), sample_id=np.array(["a", "b"]))
        found.append(stream.getvalue())
    return found


def _pickle_seeds() -> list[bytes]:
    table = {"a": np.ones((2, 2), np.float32), "b": [1, 2.5, "text", None], ("c", 1): {"d": {1, 2}}}
    return [pickle.dumps(table, protocol) for protocol in (0, 2, 4, 5)]


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


CSV_SEEDS = [
    b"sample_id,score,split\na,1.5,train\nb,,test\n",
    b'\xef\xbb\xbfsplit,"sample_id",score\r\ntrain,"x,y",-2e1\r\n',
]
TABLE_SEEDS = [b"id score\na 1.5\nb 2\n", b"a\t1.5\t7\nb  2 8\n"]
YAML_SEEDS = [b"dataset: synthetic\nlearning_rate: 1e-4\ndata_options: {a: [1, x]}\n", b"a: &b {c: .inf}\nd: *b\n"]
TEXT_SEEDS = [b"The dive.\n", "\ufeffÜber\u2028".encode()]
PATHS_SEEDS = [b"sample_id,video,recording,start,end\na,v.npy,,,\nb,,r.mp4,0.5,2\n"]
DESCRIPTION = json.dumps(
    {name: [] for name in (*PLAIN_FIELDS, "splits", "best_attainable", "samples", "dropped", "odd")}
)


def _read_description(path: Path) -> dict[str, Any]:
    """As `aqa_data.json`, which has this name alone."""
    path.replace(path.with_name(DESCRIPTION_FILE))
    try:
        return read_description(path.parent)
    except ValueError as error:
        raise ValueError(str(error).replace(DESCRIPTION_FILE, path.name)) from error


# Name -> suffix, seeds, parser and, where there is one, an independent reader.
TARGETS = {
    "npy": Target(".npy", _npy_seeds, read_features, _load_npy),
    "safetensors": Target(".safetensors", _safetensors_seeds, read_features, _load_safetensors),
    "npz": Target(".npz", _npz_seeds, lambda path: list(read_archive(path, "x"))),
    "pickle": Target(".pkl", _pickle_seeds, load_restricted),
    "text": Target(".txt", lambda: TEXT_SEEDS, read_text, lambda path: path.read_bytes().decode("utf-8-sig").strip()),
    "label_csv": Target(".csv", lambda: CSV_SEEDS, _read_rows, _load_rows),
    "label_table": Target(".txt", lambda: TABLE_SEEDS, lambda path: read_label_table(path, ["score"]).sample_ids),
    "paths_csv": Target(".csv", lambda: PATHS_SEEDS, lambda path: samples_from_csv(path, ["video", "audio"])),
    "settings": Target(".yaml", lambda: YAML_SEEDS, read_settings),
    "description": Target(".json", lambda: [DESCRIPTION.encode()], _read_description),
}
