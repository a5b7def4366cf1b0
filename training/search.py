"""Search learning rate, weight decay and dropout once, for several data sets together.

limssr search CONFIG.yaml ... [--trials 30] [--minutes 60] [--folds 3] [--seed 0]
              [--storage search.sqlite] [--output search_result.yaml]

Each CONFIG is a configuration of `limssr train`, with its flags if quoted:
    limssr search "percepiano.yaml --data_options folder=A" "mast_melody.yaml --data_options folder=B"

Every trial is measured on folds of the training split of each; the best has the highest mean over them of Spearman's
rank correlation. The same command goes on with an interrupted search. Needs the package optuna.
"""

import shlex
from pathlib import Path

import yaml

from limssr.training.utils.files import atomic_write_text
from limssr.training.utils.launching import exit_on_error, run_script, script_parser


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("configs", nargs="+", metavar="CONFIG", help="YAML file or its name, with flags if quoted")
    parser.add_argument("--trials", type=int, default=30, help="trials in all (default: 30)")
    parser.add_argument("--minutes", type=float, help="begin no further trial after so many minutes")
    parser.add_argument("--folds", type=int, default=3, help="folds of each training split (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the trials (default: 0)")
    parser.add_argument("--storage", default="search.sqlite", metavar="FILE", help="keeps finished trials")
    parser.add_argument("--output", type=Path, default=Path("search_result.yaml"), metavar="FILE", help="result")
    arguments = parser.parse_args()

    from limssr.training.arguments import parse_training_arguments

    words = {config: shlex.split(config) for config in arguments.configs}
    configs = {Path(first).stem: parse_training_arguments([first, *flags]) for first, *flags in words.values()}
    if len(configs) < len(arguments.configs):
        parser.error("two configurations have the same name")
    with exit_on_error("cannot search"):
        from limssr.training.fitting.search import search

        settings = {name: getattr(arguments, name) for name in ("trials", "minutes", "folds", "seed")}
        for result in search(configs, arguments.storage, **settings):
            atomic_write_text(arguments.output, yaml.safe_dump(result, sort_keys=False))
    print(f"\n{yaml.safe_dump(result['best'], sort_keys=False)}\nEvery trial is in {arguments.output}", flush=True)


if __name__ == "__main__":
    run_script(main)
