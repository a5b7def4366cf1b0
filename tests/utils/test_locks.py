"""One run a folder: the second is told who is at work, and the lock of a dead process is taken over."""

import json
import os
import platform
import subprocess
import sys

import psutil
import pytest

from limssr.training.utils.locks import SILENCE, LockedError, lock


def test_the_second_is_told_who_is_at_work(tmp_path):
    path = tmp_path / "run" / ".lock"
    with lock(path):
        held = json.loads(path.read_text())
        assert held == {"host": platform.node(), "pid": os.getpid(), "started": psutil.Process().create_time()}
        with pytest.raises(LockedError, match=rf"run is in use by process {os.getpid()} on .*, started \d{{4}}-"):
            lock(path).__enter__()
        assert path.exists()
    assert list(path.parent.iterdir()) == []


def test_another_process_is_refused_as_long_as_this_one_has_the_lock(tmp_path):
    words = "import sys; from limssr.training.utils.locks import lock; lock(sys.argv[1]).__enter__()"
    take = lambda: subprocess.run([sys.executable, "-c", words, path], capture_output=True, text=True)  # noqa: E731
    path = tmp_path / ".lock"
    with lock(path):
        assert "LockedError" in take().stderr
    assert take().returncode == 0  # and ends without giving it back
    with lock(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize(
    "changes",
    [{"pid": 2**22 + 1}, {"started": 1.0}, {"host": "elsewhere"}, None],
    ids=["dead", "another process with its number", "silent on another machine", "cut off"],
)
def test_stale_locks_are_taken_over(tmp_path, changes):
    path = tmp_path / ".lock"
    mine = {"host": platform.node(), "pid": os.getpid(), "started": psutil.Process().create_time()}
    path.write_text('{"host": ' if changes is None else json.dumps(mine | changes))
    long_ago = path.stat().st_mtime - SILENCE - 1
    os.utime(path, (long_ago, long_ago))
    with lock(path):
        assert json.loads(path.read_text()) == mine


def test_a_living_process_on_another_machine_is_believed(tmp_path):
    path = tmp_path / ".lock"
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 0.0}))
    with pytest.raises(LockedError, match=r"on elsewhere.*remove .*\.lock"):
        lock(path).__enter__()


def test_a_lock_whose_folder_is_removed_ends_quietly(tmp_path):
    with lock(tmp_path / "run" / ".lock"):
        (tmp_path / "run" / ".lock").unlink()
        (tmp_path / "run").rmdir()
