"""One evaluation from arguments to files, as `eval.py` runs it."""

import argparse
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils.data import Dataset
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import cached_file

from ...configuration.configuration_limssr import is_repository_name
from ...processing.recipes_limssr import Recipe
from ..data import AqaData
from ..data.masked_dataset import MaskedDataset
from ..data.masks import available_masks, draw_static_masks
from ..prediction.predictor import load_members
from ..utils.figures import FigureFormat
from ..utils.files import RECORD_FILE, read_json, write_json
from ..utils.launching import exit_on_error
from ..utils.loading import loading_options
from ..utils.text import printable_lines
from .evaluator import Evaluator
from .figures import save_figure
from .results import METRICS, PREDICTIONS, EvaluationResult, write_predictions
from .tables import evaluation_table, result_caveats, title_with_caveats
from .wrong_prompt import with_wrong_prompt

logger = logging.getLogger(__name__)

FIGURE = "evaluation.png"
RECORDED = ("model", "ensemble_with", "data", "data_options", "split", "train_missing_rates", "train_missing_seed")
RECORDED += ("dtype", "attention", "quantization", "wrong_prompt")


def evaluate_checkpoint(arguments: argparse.Namespace, data: AqaData, accelerator) -> EvaluationResult:
    """Evaluate the models on a split.

    Args:
        arguments: arguments of `eval.py`.
        data: the dataset they name.
        accelerator: shares the samples over its processes.

    Raises:
        SystemExit: model and data do not fit; the message says why.
    """
    models = " and ".join(arguments.models)
    with exit_on_error(f"cannot load {models}"):
        options = loading_options(arguments.dtype, arguments.attention, arguments.quantization)
        members = load_members(arguments.models, arguments.language_model, accelerator.device, **options)
        if arguments.wrong_prompt:
            members = [(model, with_wrong_prompt(processor)) for model, processor in members]
    (model, processor), *others = members
    modalities = [name for name in data.modalities if name in model.config.modalities]
    require_recipe(processor.recipe_digest, data, arguments.data)
    if not modalities:
        raise SystemExit(f"the model knows {list(model.config.modalities)}, the dataset has {list(data.modalities)}")
    if arguments.split not in data.splits:
        raise SystemExit(f"the dataset has no split {arguments.split!r}, only {', '.join(data.splits)}")
    with exit_on_error(f"cannot evaluate {models} on {arguments.data}"):
        evaluator = Evaluator(
            model,
            processor,
            data.splits[arguments.split],
            modalities,
            _training_rows(arguments, data, modalities),
            accelerator,
            best_attainable=_best_attainable(data, modalities),
            batch_size=arguments.batch_size,
            others=others,
        )
        return evaluator.evaluate(arguments.protocol)


def require_recipe(digest: str | None, data: AqaData, name: str) -> None:
    """Check that the features of a dataset were made as those the model was trained on, where both say how.

    Args:
        digest: digest of the model's recipe.
        data: the dataset.
        name: its name.

    Raises:
        SystemExit: another recipe made them.
    """
    if digest is None:
        return
    if data.recipe is None:
        logger.warning("%s does not say which recipe made its features; the model's is %s", name, digest[:12])
    elif (found := Recipe.load(data.recipe).digest) != digest:
        raise SystemExit(
            f"{name}: the recipe {data.recipe['name']!r} ({found[:12]}) made its features, another ({digest[:12]}) "
            "those that the model was trained on; extract them again with the model's recipe"
        )


def _training_rows(arguments: argparse.Namespace, data: AqaData, modalities: list[str]) -> Dataset:
    """The training split without the features that static masks hid, which ridge must not read either."""
    rows, rates = data.splits["train"], arguments.train_missing_rates
    if rates is None:
        return rows
    available = available_masks(rows, modalities)
    rows = rows.select([index for index, mask in enumerate(available) if any(mask)])
    ids = rows.select_columns(["sample_id"])["sample_id"][:]
    masks = draw_static_masks(ids, modalities, rates, arguments.train_missing_seed, list(filter(any, available)))
    return MaskedDataset(rows, modalities, masks)


def _best_attainable(data: AqaData, modalities: list[str]) -> dict:
    """Known metrics of the best possible predictor, for masks over the model's modalities."""
    best = {}
    for mask, metrics in (data.best_attainable or {}).items():
        names = [name for name, used in zip(data.modalities, mask, strict=True) if used]
        if set(names) <= set(modalities):
            best[tuple(int(name in names) for name in modalities)] = metrics
    return best


def run_record(model: str) -> dict:
    """Read the record of the run that trained a checkpoint; empty without one.

    Args:
        model: folder of a run, checkpoint folder inside it, or Hub name.
    """
    if not Path(model).exists() and not is_repository_name(model):  # loading the model says so
        return {}
    is_checkpoint = Path(model).is_dir() and Path(model).resolve().name.startswith(PREFIX_CHECKPOINT_DIR)
    quietly = {"_raise_exceptions_for_missing_entries": False, "_raise_exceptions_for_connection_errors": False}
    for folder in [model, Path(model).resolve().parent] if is_checkpoint else [model]:
        if (record := cached_file(folder, RECORD_FILE, **quietly)) is not None:
            return read_json(record)
    return {}


def selection_split(model: str) -> str | None:
    """Find the split that selected a checkpoint: `validation`, `test` or `nothing`; None without a run record."""
    return run_record(model).get("selection", {}).get("on")


def report_evaluation(result: EvaluationResult, arguments: argparse.Namespace, data: AqaData) -> None:
    """Print the table and write the files of `eval.py`; both name the caveats."""
    selections, count = [selection_split(model) for model in arguments.models], len(arguments.models)
    caveats = result_caveats(data.leaky, "test" in selections)
    caveats += ["the prompts say the wrong modalities"] if arguments.wrong_prompt else []
    models = ("mean of " if count > 1 else "") + ", ".join(arguments.models)
    heading = f"{models} on {arguments.data}, {arguments.split}: {data.description}"
    print(printable_lines(f"{title_with_caveats(heading, caveats)}\n\n{evaluation_table(result)}"))
    about = {name: getattr(arguments, name) for name in RECORDED}
    about["selected_on"] = selections[0] if count == 1 else selections
    title = f"{data.description}, {arguments.split} split" + (f", mean of {count} models" if count > 1 else "")
    write_evaluation(result, arguments.output_dir, title, caveats, arguments.figure_format, **about)
    if None in selections:
        model = arguments.models[selections.index(None)]
        print(f"\nNo {RECORD_FILE} beside {model} says which split its checkpoint was selected on.")
    print(f"\n{METRICS}, {PREDICTIONS} and {FIGURE} are in {arguments.output_dir}")


def write_evaluation(
    result: EvaluationResult,
    folder: str | Path,
    title: str,
    caveats: Sequence[str],
    figure_format: FigureFormat | None = None,
    **about: Any,
) -> None:
    """Write `metrics.json`, `predictions.parquet` and `evaluation.png`, all of them with the caveats.

    Args:
        result: the evaluation.
        folder: folder of the files; it is made.
        title: description of data and models.
        caveats: reasons why the result is no fair measure.
        figure_format: format of the figure besides PNG.
        **about: further entries of `metrics.json`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    result = replace(result, title=title_with_caveats(title, caveats), caveats=list(caveats))
    write_json(folder / METRICS, about | result.to_dict())
    write_predictions(result, folder / PREDICTIONS)
    save_figure(result, folder / FIGURE, figure_format)
