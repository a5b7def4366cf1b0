"""Peak memory, each in a process of its own.

python -m limssr.training.benchmarking.memory LANGUAGE_MODEL CONTESTANT infer|train BATCH_SIZE CLIPS DEVICE
"""

import subprocess
import sys
from pathlib import Path

import psutil
import torch

from .contestants import make_contestant
from .workload import Settings, build_model, build_processor, draw_features, make_batch

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def measure_peak(folder: str | Path, contestant: str, action: str, settings: Settings) -> int:
    """Bytes: of the accelerator, or on a CPU all that the process held at most while it ran, weights included."""
    words = [str(folder), contestant, action, str(settings.batch_size), str(settings.clips), settings.device]
    command = [sys.executable, "-m", "limssr.training.benchmarking.memory", *words]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout  # noqa: S603 (our own words)
    return int(output.split()[-1])


def reset_peak(device: str) -> None:
    """Forgets what was held before, such as while weights were loaded."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    elif RESET.exists():
        RESET.write_text("5", encoding="ascii")  # resets the high water mark, see `man 5 proc`


def read_peak(device: str) -> int:
    """Bytes held at most since [`reset_peak`]."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated()
    if RESET.exists():
        (line,) = (line for line in STATUS.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    memory = psutil.Process().memory_info()
    return getattr(memory, "peak_wset", memory.rss)


def main() -> None:
    folder, contestant, action, batch_size, clips, device = sys.argv[1:]
    model = build_model(folder, device)
    batch = make_batch(build_processor(folder, model.config), draw_features(int(batch_size), int(clips)), device)
    model.train(action == "train")
    runner = make_contestant(contestant, model)
    reset_peak(device)
    for _ in range(2):
        getattr(runner, action)(batch)
    print(read_peak(device))


if __name__ == "__main__":
    main()
