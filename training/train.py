"""Train LIMSSR and evaluate it on every subset of its modalities.

python training/train.py CONFIG.yaml [--flag value ...]
accelerate launch training/train.py CONFIG.yaml [--flag value ...]

Flags win over the file; `--help` lists them. Files of this kind are in `training/configs`.
"""

import sys

from limssr.training.arguments import parse_training_arguments
from limssr.training.launching import start_all_processes
from limssr.training.training_run import run_training


def main() -> None:
    start_all_processes()
    run_training(*parse_training_arguments(sys.argv[1:]))


if __name__ == "__main__":
    main()
