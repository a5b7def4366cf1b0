"""One evaluation from arguments to files: what `eval.py` calls."""

import argparse
import json
from pathlib import Path

from torch.utils.data import Dataset
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import cached_file

from ..data import AqaData
from ..data.masked_dataset import MaskedDataset
from ..data.masks import available_masks, draw_static_masks
from ..prediction.predictor import load_members
from ..utils.files import RECORD_FILE, without_paths
from ..utils.launching import exit_on_error
from ..utils.loading import loading_options
from .evaluator import Evaluator
from .figures import save_figure
from .predictions import write_predictions
from .results import EvaluationResult
from .tables import result_caveats, title_with_caveats

UNKNOWN_SELECTION = "No run.json beside {model} says which split its checkpoint was chosen on."


def evaluate_checkpoint(arguments: argparse.Namespace, data: AqaData, accelerator) -> EvaluationResult:
    """
    Args:
        arguments: of `parse_evaluation_arguments`.
        data: the dataset they name.
        accelerator: shares the samples over its processes.

    Raises:
        SystemExit: in one line, where model and data do not fit.
    """
    with exit_on_error(f"cannot load {' and '.join(arguments.models)}"):
        options = loading_options(arguments.dtype, arguments.attention, arguments.quantization)
        members = load_members(arguments.models, arguments.language_model, accelerator.device, **options)
    (model, processor), *others = members
    modalities = [name for name in data.modalities if name in model.config.modalities]
    if not modalities:
        raise SystemExit(f"the model knows {list(model.config.modalities)}, the dataset has {list(data.modalities)}")
    if arguments.split not in data.splits:
        raise SystemExit(f"the dataset has no split {arguments.split!r}, only {', '.join(data.splits)}")
    with exit_on_error(f"cannot evaluate {' and '.join(arguments.models)} on {arguments.data}"):
        evaluator = Evaluator(
            model,
            processor,
            data.splits[arguments.split],
            modalities,
            rows_seen_in_training(arguments, data, modalities),
            accelerator,
            best_attainable=best_attainable(data, modalities),
            batch_size=arguments.batch_size,
            others=others,
        )
        return evaluator.evaluate(arguments.protocol)


def rows_seen_in_training(arguments: argparse.Namespace, data: AqaData, modalities: list[str]) -> Dataset:
    """The training split without what was hidden for good, which the ridge must not see either."""
    rows = data.splits["train"]
    if arguments.train_missing_rates is None:
        return rows
    observed = available_masks(rows, modalities)
    usable = [index for index, mask in enumerate(observed) if any(mask)]
    rows, observed = rows.select(usable), [observed[index] for index in usable]
    ids = rows.select_columns(["sample_id"])["sample_id"][:]
    rates, seed = arguments.train_missing_rates, arguments.train_missing_seed
    return MaskedDataset(rows, modalities, draw_static_masks(ids, modalities, rates, seed, observed))


def best_attainable(data: AqaData, modalities: list[str]) -> dict | None:
    """What is known of the best possible predictor, by masks of the model's modalities."""
    kept = [name in modalities for name in data.modalities]
    best = {}
    for mask, metrics in (data.best_attainable or {}).items():
        if not any(flag and not keep for flag, keep in zip(mask, kept, strict=True)):
            best[tuple(flag for flag, keep in zip(mask, kept, strict=True) if keep)] = metrics
    return best or None


def caveats_of(arguments: argparse.Namespace, data: AqaData) -> list[str]:
    """What keeps the result from being an honest measure, that a model was chosen on the test split included."""
    return result_caveats(data.leaky, "test" in map(selection_split, arguments.models))


def write_evaluation(result: EvaluationResult, arguments: argparse.Namespace, data: AqaData) -> None:
    """Writes `metrics.json`, `predictions.parquet` and `evaluation.png` into `output_dir`, marked where need be."""
    folder, caveats, count = arguments.output_dir, caveats_of(arguments, data), len(arguments.models)
    averaged = f", mean of {count} models" if count > 1 else ""
    title = title_with_caveats(f"{data.description}, {arguments.split} split{averaged}", caveats)
    selections = [selection_split(model) for model in arguments.models]
    folder.mkdir(parents=True, exist_ok=True)
    names = ("model", "ensemble_with", "data", "data_options", "split", "train_missing_rates", "train_missing_seed")
    names += ("dtype", "attention", "quantization")
    about = {name: getattr(arguments, name) for name in names}
    about["selected_on"] = selections[0] if count == 1 else selections
    result.save_json(folder / "metrics.json", **without_paths(about), title=title, caveats=caveats)
    write_predictions(result, folder / "predictions.parquet", caveats)
    save_figure(result, folder / "evaluation.png", title)
    if None in selections:
        print(f"\n{UNKNOWN_SELECTION.format(model=arguments.models[selections.index(None)])}")
    print(f"\nmetrics.json, predictions.parquet and evaluation.png are in {folder}")


def selection_split(model: str) -> str | None:
    """The split that chose the checkpoint, as the run's record beside it says: `validation`, `test` or `nothing`.

    Args:
        model: a run's folder, a checkpoint folder inside it, or a Hub name.

    Returns:
        None where no record is found.
    """
    is_checkpoint = Path(model).is_dir() and Path(model).resolve().name.startswith(PREFIX_CHECKPOINT_DIR)
    for folder in [model, Path(model).resolve().parent] if is_checkpoint else [model]:
        record = cached_file(
            folder,
            RECORD_FILE,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
        if record is not None:
            return json.loads(Path(record).read_text(encoding="utf-8")).get("selection", {}).get("on")
    return None
