"""Workers end with the process that started them, even if that had no time to end them."""

import subprocess
import sys
import time

import psutil
import pytest

LAUNCHER = """
import os, time
from limssr.training.utils.workers import end_with_parent

launcher = os.getpid()
worker = os.fork()
if worker == 0:
    end_with_parent(launcher)
    print(os.getpid(), flush=True)
time.sleep(60)
"""


def is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells a process of its parent's end")
def test_a_worker_ends_when_its_launcher_is_killed():
    with subprocess.Popen([sys.executable, "-c", LAUNCHER], stdout=subprocess.PIPE, text=True) as launcher:
        worker = int(launcher.stdout.readline())
        assert is_alive(worker)
        launcher.kill()
        deadline = time.monotonic() + 20
        while is_alive(worker) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not is_alive(worker)
