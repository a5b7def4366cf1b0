"""Measure LIMSSR beside the bare language model and a naive implementation: time, memory, data path.

limssr benchmark [--quick] [--device cuda] [--output benchmark.json]
limssr benchmark --extraction [--recipe offline]         (from recordings to clips and to scores)

Prints two tables; writes all numbers as JSON and, beside it, a picture. `--quick` takes less than ten minutes on two
cores.
"""

import json
import tempfile
from pathlib import Path

from limssr.training.utils.figures import add_figure_flag
from limssr.training.utils.files import write_json
from limssr.training.utils.launching import exit_on_error, run_script, script_parser


def main() -> None:
    parser = script_parser(__doc__, allow_abbrev=False)
    parser.add_argument("--quick", action="store_true", help="smaller batches, fewer rounds")
    parser.add_argument("--device", default="cpu", help="where the model runs: cpu, cuda, ...")
    parser.add_argument(
        "--output", type=Path, default=Path("benchmark.json"), help="JSON file; the PNG lies beside it"
    )
    parser.add_argument("--extraction", action="store_true", help="measure recordings instead, without a picture")
    parser.add_argument("--recipe", default="classic", help="recipe of --extraction, name or JSON file (classic)")
    add_figure_flag(parser)
    arguments = parser.parse_args()

    from transformers.utils import logging

    from limssr.training.benchmarking.workload import Settings

    logging.disable_progress_bar()
    logging.set_verbosity_error()
    settings = (Settings.quick if arguments.quick else Settings)(device=arguments.device, recipe=arguments.recipe)
    if arguments.extraction:
        with exit_on_error():
            report_extraction(settings, arguments.output)
        return
    report(settings, arguments.output, arguments.figure_format)
    if arguments.quick:
        print("\nThe bounds are meant for the full run: in small batches, fixed costs weigh more.")


def report_extraction(settings, output: Path) -> None:
    """Measure extraction with `workload.Settings`, print its table and write the numbers as JSON."""
    from limssr.training.benchmarking.extraction import extraction_table, measure_extraction

    with tempfile.TemporaryDirectory() as work:
        results = measure_extraction(settings, Path(work))
    write_json(output, results)
    print(f"\n{results['device_name']}\n\n{extraction_table(results)}\n")
    print(f"All numbers are in {output}")


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
