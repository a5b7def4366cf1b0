"""One training run from arguments to results: what `train.py` and the demo call."""

import logging
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, dataclass
from functools import partial
from math import isfinite
from pathlib import Path
from shutil import rmtree

import torch
from accelerate.utils import release_memory
from transformers import set_seed
from transformers.trainer_utils import IntervalStrategy

from ...processing.processing_limssr import LimssrProcessor
from ..arguments import Arguments, DataArguments, LimssrTrainingArguments, ModelArguments
from ..data import AqaData, load, report_missing
from ..data.aqa_data import read_targets
from ..data.deviations import deviation_weights
from ..data.leaks import warn_of_leaks
from ..data.masks import validate_rates
from ..evaluation.calibration import calibrate
from ..evaluation.evaluator import EvaluationResult, evaluate_subsets
from ..evaluation.figures import save_curve
from ..evaluation.run import write_evaluation
from ..evaluation.tables import evaluation_table, result_caveats, title_with_caveats
from ..hub.model_card import write_model_card
from ..hub.repository import HUB_NAME, fetch_checkpoint
from ..utils.checkpoints import checkpoints_in
from ..utils.files import RECORD_FILE, remove_leftovers, write_json
from ..utils.launching import command_line
from ..utils.locks import lock_folder
from ..utils.versions import code_digest, package_versions
from .checkpoints import find_last
from .collator import LimssrCollator
from .folds import EpochChoice, choose_epoch, fold_folder, fold_folders
from .model import build_model, start_at_mean
from .overview import (
    KEPT_BY_OPTIMIZER,
    advise,
    changed_data,
    changed_settings,
    changed_software,
    overview,
    read_run,
    warn_of_few,
)
from .splits import TrainingData, prepare_training_data
from .stopping import train_until_signal
from .trainer import LimssrTrainer, do_not_validate

logger = logging.getLogger(__name__)
PACKAGES = ("limssr", "torch", "transformers", "peft", "accelerate", "datasets", "numpy", "safetensors", "tokenizers")


@dataclass
class PreparedRun:
    """A run that is ready to train.

    Attributes:
        checkpoint: folder it continues; None for a new run.
        choice: what the folds chose, once they are trained.
    """

    arguments: Arguments
    data: AqaData
    rows: TrainingData
    trainer: LimssrTrainer
    checkpoint: str | None
    choice: EpochChoice | None = None


def run_training(*arguments: ModelArguments | DataArguments | LimssrTrainingArguments) -> EvaluationResult:
    """Train, keep the checkpoint that validates best (or the last one), evaluate it on every subset of the test split.

    Writes into `output_dir`: model, processor and code, `metrics.json`, `predictions.parquet`, `evaluation.png`,
    `curve.png`, `run.json` (what was trained, on what and how) and `logs` (TensorBoard). Prints the table.

    Returns:
        The evaluation on the test split.
    """
    with run_folder(arguments[-1]):
        run = prepare_run(*arguments)
        result = finish_run(run)
        push_run(run)
    return result


@contextmanager
def run_folder(args: LimssrTrainingArguments) -> Iterator[None]:
    """Hold the lock of the output folder, and remove what a killed run was writing there.

    Raises:
        LockedError: another process is at work in the folder.
    """
    if args.process_index != 0:
        yield
        return
    with lock_folder(args.output_dir):
        for folder in fold_folders(args.output_dir):
            remove_leftovers(folder)
        yield


def prepare_run(
    model_arguments: ModelArguments, data_arguments: DataArguments, args: LimssrTrainingArguments
) -> PreparedRun:
    """Load data and model, and find out before any training whether everything fits.

    Raises:
        OSError, ValueError, ModuleNotFoundError: something is not there or does not fit; the message says what.
    """
    checkpoint = find_checkpoint(args, data_arguments.folds)
    with args.main_process_first(desc="loading the dataset"):  # which may write a cache
        data = load(data_arguments.dataset, **data_arguments.data_options)
    if args.process_index == 0 or data_arguments.require_complete:
        report_missing(data, data_arguments.list_missing, data_arguments.require_complete)
    if args.process_index == 0:
        warn_of_leaks(data, logger)
    run = _prepare((model_arguments, data_arguments, args), data, checkpoint)
    if run.trainer.is_world_process_zero():
        check_finished_folds(run)
        announce(run)
    return run


def _prepare(arguments: Arguments, data: AqaData, checkpoint: str | None, fold: int | None = None) -> PreparedRun:
    """Prepare a run, or that of one of its folds."""
    model_arguments, data_arguments, args = arguments
    rows = prepare_training_data(data, data_arguments, args.seed, fold)
    set_seed(args.seed)  # new weights depend on the seed alone, whatever loading drew
    model, processor = build_model(model_arguments, data)
    if model_arguments.start_at_mean:
        start_at_mean(model, read_targets(rows.train, data.score_names))
    collator = make_collator(data, data_arguments, rows, processor, args.seed)
    if not rows.validation:
        do_not_validate(args)
    trainer = LimssrTrainer(model, args, collator, rows.train, rows.validation or None, processor)
    run = PreparedRun(arguments, data, rows, trainer, checkpoint)
    trainer.describe = partial(describe_run, run)
    if checkpoint is not None:
        trainer.check_training_state(checkpoint)
    return run


def make_collator(
    data: AqaData, arguments: DataArguments, rows: TrainingData, processor: LimssrProcessor, seed: int
) -> LimssrCollator:
    """Make the collator of training batches."""
    modalities = list(data.modalities)
    by_deviation = arguments.label_weights == "deviation"
    return LimssrCollator(
        processor,
        modalities,
        data.score_names,
        dynamic_mask=rows.dynamic_mask,
        modality_dropout=rows.modality_dropout,
        all_masks=arguments.all_masks,
        clip_dropout=validate_rates(arguments.clip_dropout or 0.0, modalities, "clip dropout"),
        label_weights=deviation_weights(rows.train, data.score_names) if by_deviation else None,
        augment=data.augment,
        seed=seed,
    )


def announce(run: PreparedRun) -> None:
    """Print what is about to be trained; warn of few validation samples and of settings that a resumed run changes."""
    record, args = describe_run(run), run.trainer.args
    print(f"\n{overview(record, run.trainer.model.config, args.output_dir)}\n", flush=True)
    if warning := warn_of_few(list(map(len, run.rows.validation.values()))):
        logger.warning(warning)
    if run.checkpoint is not None:
        compare_with_checkpoint(run.checkpoint, record, args.resume_without_optimizer)


def compare_with_checkpoint(checkpoint: str, record: dict, without_optimizer: bool) -> None:
    """Warn of settings, code and packages that differ from those of a checkpoint, and refuse other data.

    Args:
        checkpoint: folder of the checkpoint.
        record: record of the run that goes on from it.
        without_optimizer: whether only its weights are wanted, on whatever data.

    Raises:
        ValueError: the data has changed; the message names the splits and columns.
    """
    earlier = read_run(checkpoint)
    if earlier is None:
        return
    data = changed_data(earlier, record)
    if data and not without_optimizer:
        raise ValueError(
            f"the run cannot go on from {checkpoint} as if it had never stopped: its data has changed "
            f"({', '.join(data)}). Restore the data, or give `--resume_without_optimizer` to go on from the weights "
            "with a new optimizer."
        )
    if changed := [*data, *changed_settings(earlier, record), *changed_software(earlier, record)]:
        kept = [name for name in KEPT_BY_OPTIMIZER if any(entry.startswith(f"{name} ") for entry in changed)]
        of_optimizer = f" The optimizer keeps its own {', '.join(kept)}." if kept else ""
        said = "; ".join(changed) + f".{of_optimizer}"
        logger.warning("%s was trained with other settings or software: %s", checkpoint, said)


def finish_run(run: PreparedRun) -> EvaluationResult:
    """Train, evaluate and write, see `run_training`."""
    trainer, data, args = run.trainer, run.data, run.trainer.args
    if run.arguments[1].folds is not None:
        run.choice = train_folds(run)
        trainer.share = run.choice.share
        set_seed(args.seed)  # whatever the folds drew
    seconds = train_until_signal(trainer, run.checkpoint).metrics["train_runtime"]
    calibrate_run(run)
    result = evaluate_subsets(
        trainer.model,
        trainer.processing_class,
        data.splits["test"],
        list(data.modalities),
        run.rows.baseline,
        trainer.accelerator,
        best_attainable=data.best_attainable,
        batch_size=args.per_device_eval_batch_size,
        progress=not args.disable_tqdm,
    )
    trainer.save_model(_internal_call=True)  # without a push: the card is not written yet
    if trainer.is_world_process_zero():
        folder = Path(args.output_dir)
        write_results(result, describe_run(run) | {"training_seconds": round(seconds, 1)}, folder)
        write_model_card(folder, trainer.hub_model_id or folder.name)
    return result


def calibrate_run(run: PreparedRun) -> None:
    """Write the errors on the rows that calibrate into the model's configuration, if there are any."""
    trainer, rows = run.trainer, run.rows
    if not len(rows.calibration):
        return
    config = trainer.accelerator.unwrap_model(trainer.model).config
    config.calibration = calibrate(
        trainer.model,
        trainer.processing_class,
        rows.calibration,
        rows.calibration_masks,
        list(run.data.modalities),
        read_targets(rows.train, run.data.score_names),
        run.arguments[1].calibrate_on,
        trainer.accelerator,
        trainer.args.per_device_eval_batch_size,
        progress=not trainer.args.disable_tqdm and trainer.is_world_process_zero(),
    )


def train_folds(run: PreparedRun) -> EpochChoice:
    """Train a model on the rest of each fold, validate it on the fold at each epoch, and choose the best epoch.

    Each fold has a folder in `output_dir`; that of a finished fold holds its record and is not trained again.
    """
    args = run.trainer.args
    histories = []
    for fold in range(run.arguments[1].folds):
        record = read_run(fold_folder(args.output_dir, fold)) or _train_fold(run, fold)
        histories.append(record["history"])
        release_memory()
    choice = choose_epoch(histories, args.metric_for_best_model or "loss", bool(args.greater_is_better))
    if run.trainer.is_world_process_zero():
        best = "undefined" if choice.best is None else f"{choice.best:.4g}"
        found = f"{args.metric_for_best_model} {best}, mean over {len(histories)} folds"
        print(f"\nBest after epoch {choice.epoch:g} of {args.num_train_epochs:g} ({found}).", end=" ")
        print(f"Now the whole training split, for {choice.share:.1%} of the steps.\n", flush=True)
    return choice


def _train_fold(run: PreparedRun, fold: int) -> dict:
    """Train and validate one fold, and return its record."""
    model_arguments, data_arguments, args = run.arguments
    folder, args = fold_folder(args.output_dir, fold), copy(args)
    args.output_dir, args.eval_strategy = str(folder), IntervalStrategy.EPOCH
    args.load_best_model_at_end = args.push_to_hub = False
    checkpoint = find_last(args.output_dir)
    fold_run = _prepare((model_arguments, data_arguments, args), run.data, checkpoint, fold)
    trainer = fold_run.trainer
    if trainer.is_world_process_zero() and checkpoint is not None:
        compare_with_checkpoint(checkpoint, describe_run(fold_run), args.resume_without_optimizer)
    if trainer.is_world_process_zero():
        held_back = fold_run.rows.summary["validation"]["samples"]
        print(f"\nFold {fold + 1} of {data_arguments.folds} in {folder}: {held_back} samples to validate", flush=True)
    train_until_signal(trainer, checkpoint)
    record = describe_run(fold_run)
    trainer.accelerator.wait_for_everyone()  # each process writes its random state into the last checkpoint
    if trainer.is_world_process_zero():
        write_json(folder / RECORD_FILE, record)
        for path in checkpoints_in(folder):  # nobody needs them any more
            rmtree(path)
    return record


def check_finished_folds(run: PreparedRun) -> None:
    """
    Raises:
        ValueError: a fold was trained with other settings than those that the others would have.
    """
    for folder in fold_folders(run.trainer.args.output_dir):
        record, expected = read_run(folder), describe_run(run)
        if record is None:
            continue
        of_fold = expected | {"dataset": record["dataset"]}  # which counts the samples of the fold
        if changed := [*changed_data(record, expected), *changed_settings(record, of_fold)]:
            raise ValueError(
                f"{folder} was trained with other settings: {'; '.join(changed)}. Give the same, or remove the folder."
            )


def push_run(run: PreparedRun) -> None:
    """Push the finished run if that was asked for.

    Raises:
        OSError: the Hub was not reached, or refuses; the message says how to push the folder again.
    """
    trainer, args = run.trainer, run.trainer.args
    if not args.push_to_hub:
        return
    try:
        trainer.push_to_hub("Training finished")
    except OSError as error:
        again = f"limssr publish {args.output_dir} {trainer.hub_model_id}"
        raise OSError(f"{error}. Model and results are complete in {args.output_dir}; push again: {again}") from error


def find_checkpoint(args: LimssrTrainingArguments, folds: int | None = None) -> str | None:
    """Return the checkpoint to continue, see `resume_from_checkpoint`; one on the Hub is fetched into `output_dir`.

    With `folds` there is none before all of them are trained.

    Raises:
        ValueError: `folds` go on from the last checkpoint only.
        HubError: the Hub was not reached, or has no such revision.
        FileNotFoundError: there is no such checkpoint.
        ValueError: none of the checkpoints is whole.
        FileExistsError: `output_dir` has checkpoints, but the run is to start anew.
    """
    wanted, begun = args.resume_from_checkpoint, fold_folders(args.output_dir)
    if folds is not None and wanted not in (None, "last"):
        raise ValueError(f"`resume_from_checkpoint` is {wanted!r}, but a run with `folds` goes on with 'last' only.")
    if wanted is None and (left := next(iter([*checkpoints_in(args.output_dir), *begun]), None)):
        raise FileExistsError(
            f"{left} is left from an earlier run and would be mixed up with the checkpoints of this one: remove it, "
            "name another `output_dir`, or go on with `--resume_from_checkpoint last`."
        )
    if wanted not in (None, "last") and not Path(wanted).exists() and HUB_NAME.fullmatch(wanted):
        with args.main_process_first(desc="fetching the checkpoint"):
            if args.local_process_index == 0:
                fetch_checkpoint(wanted, args.output_dir, args.hub_token)
        return find_last(args.output_dir)
    found = find_last(args.output_dir, not args.resume_without_optimizer) if wanted == "last" else wanted
    if folds is not None and begun and found is None:
        return None
    if wanted is not None and (found is None or not Path(found).is_dir()):
        raise FileNotFoundError(f"`resume_from_checkpoint` is {wanted!r}, but there is no checkpoint to go on from.")
    return found


def how_to_go_on(output_dir: str) -> str:
    """Name the newest checkpoint of a run that was interrupted, and the command that goes on from it."""
    folds = fold_folders(output_dir)
    newest = next((found[0] for found in map(checkpoints_in, [output_dir, *reversed(folds)]) if found), None)
    if newest is None and not folds:
        return f"Interrupted. There is no checkpoint in {output_dir} yet: the same command starts anew."
    kept = f"The newest checkpoint is {newest}" if newest else "Finished folds are kept"
    command = command_line(without=("resume_from_checkpoint", "resume_without_optimizer"))
    return f"Interrupted. {kept}; go on with: {command} --resume_from_checkpoint last"


def describe_run(run: PreparedRun) -> dict:
    """Return the record of a run: what was trained, on what, how, and the result of the selection."""
    model_arguments, data_arguments, args = run.arguments
    data, rows, trainer, state = run.data, run.rows, run.trainer, run.trainer.state
    selection = {
        "on": data_arguments.select_on,
        "mask_sets": list(rows.validation),
        "metric": args.metric_for_best_model,
        "best": _finite(state.best_metric),
        "step": state.best_global_step,
        "steps": state.global_step,
    }
    if run.choice is not None:
        selection |= {"best": run.choice.best, "step": state.global_step, "cross_validation": run.choice.to_dict()}
    return {
        "dataset": {
            "name": data_arguments.dataset,
            "description": data.description,
            "options": data_arguments.data_options,
            "leaky": data.leaky,
            "fingerprint": data.fingerprint,
            **rows.summary,
            "test": {"samples": len(data.splits["test"])},
        },
        "missingness": {
            "kind": data_arguments.missingness,
            "rates": data_arguments.missing_rates,
            "dropout": data_arguments.modality_dropout,
            "all_masks": data_arguments.all_masks,
            "clip_dropout": data_arguments.clip_dropout,
            "seed": rows.mask_seed,
        },
        "selection": selection,
        "seeds": {"training": args.seed, "data": args.data_seed, "masks": rows.mask_seed},
        "parameters": parameter_counts(trainer.model),
        "processes": args.world_size,
        "device": str(args.device),
        "hardware": hardware_name(args.device),
        "versions": package_versions(PACKAGES),
        "code": code_digest(),
        "history": [{name: _finite(value) for name, value in entry.items()} for entry in state.log_history],
        "arguments": {"model": asdict(model_arguments), "data": asdict(data_arguments), "training": args.to_dict()},
    }


def hardware_name(device: torch.device) -> str:
    """Name the kind of a device: other kinds add numbers in another order."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()}, {torch.backends.cpu.get_cpu_capability()}"


def parameter_counts(model) -> dict[str, int]:
    """Count the parameters: all, the trained ones, and those outside the language model."""
    parameters = dict(model.named_parameters())
    trained = sum(parameter.numel() for parameter in parameters.values() if parameter.requires_grad)
    outside = sum(parameter.numel() for name, parameter in parameters.items() if "language_model." not in name)
    within = model.model.language_model.num_parameters()  # which knows that 4-bit weights lie two in a byte
    return {"all": outside + within, "trained": trained, "outside_language_model": outside}


def write_results(result: EvaluationResult, record: dict, folder: Path) -> None:
    """Print the table; write metrics, predictions, pictures and record, all with the caveats of the result."""
    dataset = record["dataset"]
    caveats = result_caveats(dataset["leaky"], record["selection"]["on"] == "test")
    title = f"{dataset['description']}, test split"
    selection, figure_format = record["selection"], record["arguments"]["training"]["figure_format"]
    write_evaluation(result, folder, title, caveats, figure_format, selected_on=selection["on"])
    heading = title_with_caveats(dataset["description"], caveats)
    history = [*record["history"], *selection.get("cross_validation", {}).get("means", [])]
    save_curve(history, folder / "curve.png", heading, selection["step"], figure_format)
    write_json(folder / RECORD_FILE, record)
    heading = title_with_caveats(title, caveats)
    advice = advise(result, record)
    parts = [heading, evaluation_table(result), *([advice] if advice else []), f"Model and results are in {folder}"]
    print("\n" + "\n\n".join(parts), flush=True)


def _finite(value):
    """Return None for NaN and infinite numbers, which strict JSON does not have."""
    return None if isinstance(value, float) and not isfinite(value) else value
