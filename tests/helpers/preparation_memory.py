"""How far the memory of a process grows while it prepares a pickled table, or files, of the size that is asked.

python tests/helpers/preparation_memory.py MEGABYTES [table|files [DTYPE]]

Prints the size of the largest table (or file), what the process held after it had prepared next to nothing, and how
much more it held at its peak, in bytes as JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

TABLES = {"video": ("rgb_VST", 1024), "audio": ("audio_AST", 768), "flow": ("flow_I3D", 1024)}
GROWTH = """
import json, sys
from limssr.training.benchmarking.measure import read_peak, reset_peak
from pathlib import Path
from limssr.training.data.prepare import prepare_data

dataset, small, large = sys.argv[1:]
prepare_data(dataset, small, Path(f"{small}-out"))
reset_peak("cpu")
held = read_peak("cpu")
prepare_data(dataset, large, Path(f"{large}-out"))
print(json.dumps({"held": held, "growth": read_peak("cpu") - held}))
"""


def write_tables(folder: Path, megabytes: int, dtype: str) -> int:
    """Fis-V with 2 megabytes of video a sample, and one clip of the rest; returns the size of the video table."""
    (folder / "Fis-feature").mkdir(parents=True)
    ids = [str(number) for number in range(max(8, megabytes // 2))]
    bytes_per_clip = 1024 * np.dtype(dtype).itemsize
    clips = max(1, megabytes * 2**20 // (bytes_per_clip * len(ids)))
    for name, lines in (("train.txt", ids[2:]), ("test.txt", ids[:2])):
        (folder / name).write_text("".join(f"{sample_id} 20.5 30.5 0\n" for sample_id in lines))
    generator = np.random.default_rng(0)
    for modality, (suffix, width) in TABLES.items():
        shape = (clips if modality == "video" else 1, width)
        table = {sample_id: generator.random(shape).astype(dtype) for sample_id in ids}
        np.save(folder / "Fis-feature" / f"FISV_{suffix}.npy", table)
    return clips * bytes_per_clip * len(ids)


def write_files(folder: Path, megabytes: int, dtype: str) -> int:
    """4 samples of one modality, each a file of this size, which is returned."""
    (folder / "video").mkdir(parents=True)
    splits = ["train", "train", "train", "test"]
    lines = [f"{number},{number},{split}" for number, split in enumerate(splits)]
    (folder / "labels.csv").write_text("\n".join(["sample_id,score,split", *lines]))
    clips = megabytes * 2**20 // (1024 * np.dtype(dtype).itemsize)
    for number in range(len(splits)):
        np.save(folder / "video" / f"{number}.npy", np.full((clips, 1024), number, dtype))
    return megabytes * 2**20


def measure(place: Path, kind: str, megabytes: int, dtype: str = "float32") -> dict[str, int]:
    """The numbers that are printed; `place` is an empty folder."""
    dataset, write = {"table": ("fisv", write_tables), "files": ("folder", write_files)}[kind]
    write(place / "small", 1, dtype)
    size = write(place / "large", megabytes, dtype)
    command = [sys.executable, "-c", GROWTH, dataset, str(place / "small"), str(place / "large")]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    if done.returncode:
        raise RuntimeError(done.stderr)
    return {"largest": size, **json.loads(done.stdout.splitlines()[-1])}


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), (sys.argv[2:] or ["table"])[0], int(sys.argv[1]), *sys.argv[3:])))
