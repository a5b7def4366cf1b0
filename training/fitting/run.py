"""One training run from arguments to results: what `train.py` and the demo call."""

import logging
import platform
from dataclasses import asdict, dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from math import isfinite
from pathlib import Path

from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint

from ..arguments import Arguments, DataArguments, LimssrTrainingArguments, ModelArguments
from ..data import AqaData, load, report_missing
from ..data.aqa_data import read_targets
from ..data.deviations import deviation_weights
from ..data.masks import validate_rates
from ..evaluation.evaluator import EvaluationResult, evaluate_subsets
from ..evaluation.figures import save_curve
from ..evaluation.run import write_evaluation
from ..evaluation.tables import evaluation_table, result_caveats, title_with_caveats
from ..hub.model_card import write_model_card
from ..hub.repository import HUB_NAME, fetch_checkpoint
from ..utils.files import RECORD_FILE, write_json
from ..utils.launching import command_line
from .collator import LimssrCollator
from .model import build_model, start_at_mean
from .overview import KEPT_BY_OPTIMIZER, advise, changed_settings, overview, warn_of_few
from .splits import TrainingData, prepare_training_data
from .trainer import LimssrTrainer, do_not_validate

logger = logging.getLogger(__name__)
PACKAGES = ("limssr", "torch", "transformers", "peft", "accelerate", "datasets")


@dataclass
class PreparedRun:
    """A run that is ready to train; `checkpoint` is the folder it continues, None for a new run."""

    arguments: Arguments
    data: AqaData
    rows: TrainingData
    trainer: LimssrTrainer
    checkpoint: str | None


def run_training(*arguments: ModelArguments | DataArguments | LimssrTrainingArguments) -> EvaluationResult:
    """Train, keep the checkpoint that validates best (or the last one), evaluate it on every subset of the test split.

    Writes into `output_dir`: model, processor and code, `metrics.json`, `predictions.parquet`, `evaluation.png`,
    `curve.png`, `run.json` (what was trained, on what and how) and `logs` (TensorBoard). Prints the table.

    Returns:
        The evaluation on the test split.
    """
    run = prepare_run(*arguments)
    result = finish_run(run)
    push_run(run)
    return result


def prepare_run(
    model_arguments: ModelArguments, data_arguments: DataArguments, args: LimssrTrainingArguments
) -> PreparedRun:
    """Load data and model, and find out before any training whether everything fits.

    Raises:
        OSError, ValueError, ModuleNotFoundError: something is not there or does not fit; the message says what.
    """
    checkpoint = find_checkpoint(args)
    with args.main_process_first(desc="loading the dataset"):  # which may write a cache
        data = load(data_arguments.dataset, **data_arguments.data_options)
    if args.process_index == 0 or data_arguments.require_complete:
        report_missing(data, data_arguments.list_missing, data_arguments.require_complete)
    rows = prepare_training_data(data, data_arguments, args.seed)
    set_seed(args.seed)  # new weights depend on the seed alone, whatever loading drew
    model, processor = build_model(model_arguments, data)
    if model_arguments.start_at_mean:
        start_at_mean(model, read_targets(rows.train, data.score_names))
    modalities = list(data.modalities)
    by_deviation = data_arguments.label_weights == "deviation"
    collator = LimssrCollator(
        processor,
        modalities,
        data.score_names,
        dynamic_mask=rows.dynamic_mask,
        modality_dropout=rows.modality_dropout,
        all_masks=data_arguments.all_masks,
        clip_dropout=validate_rates(data_arguments.clip_dropout or 0.0, modalities, "clip dropout"),
        label_weights=deviation_weights(rows.train, data.score_names) if by_deviation else None,
        seed=args.seed,
    )
    if not rows.validation:
        do_not_validate(args)
    trainer = LimssrTrainer(model, args, collator, rows.train, rows.validation or None, processor)
    run = PreparedRun((model_arguments, data_arguments, args), data, rows, trainer, checkpoint)
    trainer.describe = partial(describe_run, run)
    if checkpoint is not None:
        trainer.check_training_state(checkpoint)
    if trainer.is_world_process_zero():
        announce(run)
    return run


def announce(run: PreparedRun) -> None:
    """Print what is about to be trained; warn of few validation samples and of settings that a resumed run changes."""
    record, args = describe_run(run), run.trainer.args
    print(f"\n{overview(record, run.trainer.model.config, args.output_dir)}\n", flush=True)
    if warning := warn_of_few(list(map(len, run.rows.validation.values()))):
        logger.warning(warning)
    if run.checkpoint is None:
        return
    if changed := changed_settings(run.checkpoint, record):
        kept = [name for name in KEPT_BY_OPTIMIZER if any(entry.startswith(f"{name} ") for entry in changed)]
        of_optimizer = f" The optimizer keeps its own {', '.join(kept)}." if kept else ""
        logger.warning("%s was trained with other settings: %s.%s", run.checkpoint, "; ".join(changed), of_optimizer)


def finish_run(run: PreparedRun) -> EvaluationResult:
    """Train, evaluate and write, see `run_training`."""
    trainer, data, args = run.trainer, run.data, run.trainer.args
    seconds = trainer.train(resume_from_checkpoint=run.checkpoint).metrics["train_runtime"]
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


def find_checkpoint(args: LimssrTrainingArguments) -> str | None:
    """Return the checkpoint to continue, see `resume_from_checkpoint`; one on the Hub is fetched into `output_dir`.

    Raises:
        HubError: the Hub was not reached, or has no such revision.
        FileNotFoundError: there is no such checkpoint.
        FileExistsError: `output_dir` has checkpoints, but the run is to start anew.
    """
    wanted, newest = args.resume_from_checkpoint, newest_checkpoint(args.output_dir)
    if wanted is None and newest is not None:
        raise FileExistsError(
            f"{newest} is left from an earlier run and would be mixed up with the checkpoints of this one: remove it, "
            "name another `output_dir`, or go on with `--resume_from_checkpoint last`."
        )
    if wanted not in (None, "last") and not Path(wanted).exists() and HUB_NAME.fullmatch(wanted):
        with args.main_process_first(desc="fetching the checkpoint"):
            if args.local_process_index == 0:
                fetch_checkpoint(wanted, args.output_dir, args.hub_token)
        return get_last_checkpoint(args.output_dir)
    found = newest if wanted == "last" else wanted
    if wanted is not None and (found is None or not Path(found).is_dir()):
        raise FileNotFoundError(f"`resume_from_checkpoint` is {wanted!r}, but there is no checkpoint to go on from.")
    return found


def newest_checkpoint(output_dir: str) -> str | None:
    return get_last_checkpoint(output_dir) if Path(output_dir).is_dir() else None


def how_to_go_on(output_dir: str) -> str:
    """Name the newest checkpoint of a run that was interrupted, and the command that goes on from it."""
    newest = newest_checkpoint(output_dir)
    if newest is None:
        return f"Interrupted. There is no checkpoint in {output_dir} yet: the same command starts anew."
    command = command_line(without=("resume_from_checkpoint", "resume_without_optimizer"))
    return f"Interrupted. The newest checkpoint is {newest}; go on with: {command} --resume_from_checkpoint last"


def describe_run(run: PreparedRun) -> dict:
    """Return the record of a run: what was trained, on what, how, and the result of the selection."""
    model_arguments, data_arguments, args = run.arguments
    data, rows, trainer, state = run.data, run.rows, run.trainer, run.trainer.state
    return {
        "dataset": {
            "name": data_arguments.dataset,
            "description": data.description,
            "options": data_arguments.data_options,
            "leaky": data.leaky,
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
        "selection": {
            "on": data_arguments.select_on,
            "mask_sets": list(rows.validation),
            "metric": args.metric_for_best_model,
            "best": _finite(state.best_metric),
            "step": state.best_global_step,
            "steps": state.global_step,
        },
        "seeds": {"training": args.seed, "data": args.data_seed, "masks": rows.mask_seed},
        "parameters": parameter_counts(trainer.model),
        "processes": args.world_size,
        "device": str(args.device),
        "versions": package_versions(),
        "history": [{name: _finite(value) for name, value in entry.items()} for entry in state.log_history],
        "arguments": {"model": asdict(model_arguments), "data": asdict(data_arguments), "training": args.to_dict()},
    }


def parameter_counts(model) -> dict[str, int]:
    """Count the parameters: all, the trained ones, and those outside the language model."""
    parameters = dict(model.named_parameters())
    trained = sum(parameter.numel() for parameter in parameters.values() if parameter.requires_grad)
    outside = sum(parameter.numel() for name, parameter in parameters.items() if "language_model." not in name)
    within = model.model.language_model.num_parameters()  # which knows that 4-bit weights lie two in a byte
    return {"all": outside + within, "trained": trained, "outside_language_model": outside}


def package_versions() -> dict[str, str]:
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:  # run from a folder that was not installed
            versions[name] = "not installed"
    return versions


def write_results(result: EvaluationResult, record: dict, folder: Path) -> None:
    """Print the table; write metrics, predictions, pictures and record, all with the caveats of the result."""
    dataset = record["dataset"]
    caveats = result_caveats(dataset["leaky"], record["selection"]["on"] == "test")
    title = f"{dataset['description']}, test split"
    selection, figure_format = record["selection"], record["arguments"]["training"]["figure_format"]
    write_evaluation(result, folder, title, caveats, figure_format, selected_on=selection["on"])
    heading = title_with_caveats(dataset["description"], caveats)
    save_curve(record["history"], folder / "curve.png", heading, selection["step"], figure_format)
    write_json(folder / RECORD_FILE, record)
    heading = title_with_caveats(title, caveats)
    advice = advise(result, record)
    parts = [heading, evaluation_table(result), *([advice] if advice else []), f"Model and results are in {folder}"]
    print("\n" + "\n\n".join(parts), flush=True)


def _finite(value):
    """Return None for NaN and infinite numbers, which strict JSON does not have."""
    return None if isinstance(value, float) and not isfinite(value) else value
