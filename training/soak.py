"""Attack the package in large numbers: what tests/reliability does in seconds, for as long as wanted.

limssr soak fuzz [--runs 100000] [--targets npy label_csv ...]     (damaged files for every parser; needs atheris)
limssr soak pickles                                                (hostile pickles, three ways in)
limssr soak kills [--kills 200]                                    (trainings that are killed, and go on)
limssr soak load [--samples 100000]                                (scoring with bad samples and killed processes)

Prints what held and what did not; the exit status is 1 if anything did not. docs/reliability.md has the figures.
"""

from importlib import import_module

from limssr.training.utils.launching import exit_on_error, run_script, script_parser

# Part -> its module in `soaking/`, which defines `add_flags(parser)` and `run(arguments)`: whether all of it held.
PARTS = {"fuzz": "fuzzing", "pickles": "pickles", "kills": "kills", "load": "load"}


def main() -> int:
    parser = script_parser(__doc__, allow_abbrev=False)
    parts = parser.add_subparsers(dest="part", required=True, metavar="PART")
    modules = {name: import_module(f"limssr.training.soaking.{module}") for name, module in PARTS.items()}
    for name, module in modules.items():
        module.add_flags(parts.add_parser(name, help=module.__doc__.splitlines()[0], allow_abbrev=False))
    arguments = parser.parse_args()
    with exit_on_error():
        return 0 if modules[arguments.part].run(arguments) else 1


if __name__ == "__main__":
    run_script(main)
