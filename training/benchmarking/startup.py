"""How long it takes until the first score: a new Python imports the package and loads a checkpoint."""

import subprocess
import sys
import time
from pathlib import Path

from .workload import build_model, build_processor

LOAD = """
import sys
from limssr.training.prediction import load_model_and_processor
load_model_and_processor(sys.argv[1])
"""


def measure_startup(folder: Path, work: Path) -> dict[str, float]:
    """Seconds of a new process: `import`, the package alone; `load`, with a full checkpoint in float32."""
    model = build_model(folder, "cpu")
    model.save_pretrained(work / "checkpoint")
    build_processor(folder, model.config).save_pretrained(work / "checkpoint")
    return {
        "import": _seconds("import limssr"),
        "load": _seconds(LOAD, str(work / "checkpoint")),
    }


def _seconds(code: str, *words: str) -> float:
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *words], check=True, capture_output=True)  # noqa: S603 (our own words)
    return time.perf_counter() - start
