"""Folders that nobody may write to."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """No file is created in the folder or removed from it; root, whom no permission binds, needs `chattr` for that."""
    tool, on, off = ("chattr", "+i", "-i") if os.geteuid() == 0 else ("chmod", "a-w", "u+w")
    if subprocess.run([tool, on, folder], capture_output=True).returncode:
        pytest.skip("the file system has no attribute that binds root")
    try:
        yield
    finally:
        subprocess.run([tool, off, folder], check=True)
