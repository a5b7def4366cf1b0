"""Feed damaged files to every parser, guided by the branches that they reach (atheris)."""

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

DONE = re.compile(r"Done (\d+) runs|^#(\d+)", re.MULTILINE)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=10_000, help="inputs for each target (default: 10000)")
    parser.add_argument("--targets", nargs="+", metavar="TARGET", help="default: all")


def run(arguments: argparse.Namespace) -> bool:
    """Fuzz each target in a process of its own, and print how many inputs it stood.

    Raises:
        ValueError: there is no such target.
        ModuleNotFoundError: atheris is not installed.
    """
    from .targets import TARGETS

    import_atheris()
    if unknown := [name for name in arguments.targets or [] if name not in TARGETS]:
        raise ValueError(f"there is no target {unknown[0]!r}; the targets are {', '.join(TARGETS)}")
    held = [_fuzz(name, arguments.runs) for name in arguments.targets or TARGETS]
    return all(held)


def _fuzz(name: str, runs: int) -> bool:
    command = [sys.executable, "-m", __name__, name, str(runs)]
    done = subprocess.run(command, capture_output=True, text=True)  # noqa: S603 (ourselves)
    counts = [int(found[1] or found[2]) for found in DONE.finditer(done.stderr)]
    print(f"{name:20} {max(counts, default=0):>9} inputs, {'held' if done.returncode == 0 else 'FAILED'}", flush=True)
    if done.returncode != 0:
        print(done.stderr[-3000:] + done.stdout[-3000:], flush=True)
    return done.returncode == 0


def import_atheris():
    """Return atheris; ModuleNotFoundError with advice without it."""
    try:
        import atheris
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("fuzzing needs the package atheris: pip install atheris") from error
    return atheris


def main() -> None:
    """Fuzz one target until something does not hold, or for a number of inputs."""
    atheris = import_atheris()
    name, runs = sys.argv[1], sys.argv[2]
    with atheris.instrument_imports(include=["limssr.training", "limssr.configuration"]):
        from .targets import TARGETS, check
    target = TARGETS[name]
    with tempfile.TemporaryDirectory() as work:
        corpus, place = Path(work, "corpus"), Path(work, "input")
        corpus.mkdir()
        place.mkdir()
        for number, seed in enumerate(target.seeds()):
            (corpus / str(number)).write_bytes(seed)
        flags = [f"-runs={runs}", "-timeout=10", "-max_len=4096", "-rss_limit_mb=4096", "-print_final_stats=1"]
        flags.append(f"-artifact_prefix={tempfile.gettempdir()}/limssr-{name}-")
        atheris.Setup([sys.argv[0], *flags, str(corpus)], lambda content: check(target, content, place))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
