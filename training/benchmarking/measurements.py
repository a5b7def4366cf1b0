"""The whole benchmark, one part after the other."""

import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from .curves import measure_curves
from .data_path import measure_data_path
from .model_cost import measure_action, measure_missing, measure_training_with_missing
from .padding import measure_padding
from .startup import measure_startup
from .streaming import measure_streaming
from .subsets import measure_subsets
from .timing import synchronize
from .trainer_overhead import measure_trainer_overhead
from .workload import Settings, save_language_model

KEYS = {"infer": "inference", "train": "training"}


def measure_all(settings: Settings, say: Callable[[str], None] = print) -> dict:
    """
    Args:
        settings: how much is measured, and where.
        say: is told of each part when it begins.

    Returns:
        Plain values by part: `inference`, `training`, `missing`, `all_subsets`, `padding`, `data_path`,
        `trainer_overhead`, `streaming`, `startup`, `curves`, and what was measured where.
    """
    begin = time.perf_counter()

    def tell(text: str) -> None:
        say(f"[{time.perf_counter() - begin:4.0f} s] {text}")

    results = {"batch_size": settings.batch_size, "clips": settings.clips, "repeats": settings.repeats}
    results |= {"device": settings.device, "device_name": device_name(settings.device)}
    with tempfile.TemporaryDirectory() as place:
        work = Path(place)
        folder = work / "language_model"
        tell("preparing the language model")
        results["language_model"] = save_language_model(folder, settings.language_model)
        for action, key in KEYS.items():
            tell(f"{key}: this model, the bare language model and the naive way")
            results[key] = measure_action(action, folder, settings).to_dict()
        tell("missing modalities")
        with_missing = measure_training_with_missing(folder, settings)
        results["training"]["speedup_over_naive_with_missing"] = with_missing.median
        results["missing"] = {name: spread.median for name, spread in measure_missing(folder, settings).items()}
        tell("all subsets of the modalities")
        results["all_subsets"] = measure_subsets(folder, settings)
        results["padding"] = measure_padding(folder)
        tell("the data path")
        step = results["training"]["seconds"]["shared"]["median"]
        results["data_path"] = measure_data_path(folder, settings, _new(work / "data"), step)
        tell("the trainer")
        results["trainer_overhead"] = measure_trainer_overhead(folder, settings, _new(work / "trainer"))
        tell(f"a stream of {settings.streamed_samples} samples")
        results["streaming"] = measure_streaming(_new(work / "stream"), settings.streamed_samples)
        tell("start-up")
        results["startup"] = measure_startup(folder, _new(work / "startup"))
        tell("curves")
        results["curves"] = measure_curves(folder, settings)
    results["seconds"] = round(time.perf_counter() - begin, 1)
    return results


def device_name(device: str) -> str:
    """Of the accelerator, or threads and architecture of the processor."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name()
    synchronize(device)
    return f"{torch.get_num_threads()} threads of {os.cpu_count()} cores, {platform.machine()}"


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder
