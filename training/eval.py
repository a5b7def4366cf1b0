"""Evaluate a checkpoint on every subset of its modalities, beside the training mean and ridge regression.

python training/eval.py MODEL DATA [--data_options key=value ...] [--split test] [--output_dir DIR]

Prints the table; with --output_dir also writes metrics.json, predictions.parquet and evaluation.png.
"""

import argparse
from pathlib import Path

import yaml
from accelerate import Accelerator

from limssr.training.data import AqaData, load
from limssr.training.evaluation import EvaluationResult, evaluate_subsets
from limssr.training.launching import start_all_processes
from limssr.training.missingness import MaskedDataset, draw_static_masks, observed_masks
from limssr.training.prediction import load_model_and_processor
from limssr.training.reports.figure import save_figure
from limssr.training.reports.prediction_files import write_predictions
from limssr.training.reports.table import evaluation_table


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint folder or Hub name")
    parser.add_argument("data", help="name of a dataset, or a YAML file with `dataset` and `dataset_options`")
    parser.add_argument("--data_options", nargs="+", default=[], metavar="KEY=VALUE", help="options of the dataset")
    parser.add_argument("--split", default="test")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--text_model", help="where an adapter checkpoint finds its language model")
    parser.add_argument("--output_dir", type=Path)
    rates = (
        "one rate or modality=rate ...: the static missing rates of training, so that ridge sees no more than it did"
    )
    parser.add_argument("--train_missing_rates", nargs="+", default=[], metavar="RATE", help=rates)
    parser.add_argument("--train_missing_seed", type=int, default=0, help="seed of those masks")
    arguments = parser.parse_args()
    try:
        arguments.data, arguments.data_options = read_data_arguments(arguments.data, arguments.data_options)
        arguments.train_missing_rates = read_rates(arguments.train_missing_rates)
    except (OSError, ValueError, yaml.YAMLError) as error:
        parser.error(str(error))
    return arguments


def read_pairs(pairs: list[str]) -> dict:
    """`key=value` words as a dictionary, values read as YAML."""
    if wrong := [pair for pair in pairs if "=" not in pair]:
        raise ValueError(f"expected KEY=VALUE, got {wrong[0]!r}")
    return {key: yaml.safe_load(value) for key, value in (pair.split("=", 1) for pair in pairs)}


def read_data_arguments(data: str, pairs: list[str]) -> tuple[str, dict]:
    """Name and options of the dataset; options of the command line win over those of a YAML file."""
    options = read_pairs(pairs)
    if not data.endswith((".yaml", ".yml")):
        return data, options
    settings = yaml.safe_load(Path(data).read_text(encoding="utf-8"))
    if not isinstance(settings, dict) or "dataset" not in settings:
        raise ValueError(f"{data}: expected the key `dataset` (a dataset's name) and, if wanted, `dataset_options`")
    return settings["dataset"], {**(settings.get("dataset_options") or {}), **options}


def read_rates(words: list[str]) -> float | dict | None:
    if len(words) == 1 and "=" not in words[0]:
        return float(words[0])
    return read_pairs(words) or None


def evaluate(arguments: argparse.Namespace, data: AqaData, accelerator: Accelerator) -> EvaluationResult:
    try:
        model, processor = load_model_and_processor(arguments.model, arguments.text_model)
    except (OSError, ValueError) as error:
        raise SystemExit(f"cannot load the model {arguments.model}: {error}") from error
    modalities = [name for name in data.modalities if name in model.config.modalities]
    if not modalities:
        raise SystemExit(f"the model knows {list(model.config.modalities)}, the dataset has {list(data.modalities)}")
    if arguments.split not in data.splits:
        raise SystemExit(f"the dataset has no split {arguments.split!r}, only {', '.join(data.splits)}")
    train_rows = data.splits["train"]
    if arguments.train_missing_rates is not None:
        ids, observed = train_rows["sample_id"], observed_masks(train_rows, modalities)
        rates, seed = arguments.train_missing_rates, arguments.train_missing_seed
        train_rows = MaskedDataset(train_rows, modalities, draw_static_masks(ids, modalities, rates, seed, observed))
    best = {
        tuple(flag for name, flag in zip(data.modalities, mask, strict=True) if name in modalities): metrics
        for mask, metrics in (data.best_attainable or {}).items()
        if not any(flag for name, flag in zip(data.modalities, mask, strict=True) if name not in modalities)
    }
    split, size = data.splits[arguments.split], arguments.batch_size
    return evaluate_subsets(
        model, processor, split, modalities, train_rows, accelerator, best_attainable=best or None, batch_size=size
    )


def main() -> None:
    start_all_processes()
    arguments, accelerator = parse_arguments(), Accelerator()
    try:
        with accelerator.main_process_first():  # loading may write a cache
            data = load(arguments.data, **arguments.data_options)
    except (OSError, TypeError, ValueError) as error:
        raise SystemExit(f"cannot load the dataset {arguments.data}: {error}") from error
    result = evaluate(arguments, data, accelerator)
    if not accelerator.is_main_process:
        return
    heading = f"{arguments.model} on {arguments.data}, {arguments.split}: {data.description}"
    heading += " LEAKY: the features give the label away." if data.leaky else ""
    print(f"{heading}\n\n{evaluation_table(result)}")
    if arguments.output_dir is not None:
        arguments.output_dir.mkdir(parents=True, exist_ok=True)
        about = {name: getattr(arguments, name) for name in ("model", "data", "data_options", "split")}
        about |= {"leaky": data.leaky, "train_missing_rates": arguments.train_missing_rates}
        result.save_json(arguments.output_dir / "metrics.json", **about)
        write_predictions(result, arguments.output_dir / "predictions.parquet")
        title = f"{arguments.data}, {arguments.split} split" + (" (leaky)" if data.leaky else "")
        save_figure(result, arguments.output_dir / "evaluation.png", title)
        print(f"\nmetrics.json, predictions.parquet and evaluation.png are in {arguments.output_dir}")


if __name__ == "__main__":
    main()
