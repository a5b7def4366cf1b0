"""Run a table of the LIMSSR paper and write its results beside the published numbers.

limssr reproduce main --folders fs1000=FS1000 fisv=Fis-V rhythmic_gymnastics=RG --seeds 0 1 2
limssr reproduce lora_rank --datasets mtl_aqa --folders mtl_aqa=MTL-AQA --set num_hidden_layers=2
limssr reproduce paths --datasets synthetic --seeds 0 1 2 --dry_run

Each run is `limssr train` on a YAML file of its own in OUTPUT_DIR. The same command again goes on where it stopped:
finished runs stay, interrupted ones continue from their last checkpoint, failed ones are tried again. Tables share
their runs. The report is OUTPUT_DIR/TABLE.md and .json; its last section explains its words.
"""

import argparse
import signal
import sys
from pathlib import Path

from limssr.training.reproduction.tables import TABLES
from limssr.training.utils.launching import exit_on_error, run_script, script_parser
from limssr.training.utils.settings import read_pairs


def parse_arguments() -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument("table", choices=TABLES, help="main, complete, or one of the ablations")
    datasets = "the paper's (fs1000 fisv rg, one model per score or apparatus), names of configurations or YAML files"
    parser.add_argument("--datasets", nargs="+", metavar="DATASET", help=datasets)
    folders = "folder of each dataset, by its name"
    parser.add_argument("--folders", nargs="+", metavar="DATASET=FOLDER", default=[], help=folders)
    seeds = "seeds of initialisation, order, split and masks; by default the configurations' own"
    parser.add_argument("--seeds", nargs="+", type=int, metavar="SEED", default=[], help=seeds)
    variants = "rows of the table; all by default"
    parser.add_argument("--variants", nargs="+", metavar="VARIANT", default=[], help=variants)
    settings = "settings of `limssr train` for all runs, which override the configurations"
    parser.add_argument("--set", nargs="+", metavar="KEY=VALUE", default=[], dest="changes", help=settings)
    parser.add_argument("--output_dir", type=Path, default=Path("runs", "reproduce"))
    parser.add_argument("--dry_run", action="store_true", help="list the runs and report what is finished")
    return parser.parse_args()


def main() -> None:
    arguments = parse_arguments()

    from limssr.training.reproduction.report import write_report
    from limssr.training.reproduction.runner import (
        FAILED,
        PUBLISHED_DATASETS,
        check_settings_of_earlier_runs,
        find_state,
        plan_runs,
        run_all,
    )

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that the run in progress is stopped too
    table = TABLES[arguments.table]
    with exit_on_error():
        changes = read_pairs(arguments.changes, "--set")
        runs = plan_runs(
            table,
            arguments.datasets or list(PUBLISHED_DATASETS),
            arguments.output_dir,
            seeds=arguments.seeds,
            changes=changes,
            folders=read_pairs(arguments.folders, "--folders"),
            variants=arguments.variants,
        )
        check_settings_of_earlier_runs(runs)
    report = arguments.output_dir / arguments.table
    states = [find_state(run) for run in runs]
    for run, state in zip(runs, states, strict=True):
        print(f"{run.name}: {state}")
    if not arguments.dry_run:
        states = run_all(runs, lambda states: write_report(report, table, runs, states, changes))
    write_report(report, table, runs, states, changes)
    print(f"\nThe report is {report}.md and {report.name}.json")
    if any(state.startswith(FAILED) for state in states):
        sys.exit("Not all runs finished; see their logs, and repeat the command to go on.")


if __name__ == "__main__":
    run_script(main)
