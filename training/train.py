"""Train LIMSSR and evaluate it on every subset of its modalities.

python training/train.py CONFIG.yaml [--flag value ...]
accelerate launch training/train.py CONFIG.yaml [--flag value ...]

Flags win over the file; `--help` lists them. Files of this kind are in `training/configs`.
"""

import sys

from limssr.training.arguments import parse_training_arguments
from limssr.training.launching import mistakes_in_one_line, start_all_processes
from limssr.training.training_run import finish_run, prepare_run, push_run


def main() -> None:
    start_all_processes()
    arguments = parse_training_arguments(sys.argv[1:])
    with mistakes_in_one_line("train.py"):
        run = prepare_run(*arguments)
    finish_run(run)
    with mistakes_in_one_line("train.py"):
        push_run(run)


if __name__ == "__main__":
    main()
