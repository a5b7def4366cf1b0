"""Start and end of a script: its parser, as many processes as `accelerate launch` asks for, errors in one line."""

import argparse
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil

from .errors import is_expected
from .text import printable
from .workers import end_with_parent

SCRIPTS = Path(__file__).parents[1]
COMMAND = re.compile(r"\blimssr ([a-z]+)\b")

# A launcher of several processes sets one of these: torchrun, Open MPI, Intel MPI, MVAPICH.
WORLD_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


def start_all_processes() -> None:
    """Make `accelerate launch --cpu --num_processes N SCRIPT` start N processes; a script calls this first.

    A process that torchrun started ends with it.

    Without mpirun, accelerate (1.15) starts a single process. That process is then replaced by torchrun, which starts
    all N. Every other kind of launch is left alone.

    Raises:
        SystemExit: several processes were asked for, but their number is not on the command line.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent(os.getppid())
    wants_several = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_ADDR" in os.environ
    if not wants_several or any(name in os.environ for name in WORLD_SIZES):
        return
    parent = psutil.Process().parent()  # None if it has ended already
    count = _asked_of_accelerate([] if parent is None else parent.cmdline())
    if count is None:
        raise SystemExit(
            "accelerate was to start several processes on CPU, but started one. Start them with: "
            f"torchrun --nproc_per_node N {sys.argv[0]} ..."
        )
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count]
    os.execv(sys.executable, [sys.executable, *torchrun, *sys.argv])  # noqa: S606 (the very same command line)


def as_started(text: str) -> str:
    """Return a text with its commands as the user has them.

    Args:
        text: names commands as `limssr publish`. They become `python training/publish.py` if this process is such a
            script, with the same folder; a module (`python -m`) and the command `limssr` leave them.
    """
    script = Path(sys.argv[0])
    if script.resolve().parent != SCRIPTS or sys.modules["__main__"].__spec__ is not None:
        return text

    def as_script(found: re.Match) -> str:
        path = script.with_name(f"{found[1]}.py")
        return f"python {path}" if path.is_file() else found[0]

    return COMMAND.sub(as_script, text)


def script_parser(description: str, **options) -> argparse.ArgumentParser:
    """Return a parser whose help is the docstring of the script, line by line, with the commands as the user has them.

    Args:
        description: docstring of the script.
        **options: further arguments of `argparse.ArgumentParser`.
    """
    formatter = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(description=as_started(description), formatter_class=formatter, **options)


def program_name() -> str:
    """Return what begins a message of this script: `train.py` or `limssr train`, as in argparse's own messages."""
    return Path(sys.argv[0]).name


def run_script(main: Callable[[], int | None]) -> None:
    """Run a script and exit with its status; quietly where the reader of its output has gone, as in `| head`.

    Raises:
        SystemExit: always.
    """
    _quieten_libraries()
    try:
        try:
            status = main()
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        status = 128 + signal.SIGPIPE  # as a shell reports a program that the signal ended
    sys.exit(status)


def _quieten_libraries() -> None:
    """Keep progress bars of libraries out of log files."""
    if not sys.stderr.isatty():
        for name in ("HF_HUB_DISABLE_PROGRESS_BARS", "HF_DATASETS_DISABLE_PROGRESS_BARS"):  # read at import
            os.environ.setdefault(name, "1")


@contextmanager
def exit_on_error(doing: str | None = None) -> Iterator[None]:
    """End the script with one line, without a traceback, if something is not there or does not fit.

    Args:
        doing: what failed, such as `cannot load the model runs/demo`; begins the line. By default the script's name.

    Raises:
        SystemExit: in place of an error that `is_expected`.
    """
    try:
        yield
    except BrokenPipeError:  # of the terminal, see `run_script`
        raise
    except Exception as error:
        if not is_expected(error):
            raise
        said = printable(" ".join(str(error).split()))
        raise SystemExit(as_started(f"{doing or program_name()}: {said}")) from error


class Interrupted(KeyboardInterrupt):
    """The process was asked to end.

    Attributes:
        signal: SIGINT (Ctrl-C) or SIGTERM.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.signal = number


@contextmanager
def exit_on_interrupt(advice: Callable[[], str]) -> Iterator[None]:
    """End the script with one line, without a traceback, at Ctrl-C (status 130) or SIGTERM (status 143).

    Args:
        advice: returns the line, which the first process prints.

    Raises:
        SystemExit: in place of a KeyboardInterrupt.
    """
    with _handled(_interrupt):
        try:
            yield
        except KeyboardInterrupt as error:
            if os.environ.get("RANK", "0") == "0":
                print(f"\n{advice()}", file=sys.stderr, flush=True)
            raise SystemExit(128 + getattr(error, "signal", signal.SIGINT)) from None


@contextmanager
def hold_back_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list, by which the block ends when it suits; a second one ends it at once.

    Of several processes none ends alone: launchers repeat the signal that a terminal sent to all of them.

    Raises:
        Interrupted: at the end of the block, if a signal came and the block did not raise it, or at the second signal.
    """
    received, owner, is_alone = [], os.getpid(), int(os.environ.get("WORLD_SIZE", "1")) == 1

    def note(number: int, frame) -> None:
        if os.getpid() != owner:  # a forked worker, which ends with its parent
            return
        received.append(number)
        if len(received) > 1 and is_alone:
            raise Interrupted(number)

    with _handled(note):
        yield received
    if received:
        raise Interrupted(received[0])


def _interrupt(number: int, frame) -> None:
    raise Interrupted(number)


@contextmanager
def _handled(handler: Callable) -> Iterator[None]:
    """Handle SIGINT and SIGTERM; in a thread, which may not, everything stays as it is."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def command_line(*, without: Sequence[str] = ()) -> str:
    """Return the command that started this process, with its launcher, for a shell.

    Args:
        without: flags to leave out, with their values.
    """
    words, parent = sys.argv[1:], psutil.Process().parent()
    started = [] if parent is None or not words else parent.cmdline()
    if started[-len(words) :] == words:  # by a launcher, such as `accelerate launch`
        start = started[: -len(words)]
        is_command = len(start) > 1 and Path(start[0]).name.startswith("python") and not start[1].startswith("-")
        start = [Path(start[1]).name, *start[2:]] if is_command else start
    else:
        start = as_started(f"limssr {Path(sys.argv[0]).stem.split()[-1]}").split()
    kept, skipping = [], False
    for word in words:
        if word.startswith("--"):
            skipping = word.partition("=")[0].lstrip("-").replace("-", "_") in without
        if not skipping:
            kept.append(word)
    return shlex.join([*start, *kept])


def _asked_of_accelerate(command: list[str]) -> str | None:
    """Return the value of `--num_processes` on accelerate's own command line."""
    for index, word in enumerate(command):
        name, _, value = word.replace("-", "_").partition("=")
        if name == "__num_processes":
            return value or command[index + 1]
    return None
