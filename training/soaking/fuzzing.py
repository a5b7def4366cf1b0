"""Feed damaged files to every parser, guided by the branches that they reach (atheris)."""

import argparse
import logging
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# What decides how a file is read, ours and of others; C and Rust within them guide nothing.
INSTRUMENTED = ("yaml", "mido", "pretty_midi", "limssr")
COUNT = re.compile(r"^Done (\d+) runs|^#(\d+)|^stat::number_of_executed_units: +(\d+)", re.MULTILINE)


def add_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=int, default=10_000, help="inputs for each target (default: 10000)")
    parser.add_argument("--targets", nargs="+", metavar="TARGET", default=[], help="default: all")


def run(arguments: argparse.Namespace) -> bool:
    """Fuzz each target, and print how many inputs it stood; return whether all held.

    Raises:
        ValueError: there is no such target.
        ModuleNotFoundError: atheris is not installed.
    """
    from .targets import TARGETS

    import_atheris()
    if unknown := [name for name in arguments.targets if name not in TARGETS]:
        raise ValueError(f"there is no target {unknown[0]!r}; the targets are {', '.join(TARGETS)}")
    # Anew, because modules are instrumented when they are imported.
    command = [sys.executable, "-m", __name__, str(arguments.runs), *arguments.targets]
    return subprocess.run(command).returncode == 0  # noqa: S603 (ourselves)


def import_atheris():
    """Return atheris; ModuleNotFoundError with advice without it."""
    try:
        import atheris
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("fuzzing needs the package atheris: pip install atheris") from error
    return atheris


def main() -> int:
    """Fuzz targets, each in a child until something does not hold, or for a number of inputs."""
    atheris = import_atheris()
    with atheris.instrument_imports(include=INSTRUMENTED):
        from .targets import TARGETS
    logging.disable()
    runs, names = int(sys.argv[1]), sys.argv[2:] or list(TARGETS)
    held = [_fuzz(name, TARGETS[name], runs) for name in names]
    return 0 if all(held) else 1


def _fuzz(name: str, target, runs: int) -> bool:
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as log, tempfile.TemporaryDirectory() as work:  # the child ends at once
        sys.stdout.flush()
        child = os.fork()
        if child == 0:
            os.dup2(log.fileno(), 1)
            os.dup2(log.fileno(), 2)
            _fuzz_here(name, target, runs, Path(work))
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        log.seek(0)
        said = log.read()
    count = max((int(next(filter(None, found))) for found in COUNT.findall(said)), default=0)
    seconds = time.monotonic() - start
    print(f"{name:14}{count:>9} inputs, {seconds:6.0f} s, {'held' if status == 0 else 'FAILED'}", flush=True)
    if status != 0:
        print(said[-4000:], flush=True)
    return status == 0


def _fuzz_here(name: str, target, runs: int, work: Path) -> None:
    """Fuzz one target in this process, which ends with it."""
    import atheris

    from .checking import check

    kept = Path(tempfile.gettempdir(), f"limssr-{name}")

    def attack(content: bytes) -> None:
        try:
            check(target, content, place)
        except Exception:
            kept.write_bytes(content)
            print(f"the input is in {kept}", flush=True)
            raise

    corpus, place = work / "corpus", work / "input"
    corpus.mkdir()
    place.mkdir()
    seeds = target.seeds()
    for number, seed in enumerate(seeds):
        (corpus / str(number)).write_bytes(seed)
    if target.surround is not None:
        target.surround(place)
    longest = max(4096, 2 * max(map(len, seeds)))
    flags = [f"-runs={runs}", "-timeout=10", f"-max_len={longest}", "-rss_limit_mb=4096", "-print_final_stats=1"]
    flags.append(f"-artifact_prefix={kept}-")
    atheris.Setup([sys.argv[0], *flags, str(corpus)], attack)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
