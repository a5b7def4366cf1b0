"""Train LIMSSR and evaluate it with every subset of its modalities.

python training/train.py CONFIG.yaml [--flag value ...]
accelerate launch training/train.py CONFIG.yaml [--flag value ...]

Flags win over the file. `--help` lists the main ones, `--help_all` the rest; `training/configs` has examples.
"""

import sys

from limssr.training.arguments import parse_training_arguments
from limssr.training.fitting.run import finish_run, prepare_run, push_run
from limssr.training.utils.launching import exit_on_error, start_all_processes


def main() -> None:
    start_all_processes()
    arguments = parse_training_arguments(sys.argv[1:])
    with exit_on_error("train.py"):
        run = prepare_run(*arguments)
    finish_run(run)
    with exit_on_error("train.py"):
        push_run(run)


if __name__ == "__main__":
    main()
