"""Rewrite a dataset once as Arrow files, which then loads in a moment and never fills the memory.

python training/prepare_data.py DATASET FOLDER OUT [--data_options key=value ...]
accelerate launch --cpu --num_processes 4 training/prepare_data.py DATASET FOLDER OUT

DATASET and FOLDER are those of training (`fs1000`, `fisv`, ...; FOLDER is - where it reads none). The same command
again goes on where it was stopped. Afterwards `datasets.load_dataset(OUT)` reads the rows, and the dataset `prepared`
trains on them: `train.py ... --dataset prepared --data_options folder=OUT`.
"""

import argparse

from limssr.training.data.prepare_data_run import prepare_data
from limssr.training.utils.launching import exit_on_error, start_all_processes
from limssr.training.utils.settings import read_pairs


def main() -> None:
    start_all_processes()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("dataset", metavar="DATASET", help="name of the dataset")
    parser.add_argument("folder", metavar="FOLDER", help="where its files are")
    parser.add_argument("out", metavar="OUT", help="folder to write; made if need be")
    parser.add_argument("--data_options", nargs="+", metavar="KEY=VALUE", help="other options of the dataset")
    parser.add_argument("--samples_per_shard", type=int, default=256, help="samples in a file, at most")
    parser.add_argument("--list_missing", action="store_true", help="print each missing feature with its cause")
    parser.add_argument("--require_complete", action="store_true", help="anything missing is an error")
    arguments = parser.parse_args()
    with exit_on_error("prepare_data.py"):
        arguments.data_options = read_pairs(arguments.data_options, "data_options")
        prepare_data(
            arguments.dataset,
            arguments.folder,
            arguments.out,
            arguments.data_options,
            arguments.samples_per_shard,
            arguments.list_missing,
            arguments.require_complete,
        )


if __name__ == "__main__":
    main()
