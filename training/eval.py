"""Evaluate a checkpoint on every subset of its modalities, beside the training mean and ridge regression.

python training/eval.py MODEL DATA [--data_options key=value ...] [--split test] [--output_dir DIR]
python training/eval.py MODEL training/configs/X.yaml     (the data of a training run, and what it hid of it for good)

Prints the table; writes metrics.json, predictions.parquet and evaluation.png.
"""

import argparse

from accelerate import Accelerator
from torch.utils.data import Dataset

from limssr.training.data import AqaData, load, report_missing
from limssr.training.evaluation import EvaluationResult, evaluate_subsets
from limssr.training.evaluation_arguments import parse_evaluation_arguments
from limssr.training.launching import mistakes_in_one_line, start_all_processes
from limssr.training.missingness import MaskedDataset, draw_static_masks, observed_masks
from limssr.training.prediction import load_model_and_processor
from limssr.training.reports.figure import save_figure
from limssr.training.reports.marks import marked_title, result_marks
from limssr.training.reports.prediction_files import write_predictions
from limssr.training.reports.run_record import without_paths
from limssr.training.reports.table import evaluation_table


def rows_seen_in_training(arguments: argparse.Namespace, data: AqaData, modalities: list[str]) -> Dataset:
    """The training split without what was hidden for good, which the ridge must not see either."""
    rows = data.splits["train"]
    if arguments.train_missing_rates is None:
        return rows
    observed = observed_masks(rows, modalities)
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


def evaluate(arguments: argparse.Namespace, data: AqaData, accelerator: Accelerator) -> EvaluationResult:
    with mistakes_in_one_line(f"cannot load the model {arguments.model}"):
        model, processor = load_model_and_processor(arguments.model, arguments.text_model)
    modalities = [name for name in data.modalities if name in model.config.modalities]
    if not modalities:
        raise SystemExit(f"the model knows {list(model.config.modalities)}, the dataset has {list(data.modalities)}")
    if arguments.split not in data.splits:
        raise SystemExit(f"the dataset has no split {arguments.split!r}, only {', '.join(data.splits)}")
    with mistakes_in_one_line(f"cannot evaluate {arguments.model} on {arguments.data}"):
        return evaluate_subsets(
            model,
            processor,
            data.splits[arguments.split],
            modalities,
            rows_seen_in_training(arguments, data, modalities),
            accelerator,
            best_attainable=best_attainable(data, modalities),
            batch_size=arguments.batch_size,
        )


def write_files(result: EvaluationResult, arguments: argparse.Namespace, data: AqaData) -> None:
    folder, marks = arguments.output_dir, result_marks(data.leaky)
    folder.mkdir(parents=True, exist_ok=True)
    names = ("model", "data", "data_options", "split", "train_missing_rates", "train_missing_seed")
    about = {name: getattr(arguments, name) for name in names}
    result.save_json(folder / "metrics.json", **without_paths(about), marks=marks)
    write_predictions(result, folder / "predictions.parquet")
    save_figure(result, folder / "evaluation.png", marked_title(f"{data.description}, {arguments.split} split", marks))
    print(f"\nmetrics.json, predictions.parquet and evaluation.png are in {folder}")


def main() -> None:
    start_all_processes()
    arguments, accelerator = parse_evaluation_arguments(__doc__), Accelerator()
    mistakes = mistakes_in_one_line(f"cannot load the dataset {arguments.data}")
    with mistakes, accelerator.main_process_first():  # loading may write a cache
        data = load(arguments.data, **arguments.data_options)
        if accelerator.is_main_process or arguments.require_complete:
            report_missing(data, arguments.list_missing, arguments.require_complete)
    result = evaluate(arguments, data, accelerator)
    if accelerator.is_main_process:
        heading = f"{arguments.model} on {arguments.data}, {arguments.split}: {data.description}"
        print(f"{marked_title(heading, result_marks(data.leaky))}\n\n{evaluation_table(result)}")
        write_files(result, arguments, data)


if __name__ == "__main__":
    main()
