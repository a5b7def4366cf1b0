"""Score performances from feature files and texts, from whatever modalities there are.

python training/predict.py MODEL --video a.npy --audio b.safetensors --commentary c.txt
python training/predict.py MODEL --folder DIR        (DIR/<modality>/<id>.npy, .safetensors or, of a text, .txt)
python training/predict.py MODEL --csv FILE          (sample_id and one path column a modality; empty = missing)
python training/predict.py MODEL --csv FILE --ensemble_with MODEL ...    (the mean of what several models say)
accelerate launch training/predict.py MODEL --csv FILE --output_dir OUT

Prints or writes, in judges' units, the score, both paths (`reasoning` and `cross-modal`), how far they are apart and
which modalities were used. A sample that cannot be read is reported and the others are scored; the exit status is
then 1. With `--output_dir`, any number of processes and machines write OUT/predictions.parquet together, and the same
command again goes on where it was stopped.
"""

import argparse
import sys
from contextlib import nullcontext

from tqdm.auto import tqdm

from limssr.training.prediction.arguments import find_samples, parse_prediction_arguments
from limssr.training.prediction.cluster import predict_in_shards
from limssr.training.prediction.predictor import Member, load_members, predict_stream
from limssr.training.prediction.writers import write_stream
from limssr.training.utils.launching import exit_on_error, join_processes, start_all_processes
from limssr.training.utils.loading import loading_options

LISTED_FAILURES = 20


def main() -> int:
    start_all_processes()
    arguments, modalities = parse_prediction_arguments(sys.argv[1:], __doc__)
    state = join_processes()
    if state.num_processes > 1 and not arguments.output_dir:
        raise SystemExit("predict.py: several processes write together only into a folder; give --output_dir")
    samples = None if arguments.output_dir else find_samples(arguments, modalities)
    with exit_on_error(f"cannot load {' and '.join(arguments.models)}"):
        options = loading_options(arguments.dtype, arguments.attention, arguments.quantization)
        members = load_members(arguments.models, arguments.language_model, state.device, **options)
    if samples is None:
        return into_folder(members, arguments, modalities, is_first=state.is_main_process)
    return into_stream(members, arguments, samples)


def into_stream(members: list[Member], arguments: argparse.Namespace, samples: list) -> int:
    bar = tqdm(samples, unit="sample", disable=len(samples) == 1, file=sys.stderr)
    predictions = predict_stream(members, bar, arguments.batch_size)
    output = arguments.output.open("w", encoding="utf-8", newline="") if arguments.output else nullcontext(sys.stdout)
    with output as stream:
        failed = write_stream(predictions, list(members[0][0].config.score_names), arguments.format, stream)
    bar.close()
    for sample in failed:
        print(f"ERROR {sample.sample_id}: {sample.error}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} of {len(samples)} samples could not be scored", file=sys.stderr)
    return 1 if failed else 0


def into_folder(members: list[Member], arguments: argparse.Namespace, modalities: dict, is_first: bool) -> int:
    with exit_on_error("predict.py"):
        failed = predict_in_shards(
            members,
            lambda: find_samples(arguments, modalities),
            arguments.output_dir,
            arguments.samples_per_shard,
            arguments.batch_size,
        ).to_pylist()
    if not is_first:
        return 0
    print(f"The scores are in {arguments.output_dir / 'predictions.parquet'}", flush=True)
    for sample in failed[:LISTED_FAILURES]:
        print(f"ERROR {sample['sample_id']}: {sample['error']}", file=sys.stderr)
    if failed:
        print(f"{len(failed)} samples could not be scored; `error` in that file says why", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
