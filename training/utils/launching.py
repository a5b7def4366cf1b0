"""How scripts start and stop: as many processes as `accelerate launch` was asked for, mistakes in one line."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import psutil
import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

# Whoever starts several processes says so in one of these: torchrun, Open MPI, Intel MPI, MVAPICH.
WORLD_SIZES = ("WORLD_SIZE", "OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")
LONGEST_WAIT = timedelta(days=30)  # of a process for the slowest one


def start_all_processes() -> None:
    """
    Makes `accelerate launch --cpu --num_processes N SCRIPT` what it says; to be called first by a script.

    Without mpirun, accelerate (1.15) starts one process and leaves it to find out that N were wanted. This process is
    then replaced by torchrun, which starts N. Everywhere else nothing happens.

    Raises:
        SystemExit: several processes were asked for, but how many is not on the command line.
    """
    wants_several = os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true" and "MASTER_ADDR" in os.environ
    if not wants_several or any(name in os.environ for name in WORLD_SIZES):
        return
    parent = psutil.Process().parent()  # None where it has ended already
    count = _asked_of_accelerate([] if parent is None else parent.cmdline())
    if count is None:
        raise SystemExit(
            "accelerate was to start several processes on CPU, but started one. Start them with: "
            f"torchrun --nproc_per_node N {sys.argv[0]} ..."
        )
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", count]
    os.execv(sys.executable, [sys.executable, *torchrun, *sys.argv])  # noqa: S606 (the very same command line)


def join_processes() -> PartialState:
    """This process among those that were started, on a device of its own: an accelerator, or the CPU with `--cpu`."""
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.accelerator.is_available()
    return PartialState(cpu=on_cpu, timeout=LONGEST_WAIT)


@contextmanager
def exit_on_error(doing: str) -> Iterator[None]:
    """Ends the script with the message alone where a person named something that is not there or does not fit.

    Args:
        doing: what fails then, such as `cannot load the model runs/demo`; begins the line.

    Raises:
        SystemExit: in place of an OSError, ValueError or ModuleNotFoundError.
    """
    try:
        yield
    except (ModuleNotFoundError, OSError, ValueError) as error:
        raise SystemExit(f"{doing}: {' '.join(str(error).split())}") from error


def _asked_of_accelerate(command: list[str]) -> str | None:
    """The value of `--num_processes` on accelerate's own command line."""
    for name in ("--num_processes", "--num-processes"):
        if name in command:
            return command[command.index(name) + 1]
        for word in command:
            if word.startswith(f"{name}="):
                return word.removeprefix(f"{name}=")
    return None
