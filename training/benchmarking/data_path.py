"""Whether the trainer ever waits: samples a second of the data path, against tables and against a training step."""

from pathlib import Path

import psutil

from .prepared_data import make_dataset, measure_loader, measure_reading, measure_tables, write_tables
from .timing import take_turns
from .workload import MODALITIES, Settings, build_processor, make_config


def measure_data_path(folder: Path, settings: Settings, work: Path, step_seconds: float) -> dict:
    """
    Args:
        folder: the saved language model.
        settings: samples, clips and batch size.
        work: an empty folder for the data.
        step_seconds: of a training step.
    """
    processor = build_processor(folder, make_config(folder))
    dataset = make_dataset(settings.table_samples, settings.clips)
    dataset.save_to_disk(work / "prepared")
    tables = write_tables(dataset, work)
    row = dataset.with_format("numpy")[0]
    del dataset
    features = {name: [row[name]] for name in MODALITIES}
    written = take_turns({"processor": lambda: processor(features=features)}, 20)
    held = psutil.Process().memory_info().rss
    loaded = measure_loader(work / "prepared", processor, settings.loaded_samples, settings.batch_size)
    held = psutil.Process().memory_info().rss - held
    read = measure_reading(work / "prepared", settings.loaded_samples)
    from_tables = measure_tables(tables)
    return {
        "samples_per_second": loaded,
        "loader_over_step": loaded / (settings.batch_size / step_seconds),
        "table_samples": settings.table_samples,
        "samples_per_second_read": read,
        "samples_per_second_from_tables": from_tables,
        "read_speedup_over_tables": read / from_tables,
        "speedup_over_tables": loaded / from_tables,
        "memory_growth_bytes": held,
        "processor_seconds_per_sample": written.time("processor").to_dict(),
    }
