"""Score performances from recordings, feature files and texts, from whatever modalities they have.

limssr predict MODEL --recording dive.mp4 [--start 2 --end 5] [--without audio]
limssr predict MODEL --video a.npy --audio b.safetensors --commentary c.txt
limssr predict MODEL --folder DIR        (DIR/<modality>/<id>.npy, .safetensors or, for a text, .txt; or recordings)
limssr predict MODEL --csv FILE          (sample_id, a column of paths per modality or recording; empty = missing)
limssr predict MODEL --csv FILE --ensemble_with MODEL ...    (the mean over several models)
limssr predict MODEL --recording dive.mp4 --report DIR        (and a page and a picture that explain the score)
limssr predict MODEL --csv FILE --output_dir OUT             (very many, on all cores or GPUs)

Prints or writes, in judges' units, the score, both paths (`reasoning` and `cross-modal`), how far they are apart,
which modalities were used and, of a calibrated model, an interval; `?` marks one that says no more than the training
scores do. A sample that cannot be read is reported and the others are scored; the exit status is then 1. With
`--output_dir`, Ray scores in parallel on this machine, or on the cluster that RAY_ADDRESS names, into
OUT/predictions.parquet; the same command again continues where it was stopped. With `--audit`, a record of each
prediction says what it came from, and `limssr verify` checks it later.
"""

import argparse
import os
import sys
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

from limssr.training.utils.launching import exit_on_error, program_name, run_script, script_parser
from limssr.training.utils.loading import add_ensemble_flag, add_language_model_flag, add_loading_flags

LISTED_FAILURES = 20


def main() -> int:
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SystemExit(f"{program_name()}: start it once, without a launcher; --output_dir starts its own workers")
    arguments, samples = parse_arguments(sys.argv[1:])

    from tqdm.auto import tqdm

    from limssr.processing.recordings_limssr import import_media
    from limssr.training.prediction.audit import describe_scoring, write_records
    from limssr.training.prediction.cluster import RESULT_FILE, predict_into_folder
    from limssr.training.prediction.files import FileSample, write_predictions
    from limssr.training.prediction.predictor import load_members, predict_stream
    from limssr.training.utils.loading import loading_options

    settings = {"zeros_are_missing": arguments.zeros_are_missing, "without": tuple(arguments.without)}
    samples = [replace(sample, **settings) for sample in samples]
    models, output = [arguments.model, *arguments.ensemble_with], arguments.output
    with exit_on_error():
        if any(sample.recording for sample in samples):
            for library in ("av", "cv2"):
                import_media(library)
        loading = loading_options(arguments.dtype, arguments.attention, arguments.quantization)
        loading["language_model"] = arguments.language_model
        if arguments.output_dir:
            names = ("workers", "samples_per_shard", "batch_size", "windows", "level")
            settings = {name: getattr(arguments, name) for name in names}
            failed = predict_into_folder(models, samples, arguments.output_dir, **settings, **loading)
            failed = [FileSample(row["sample_id"], error=row["error"]) for row in failed.to_pylist()]
            print(f"The scores are in {arguments.output_dir / RESULT_FILE}", flush=True)
    if not arguments.output_dir:
        with exit_on_error(f"cannot load {' and '.join(models)}"):
            members = load_members(models, **loading)
        # The bar would run through scores in the same terminal; None: no bar either where there is no terminal.
        silent = len(samples) == 1 or (output is None and sys.stdout.isatty()) or None
        predictions = predict_stream(members, samples, arguments.batch_size, arguments.windows, arguments.level)
        bar = tqdm(predictions, total=len(samples), unit="sample", disable=silent, file=sys.stderr)
        names = members[0][0].config.score_names
        with exit_on_error(f"cannot write {output or arguments.audit}"), lock_of(output), ExitStack() as stack:
            if arguments.audit:
                file = stack.enter_context(arguments.audit.open("w", encoding="utf-8"))
                about = describe_scoring(models, members, arguments)
                bar = stack.enter_context(closing(write_records(bar, samples, members, about, file)))
            failed = write_predictions(bar, names, arguments.format, stack.enter_context(open_output(output)))
        if arguments.report:
            from limssr.training.explanation.reports import write_reports

            unscored = {sample.sample_id for sample in failed}
            scored = [sample for sample in samples if sample.sample_id not in unscored]
            with exit_on_error(f"cannot write reports into {arguments.report}"):
                write_reports(members[0], scored, arguments.report, arguments.level, arguments.batch_size)
    if output or arguments.output_dir or arguments.format != "text":  # else the table says it
        for sample in failed[:LISTED_FAILURES]:
            print(f"ERROR {sample.sample_id}: {sample.error}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(samples)} samples could not be scored", file=sys.stderr)
    return 1 if failed else 0


def lock_of(path: Path | None) -> AbstractContextManager[None]:
    """Lock the file to write; the terminal has no lock."""
    from limssr.training.utils.locks import lock

    return nullcontext() if path is None else lock(path.with_name(f".{path.name}.lock"))


def open_output(path: Path | None) -> AbstractContextManager[BinaryIO]:
    """Open the file to write; without a path it is the terminal, which stays open."""
    return nullcontext(sys.stdout.buffer) if path is None else path.open("wb")


def parse_arguments(words: list[str]) -> tuple[argparse.Namespace, list]:
    """The arguments, and the `FileSample`s they name; the model's configuration says which flags there are."""
    modalities = {}
    if words and not words[0].startswith("-"):
        from limssr.configuration.configuration_limssr import LimssrConfig

        with exit_on_error(f"cannot load the model {words[0]}"):
            modalities = dict(LimssrConfig.from_pretrained(words[0]).modalities)
    parser, names = build_parser(modalities)
    arguments, unknown = parser.parse_known_args(words)
    flags = ", ".join(names)
    if unknown:
        parser.error(f"unknown argument {unknown[0]}; the modalities of {arguments.model} are {flags}")
    given = {name: vars(arguments)[f"features of {name}"] for name in modalities}
    paths = {name: path for name, path in given.items() if path is not None}
    if bool(paths or arguments.recording) == bool(arguments.folder or arguments.csv):
        parser.error(f"give files of one sample ({flags}, --recording), or --folder, or --csv")
    if unknown := [name for name in arguments.without if name not in modalities]:
        parser.error(f"--without {unknown[0]}: the modalities of {arguments.model} are {', '.join(modalities)}")
    from limssr.configuration.calibration_limssr import check_level

    try:
        check_level(arguments.level)
    except ValueError as error:
        parser.error(str(error))
    if arguments.level is not None and (arguments.ensemble_with or arguments.windows):
        parser.error("--level: several models and --windows have no intervals, one model was calibrated without them")
    if arguments.audit and arguments.output_dir:
        parser.error("--audit goes with --output or the terminal, not with --output_dir")
    if arguments.recording is None and (arguments.start, arguments.end) != (None, None):
        parser.error("--start and --end are of --recording; a CSV has columns of these names")

    if arguments.report and (arguments.ensemble_with or arguments.output_dir or arguments.windows):
        parser.error("--report explains one model and one window: not with --ensemble_with, --output_dir or --windows")

    from limssr.processing.processing_limssr import LimssrProcessor
    from limssr.processing.recipes_limssr import Recipe
    from limssr.processing.recordings_limssr import Recording
    from limssr.training.prediction.files import (
        FileSample,
        output_format,
        samples_from_csv,
        samples_from_folder,
        suffixes_of,
    )

    try:
        arguments.format = output_format(arguments.format, arguments.output)
    except ValueError as error:
        parser.error(str(error))
    try:
        if arguments.folder:
            recipe = LimssrProcessor.get_processor_dict(arguments.model)[0].get("recipe")
            suffixes = suffixes_of(modalities, [] if recipe is None else Recipe.load(recipe).written)
            return arguments, samples_from_folder(arguments.folder, suffixes)
        if arguments.csv:
            return arguments, samples_from_csv(arguments.csv, list(modalities), arguments.outside_paths)
        recording = None
        if arguments.recording:
            recording = Recording(arguments.recording, arguments.start, arguments.end)
    except (OSError, ValueError) as error:
        parser.exit(2, f"{parser.prog}: {error}\n")
    return arguments, [FileSample(arguments.sample_id, paths, recording=recording)]


def build_parser(modalities: dict[str, int | str]) -> tuple[argparse.ArgumentParser, list[str]]:
    """A parser with a flag for each modality of the model, and these flags."""
    parser = script_parser(__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("model", metavar="MODEL", help="checkpoint folder or Hub name; always the first argument")
    files = parser.add_argument_group(
        "one sample" if modalities else "one sample: --<modality> FILE, see MODEL --help"
    )
    files.add_argument("--sample_id", default="sample", help="its name in the output")
    files.add_argument("--recording", metavar="FILE", help="video or sound; what no other file gives is made of it")
    files.add_argument("--start", type=float, metavar="S", help="second of the recording to begin at")
    files.add_argument("--end", type=float, metavar="S", help="second of the recording to end at")
    many = parser.add_mutually_exclusive_group()
    many.add_argument("--folder", type=Path)
    many.add_argument("--csv", type=Path)
    add("--outside_paths", action="store_true", help="paths in the CSV may lead out of its folder")
    add(
        "--zeros_are_missing", action="store_true", help="take features that are all zero for missing, as training can"
    )
    forms = "text, csv, tsv, json, jsonl or parquet; by default as the suffix of --output says, else text"
    add("--format", choices=("text", "csv", "tsv", "json", "jsonl", "parquet"), metavar="FORMAT", help=forms)
    add("--without", nargs="+", default=[], metavar="MODALITY", help="modalities to leave out")
    output = parser.add_mutually_exclusive_group()
    output.add_argument("--output", type=Path, metavar="FILE", help="file to write instead of the terminal")
    output.add_argument("--output_dir", type=Path, help="folder for predictions.parquet; continues where it stopped")
    add("--audit", type=Path, metavar="FILE", help="write a record of each prediction, JSON, for `limssr verify`")
    add("--report", type=Path, metavar="DIR", help="folder for a page and a picture of each sample that explain it")
    add("--workers", type=int, help="processes for --output_dir (default: one per GPU, else per core)")
    add("--samples_per_shard", type=int, default=256, help="samples that --output_dir writes at a time (256)")
    add("--batch_size", type=int, default=16, help="samples scored at a time (16)")
    add("--level", type=float, help="probability of the intervals, 0.5 to 0.99 (0.9), of a calibrated model")
    add("--windows", action="store_true", help="score all clips of a long sample, as the mean over its windows")
    add_language_model_flag(parser)
    add_ensemble_flag(parser)
    add_loading_flags(parser)
    flags = []
    for name, size in modalities.items():
        kind = f"clips [clips, {size}], .npy or .safetensors; or .txt, where the recipe makes it of text"
        kind = "text, .txt" if isinstance(size, str) else kind
        settings = {"type": Path, "dest": f"features of {name}", "metavar": "FILE", "help": kind}
        try:
            flag = files.add_argument(f"--{name}", **settings)
        except argparse.ArgumentError:  # a modality called like a flag of this script, such as `csv`
            flag = files.add_argument(f"--{name}_file", **settings)
        flags += flag.option_strings
    return parser, flags


if __name__ == "__main__":
    run_script(main)
