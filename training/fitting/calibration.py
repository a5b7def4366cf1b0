"""Calibration of a checkpoint that was trained before, on rows that neither trained nor selected it."""

import json
from dataclasses import replace
from pathlib import Path

from ...configuration.configuration_limssr import LimssrConfig
from ..arguments import DataArguments
from ..data import AqaData
from ..data.aqa_data import read_targets
from ..evaluation.calibration import calibrate
from ..evaluation.run import run_record
from ..explanation.neighbours import index_neighbours
from ..hub.model_card import note_neighbours
from ..utils.files import atomic_write_text, read_json
from .splits import TrainingData, prepare_training_data

CONFIG_FILE = "config.json"


def calibrate_checkpoint(
    folder: str | Path,
    model,
    processor,
    name: str,
    data: AqaData,
    split: str,
    batch_size: int = 16,
    neighbours: bool = False,
) -> dict:
    """Calibrate a model and write the table into the `config.json` of its folder.

    Args:
        folder: folder of the checkpoint.
        model: the loaded model.
        processor: its processor.
        name: name of the dataset.
        data: the dataset.
        split: name of the split to calibrate on; of a split that selected the model, the half that did not.
        batch_size: samples per batch.
        neighbours: also write the index of the training samples that explanations compare with, and say so in the
            model card, if there is one. It is training data, and goes wherever the model is published.

    Returns:
        The table.

    Raises:
        FileNotFoundError: the model is no folder.
        ValueError: there are no such rows, or model and data do not fit.
    """
    path = Path(folder) / CONFIG_FILE
    if not path.is_file():
        raise FileNotFoundError(f"{folder} is no folder of a model, which the table could be written into.")
    modalities = [modality for modality in data.modalities if modality in model.config.modalities]
    if not modalities:
        raise ValueError(f"the model knows {list(model.config.modalities)}, the dataset has {list(data.modalities)}.")
    data = replace(data, modalities={modality: data.modalities[modality] for modality in modalities})
    rows = rows_to_calibrate(folder, name, data, split)
    targets = read_targets(rows.train, model.config.score_names)
    about = (rows.calibration, rows.calibration_masks, modalities, targets, split)
    model.config.calibration = table = calibrate(model, processor, *about, batch_size=batch_size)
    settings = read_json(path) | {"calibration": table}
    LimssrConfig.from_dict(settings)  # which checks the table
    atomic_write_text(path, json.dumps(settings, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
    if neighbours:
        index_neighbours(model, processor, rows.train, targets, batch_size).save(folder)
        note_neighbours(folder)
    return table


def rows_to_calibrate(folder: str | Path, name: str, data: AqaData, split: str) -> TrainingData:
    """Find the rows of a split that neither trained nor selected a checkpoint, divided as its training divided them.

    Raises:
        ValueError: there are none.
    """
    record = run_record(str(folder))
    of_run = record.get("arguments", {}).get("data", {"select_on": "nothing"})
    if record and record["dataset"]["name"] != name:  # other data: all of the split is new to the model
        of_run = {"select_on": "nothing"}
    is_divided = of_run.get("calibrate_on") == split or of_run.get("folds") is not None
    if of_run["select_on"] == split and not is_divided:
        raise ValueError(
            f"all rows of the split {split!r} that were held back selected this checkpoint: name another split, or "
            f"train with `calibrate_on: {split}`."
        )
    known = {key: value for key, value in of_run.items() if key in DataArguments.__dataclass_fields__}
    arguments = DataArguments(**{**known, "dataset": name, "calibrate_on": split})
    rows = prepare_training_data(data, arguments, record.get("seeds", {}).get("training", 0))
    if not len(rows.calibration):
        raise ValueError(f"{name} has no rows of a split {split!r} to calibrate on; it has {', '.join(data.splits)}.")
    return rows
