"""Measures LIMSSR beside the bare language model and beside the naive way: time, memory, data path, start-up.

python training/benchmark.py [--quick] [--device cuda] [--output benchmark.json]

Prints the tables; writes the JSON and, under the same name, a PNG. `--quick` takes less than ten minutes on two cores.
"""

import argparse
from pathlib import Path

from transformers.utils import logging

from limssr.training.benchmarking.figure import save_figure
from limssr.training.benchmarking.measurements import measure_all
from limssr.training.benchmarking.report import save_json, write_seconds, write_table
from limssr.training.benchmarking.workload import Settings


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--quick", action="store_true", help="smaller batches, fewer rounds")
    parser.add_argument("--device", default="cpu", help="where the model runs: cpu, cuda, ...")
    parser.add_argument(
        "--output", type=Path, default=Path("benchmark.json"), help="JSON file; the PNG lies beside it"
    )
    arguments = parser.parse_args()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    settings = Settings.quick(arguments.device) if arguments.quick else Settings(device=arguments.device)
    results = measure_all(settings, lambda text: print(text, flush=True))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    save_json(results, arguments.output)
    save_figure(results, arguments.output.with_suffix(".png"))
    print(f"\n{results['language_model']}, {results['device_name']}, batch {results['batch_size']}, float32\n")
    print(f"{write_seconds(results)}\n\n{write_table(results)}\n")
    if arguments.quick:
        print("The bounds are meant for the full run: in its small batches, what is done once a batch weighs more.\n")
    print(f"Everything is in {arguments.output}, the picture is {arguments.output.with_suffix('.png')}")


if __name__ == "__main__":
    main()
