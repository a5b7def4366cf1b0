"""Summarise training runs: mean and s.d. over seeds, the ensemble of the seeds, average over tasks.

limssr summarize RUN ... [--json FILE]      (folders that `limssr train` wrote)

Runs of one task may differ in their seeds only. With several tasks, such as the seven scores of FS1000, their average
follows: Fisher's z for correlations, arithmetic for errors; averages over masks leave out the complete one. Runs with
the same scores make an ensemble: their predictions averaged, compared with their ridge models, averaged alike.
"""

from pathlib import Path

from limssr.training.utils.files import write_json
from limssr.training.utils.launching import exit_on_error, run_script, script_parser
from limssr.training.utils.text import printable_lines


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="folder of a run")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every metric with mean and s.d. as JSON")
    arguments = parser.parse_args()
    with exit_on_error("cannot summarize"):
        from limssr.training.evaluation.ensembles import read_ensembles
        from limssr.training.evaluation.seeds import read_task_runs, summarize_runs
        from limssr.training.evaluation.tables import ensemble_table, summary_table

        runs = {folder: read_task_runs(folder) for folder in arguments.runs}
        summaries = summarize_runs([run for scores in runs.values() for run in scores])
        tasks = {folder: [run.task for run in scores] for folder, scores in runs.items()}
        ensembles, reasons = read_ensembles(tasks)
        parts = [*map(summary_table, summaries), *map(ensemble_table, ensembles), *reasons]
        print(printable_lines("\n\n".join(parts)))
        if arguments.json is not None:
            written = {"summaries": summaries, "ensembles": ensembles}
            written = {name: [entry.to_dict() for entry in part] for name, part in written.items()}
            write_json(arguments.json, written | {"no_ensemble": reasons})


if __name__ == "__main__":
    run_script(main)
