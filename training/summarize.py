"""Summarise training runs: mean and s.d. over seeds, average over tasks.

limssr summarize RUN ... [--json FILE]      (folders that `limssr train` wrote)

Runs of one task may differ in their seeds only. With several tasks, such as the seven scores of FS1000, their average
follows: Fisher's z for correlations, arithmetic for errors; averages over masks leave out the complete one.
"""

from pathlib import Path

from limssr.training.utils.files import write_json
from limssr.training.utils.launching import exit_on_error, run_script, script_parser


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every metric with mean and s.d. as JSON")
    arguments = parser.parse_args()
    with exit_on_error("cannot summarize"):
        from limssr.training.evaluation.seeds import read_task_runs, summarize_runs
        from limssr.training.evaluation.tables import summary_table

        summaries = summarize_runs([run for folder in arguments.runs for run in read_task_runs(folder)])
        print("\n\n".join(summary_table(summary) for summary in summaries))
        if arguments.json is not None:
            write_json(arguments.json, [summary.to_dict() for summary in summaries])


if __name__ == "__main__":
    run_script(main)
