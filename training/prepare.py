"""Convert a dataset once to Arrow files, which then load at once and never fill the memory.

limssr prepare DATASET FOLDER OUT [--data_options KEY=VALUE ...] [--num_proc 4]

DATASET and FOLDER are those of training (`fs1000`, `fisv`, ...); FOLDER is `-` for a dataset without files. OUT
appears when it is complete. `datasets.load_dataset(OUT)` reads the rows, and the dataset `prepared` trains on them:
`limssr train ... --dataset prepared --data_options folder=OUT`.
"""

from pathlib import Path

from limssr.training.utils.launching import exit_on_error, run_script, script_parser
from limssr.training.utils.settings import read_pairs


def main(argv: list[str] | None = None) -> None:
    parser = script_parser(__doc__, allow_abbrev=False)
    parser.add_argument("dataset", metavar="DATASET", help="name of the dataset")
    parser.add_argument("folder", metavar="FOLDER", help="folder of its files")
    parser.add_argument("out", metavar="OUT", type=Path, help="new or empty folder to write")
    parser.add_argument("--data_options", nargs="+", metavar="KEY=VALUE", help="other options of the dataset")
    parser.add_argument("--num_proc", type=int, default=1, help="number of processes (default: 1)")
    parser.add_argument("--max_shard_size", default="500MB", help="largest size of a file (default: 500MB)")
    parser.add_argument("--list_missing", action="store_true", help="print each missing feature with its cause")
    parser.add_argument("--require_complete", action="store_true", help="raise an error if anything is missing")
    arguments = vars(parser.parse_args(argv))
    with exit_on_error():
        from limssr.training.data.prepare import prepare_data

        options = read_pairs(arguments.pop("data_options"), "data_options")
        prepare_data(**arguments, options=options)


if __name__ == "__main__":
    run_script(main)
