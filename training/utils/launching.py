"""Start and end of a script: as many processes as `accelerate launch` asks for, errors in one line."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil

# A launcher of several processes sets one of these: torchrun, Open MPI, Intel MPI, MVAPICH.
WORLD_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


def start_all_processes() -> None:
    """Make `accelerate launch --cpu --num_processes N SCRIPT` start N processes; a script calls this first.

    Without mpirun, accelerate (1.15) starts a single process. That process is then replaced by torchrun, which starts
    all N. Every other kind of launch is left alone.

    Raises:
        SystemExit: several processes were asked for, but their number is not on the command line.
    """
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


@contextmanager
def exit_on_error(doing: str) -> Iterator[None]:
    """End the script with one line, without a traceback, if something is not there or does not fit.

    Args:
        doing: what failed, such as `cannot load the model runs/demo`; begins the line.

    Raises:
        SystemExit: in place of an OSError, ValueError or ModuleNotFoundError.
    """
    try:
        yield
    except (ModuleNotFoundError, OSError, ValueError) as error:
        raise SystemExit(f"{doing}: {' '.join(str(error).split())}") from error


def _asked_of_accelerate(command: list[str]) -> str | None:
    """Return the value of `--num_processes` on accelerate's own command line."""
    for index, word in enumerate(command):
        name, _, value = word.replace("-", "_").partition("=")
        if name == "__num_processes":
            return value or command[index + 1]
    return None
