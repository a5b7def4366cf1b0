"""Compare two runs on the samples they share: paired bootstrap intervals and Williams's test.

limssr compare RUN_A RUN_B [--json FILE]      (folders with predictions.parquet, of `limssr train` or `limssr eval`)
limssr compare RUN_A ridge                    (the ridge baseline of RUN_A)
"""

from pathlib import Path

from limssr.training.utils.files import write_json
from limssr.training.utils.launching import exit_on_error, run_script, script_parser
from limssr.training.utils.text import printable_lines

RIDGE = "ridge"


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("run_a", help="folder of a run")
    parser.add_argument("run_b", help=f"folder of another run, or `{RIDGE}`")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every metric, interval and test as JSON")
    arguments = parser.parse_args()
    against_ridge = arguments.run_b == RIDGE and not Path(RIDGE).exists()
    with exit_on_error("cannot compare"):
        from limssr.training.evaluation.compare import compare_runs, read_run_scores
        from limssr.training.evaluation.tables import comparison_table

        first = read_run_scores(arguments.run_a)
        second = read_run_scores(arguments.run_a if against_ridge else arguments.run_b, ridge=against_ridge)
        comparison = compare_runs(first, second)
        print(printable_lines(comparison_table(comparison)))
        if arguments.json is not None:
            write_json(arguments.json, comparison.to_dict())


if __name__ == "__main__":
    run_script(main)
