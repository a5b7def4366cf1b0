"""Train LIMSSR and evaluate it with every subset of its modalities.

limssr train CONFIG.yaml [--flag value ...]
accelerate launch -m limssr.training.train CONFIG.yaml [--flag value ...]

Flags win over the file. `--help` lists the main ones, `--help_all` the rest; CONFIG.yaml is a file, or the name of
one in `training/configs`.
"""

import sys

from limssr.training.utils.launching import (
    exit_on_error,
    exit_on_interrupt,
    run_script,
    start_all_processes,
)


def main() -> None:
    start_all_processes()

    from limssr.training.arguments import parse_training_arguments

    arguments = parse_training_arguments(sys.argv[1:])

    from limssr.training.fitting.run import finish_run, how_to_go_on, prepare_run, push_run, run_folder

    with (
        exit_on_interrupt(lambda: how_to_go_on(arguments[-1].output_dir)),
        exit_on_error(),
        run_folder(arguments[-1]),
    ):
        run = prepare_run(*arguments)
        finish_run(run)
        push_run(run)


if __name__ == "__main__":
    run_script(main)
