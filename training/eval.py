"""Evaluate a checkpoint under a protocol of missing modalities, beside ridge and the training mean.

limssr eval MODEL DATA [--data_options key=value ...] [--split test] [--output_dir DIR]
limssr eval MODEL CONFIG.yaml        (data and language model of a training run, and what it hid permanently)
    --protocol subsets                                                    every subset of the modalities (default)
    --protocol rates --rates video=0.3 audio=0.5 flow=0.7 --permutations  imbalanced missing rates, in every order
    --protocol curve                                                      missing rates of 0, 0.1 ... 0.9
    --protocol available                                                  everything that the data has
limssr eval MODEL DATA --ensemble_with MODEL ...              (mean score of several models)

Prints the table; writes metrics.json, predictions.parquet and evaluation.png.
"""

import argparse
from contextlib import nullcontext
from pathlib import Path

import yaml

from limssr.training.utils.figures import add_figure_flag
from limssr.training.utils.launching import exit_on_error, run_script, script_parser, start_all_processes
from limssr.training.utils.loading import add_ensemble_flag, add_language_model_flag, add_loading_flags
from limssr.training.utils.settings import merge, read_pairs, read_rates, read_yaml


def main() -> None:
    start_all_processes()
    arguments = parse_arguments()

    from accelerate import Accelerator

    from limssr.training.utils.locks import lock_folder

    accelerator = Accelerator()
    with exit_on_error(), lock_folder(arguments.output_dir) if accelerator.is_main_process else nullcontext():
        evaluate(arguments, accelerator)


def evaluate(arguments: argparse.Namespace, accelerator) -> None:
    """Load the data, evaluate the models on it, and report."""
    from limssr.training.data import load, report_missing
    from limssr.training.evaluation.run import evaluate_checkpoint, report_evaluation

    loading = exit_on_error(f"cannot load the dataset {arguments.data}")
    with loading, accelerator.main_process_first():  # loading may write a cache
        data = load(arguments.data, **arguments.data_options)
        if accelerator.is_main_process or arguments.require_complete:
            report_missing(data, arguments.list_missing, arguments.require_complete)
    result = evaluate_checkpoint(arguments, data, accelerator)
    if accelerator.is_main_process:
        report_evaluation(result, arguments, data)


def parse_arguments() -> argparse.Namespace:
    """Parse the command line; `models`, `protocol` and the data settings have their final values."""
    parser = script_parser(__doc__)
    parser.add_argument("model", help="checkpoint folder or Hub name")
    parser.add_argument("data", help="name of a dataset, or a YAML file of `limssr train` that names one")
    parser.add_argument("--data_options", nargs="+", metavar="KEY=VALUE", help="options of the dataset")
    parser.add_argument("--list_missing", action="store_true", help="print each missing feature with its cause")
    parser.add_argument("--require_complete", action="store_true", help="fail if any feature is missing")
    parser.add_argument("--split", default="test")
    parser.add_argument("--batch_size", type=int, default=16)
    wrong = "write prompts that say the wrong modalities are available, to see whether the model reads them"
    parser.add_argument("--wrong_prompt", action="store_true", help=wrong)
    add_language_model_flag(parser)
    add_ensemble_flag(parser)
    add_loading_flags(parser)
    output = "folder of the files; default: runs/eval/MODEL, with the protocol after it unless it is `subsets`"
    parser.add_argument("--output_dir", type=Path, help=output)
    add_figure_flag(parser)
    parser.add_argument("--protocol", default="subsets", help="how modalities are hidden: one of the above")
    parser.add_argument("--rates", nargs="+", metavar="RATE", help="one RATE or MODALITY=RATE ..., for `rates`")
    parser.add_argument("--permutations", action="store_true", help="use the rates in every order, for `rates`")
    seeds = "mask seeds of `rates` and `curve` (0 1 2 3 4); the report is mean and s.d. over them"
    parser.add_argument("--mask_seeds", type=int, nargs="+", metavar="SEED", help=seeds)
    rates = "one RATE or MODALITY=RATE ...: static missing rates of the training, for ridge; default: the YAML's"
    parser.add_argument("--train_missing_rates", nargs="+", metavar="RATE", help=rates)
    parser.add_argument(
        "--train_missing_seed", type=int, help="mask seed of the training; default: as recorded in run.json"
    )
    arguments = parser.parse_args()
    arguments.models = [arguments.model, *arguments.ensemble_with]

    from limssr.training.evaluation.evaluator import MASK_SEEDS, Protocol

    try:
        read_data_settings(arguments)
        rates, seeds = read_rates(arguments.rates, "rates"), tuple(arguments.mask_seeds or MASK_SEEDS)
        arguments.protocol = Protocol(arguments.protocol, rates, arguments.permutations, seeds)
    except (OSError, ValueError, yaml.YAMLError) as error:
        parser.error(str(error))
    if arguments.output_dir is None:
        suffix = f"_mean_of_{len(arguments.models)}" if arguments.ensemble_with else ""
        suffix += "" if arguments.protocol.name == "subsets" else f"_{arguments.protocol.name}"
        arguments.output_dir = Path("runs", "eval", Path(arguments.model).resolve().name + suffix)
    return arguments


def read_data_settings(arguments: argparse.Namespace) -> None:
    """Convert the data flags to values, and add those that the YAML file sets and no flag does."""
    settings = {}
    if arguments.data.endswith((".yaml", ".yml")):
        from limssr.training.arguments import training_parser

        path = arguments.data
        settings = read_yaml(path, training_parser())
        arguments.language_model = arguments.language_model or path
        arguments.data = settings.get("dataset")
        if not isinstance(arguments.data, str):
            raise ValueError(f"{path}: `dataset` is {arguments.data!r}, expected the name of a dataset.")
    options = (read_pairs(given.get("data_options"), "data_options") for given in (vars(arguments), settings))
    arguments.data_options = merge(*options) or {}
    is_static = settings.get("missingness") == "static"
    rates = read_rates(arguments.train_missing_rates, "train_missing_rates")
    of_file = read_rates(settings.get("missing_rates"), "missing_rates") if is_static else None
    arguments.train_missing_rates = merge(rates, of_file)
    if arguments.train_missing_seed is None:
        from limssr.training.evaluation.run import run_record

        recorded = run_record(arguments.model).get("missingness", {}).get("seed")
        of_file = settings.get("mask_seed", settings.get("seed", 0)) if is_static else 0
        arguments.train_missing_seed = of_file if recorded is None else recorded


if __name__ == "__main__":
    run_script(main)
