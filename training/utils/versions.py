"""Versions of Python, of packages and of this code, for records."""

import hashlib
import platform
from collections.abc import Iterable
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOMS = ("configuration", "processing", "modeling_limssr", "training")


def package_versions(names: Iterable[str]) -> dict[str, str]:
    """Return the versions of Python and of packages by name."""
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a folder that was not installed
            found[name] = "not installed"
    return found


@cache
def code_digest() -> str:
    """Return the SHA-256 of the source files of this package."""
    top, digest = Path(__file__).parents[2], hashlib.sha256()
    for path in sorted(path for room in ROOMS for path in (top / room).rglob("*.py")):
        digest.update(f"{path.relative_to(top).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()
