"""How much memory `prepare_data.py` takes at its peak, for a pickled table and for files of the size that is asked.

python tests/training/data/preparation_memory.py MEGABYTES [table|files]

Prints the size of the largest table (or file), the peak of a process that prepares next to nothing, and the peak of
one that prepares it, in bytes as JSON.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).parents[3] / "training" / "prepare_data.py"
TABLES = {"video": ("rgb_VST", 1024), "audio": ("audio_AST", 768), "flow": ("flow_I3D", 1024)}
PEAK = "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=sys.stderr)\n"
PEAK += "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"


def write_tables(folder: Path, megabytes: int) -> int:
    """Fis-V with 2 megabytes of video a sample, and one clip of the rest; returns the size of the video table."""
    (folder / "Fis-feature").mkdir(parents=True)
    ids = [str(number) for number in range(max(8, megabytes // 2))]
    clips = max(1, megabytes * 2**20 // (4 * 1024 * len(ids)))
    for name, lines in (("train.txt", ids[2:]), ("test.txt", ids[:2])):
        (folder / name).write_text("".join(f"{sample_id} 20.5 30.5 0\n" for sample_id in lines))
    generator = np.random.default_rng(0)
    for modality, (suffix, width) in TABLES.items():
        shape = (clips if modality == "video" else 1, width)
        table = {sample_id: generator.random(shape, dtype=np.float32) for sample_id in ids}
        np.save(folder / "Fis-feature" / f"FISV_{suffix}.npy", table)
    return clips * 1024 * 4 * len(ids)


def write_files(folder: Path, megabytes: int) -> int:
    """6 samples of one modality, each a file of this size, which is returned."""
    (folder / "video").mkdir(parents=True)
    lines = ["sample_id,score,split"] + [
        f"{number},{number},{'test' if number > 3 else 'train'}" for number in range(6)
    ]
    (folder / "labels.csv").write_text("\n".join(lines))
    for number in range(6):
        np.save(folder / "video" / f"{number}.npy", np.full((megabytes * 256, 1024), number, dtype=np.float32))
    return megabytes * 2**20


def peak_of(*words: str | Path) -> int:
    """Largest resident memory of a process that runs `prepare_data.py` with these words."""
    command = [sys.executable, "-c", PEAK, sys.executable, SCRIPT, *words]
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return int(done.stdout)


def measure(megabytes: int, kind: str) -> dict[str, int]:
    dataset, write = {"table": ("fisv", write_tables), "files": ("folder", write_files)}[kind]
    with tempfile.TemporaryDirectory() as place:
        place = Path(place)
        write(place / "small", 1)
        size = write(place / "large", megabytes)
        peaks = {name: peak_of(dataset, place / name, place / f"{name}-out") for name in ("small", "large")}
    return {"largest": size, "peak_of_next_to_nothing": peaks["small"], "peak": peaks["large"]}


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]), *(sys.argv[2:] or ["table"]))))
