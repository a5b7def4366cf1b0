"""Measure LIMSSR beside the bare language model and a naive implementation: time, memory, data path.

limssr benchmark [--quick] [--device cuda] [--output benchmark.json]

Prints two tables; writes all numbers as JSON and, beside it, a picture. `--quick` takes less than ten minutes on two
cores.
"""

import json
from pathlib import Path

from limssr.training.utils.figures import add_figure_flag
from limssr.training.utils.launching import run_script, script_parser


def main() -> None:
    parser = script_parser(__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="smaller batches, fewer rounds")
    parser.add_argument("--device", default="cpu", help="where the model runs: cpu, cuda, ...")
    parser.add_argument(
        "--output", type=Path, default=Path("benchmark.json"), help="JSON file; the PNG lies beside it"
    )
    add_figure_flag(parser)
    arguments = parser.parse_args()

    from transformers.utils import logging

    from limssr.training.benchmarking.workload import Settings

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    settings = Settings.quick(arguments.device) if arguments.quick else Settings(device=arguments.device)
    report(settings, arguments.output, arguments.figure_format)
    if arguments.quick:
        print("\nThe bounds are meant for the full run: in small batches, fixed costs weigh more.")


def report(settings, output: Path, figure_format: str | None = None) -> None:
    """Run the benchmark with `workload.Settings`, print its tables and write JSON and picture."""
    from limssr.training.benchmarking.measure import measure_all
    from limssr.training.benchmarking.report import cost_table, requirements_table, save_figure, title

    results = measure_all(settings)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    save_figure(results, output.with_suffix(".png"), figure_format)
    print(f"\n{title(results)}\n\n{cost_table(results)}\n\n{requirements_table(results)}\n")
    print(f"All numbers are in {output}, the picture is {output.with_suffix('.png')}")


if __name__ == "__main__":
    run_script(main)
