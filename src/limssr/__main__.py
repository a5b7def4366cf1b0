"""The command `limssr`. Each of its commands is a script of `training/`."""

import ast
import difflib
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from limssr import __version__
from limssr.training.utils.launching import run_script

# Name of a command -> its script.
COMMANDS = {
    "train": "train",
    "search": "search",
    "eval": "eval",
    "calibrate": "calibrate",
    "predict": "predict",
    "verify": "verify",
    "app": "app",
    "compare": "compare",
    "summarize": "summarize",
    "publish": "publish",
    "extract": "extract_features",
    "prepare": "prepare",
    "reproduce": "reproduce",
    "benchmark": "benchmark",
    "soak": "soak",
    "demo": "demo",
}
HELP = ("-h", "--help")


def main() -> None:
    name = sys.argv[1] if len(sys.argv) > 1 else HELP[0]
    if name in HELP:
        run_script(show_help)
    elif name == "--version":
        print(f"limssr {__version__}")
    elif name in COMMANDS:
        sys.argv[:2] = [f"limssr {name}"]
        run_script(import_module(f"limssr.training.{COMMANDS[name]}").main)
    else:
        close = difflib.get_close_matches(name, COMMANDS, n=1)
        print(
            f"limssr: no command is called {name!r}; "
            + (f"did you mean `limssr {close[0]}`?" if close else "`limssr --help` lists them"),
            file=sys.stderr,
        )
        sys.exit(2)


def show_help() -> None:
    """List the commands, each with the first line of its script's docstring."""
    print("usage: limssr COMMAND ...\n\nAction quality assessment with missing modalities.\n\ncommands:")
    for name, script in COMMANDS.items():
        source = Path(find_spec(f"limssr.training.{script}").origin).read_text(encoding="utf-8")
        print(f"  {name:10} {ast.get_docstring(ast.parse(source)).splitlines()[0]}")
    print("\n`limssr COMMAND --help` shows the arguments of a command. Several processes or machines train with")
    print("`accelerate launch -m limssr.training.train ...`.")


if __name__ == "__main__":
    main()
