"""
Makes the test suites of transformers importable: `load("test_modeling_common")`.

The wheel leaves them out, so pip fetches the source distribution of the installed version into the user's cache.
"""

import atexit
import hashlib
import importlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import unittest
import warnings
from functools import cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
from filelock import FileLock

REQUIREMENTS = Path(__file__).parents[1] / "upstream" / "requirements.txt"
PACKAGE = "transformers_tests"  # `tests` is ours
# What these modules import but the distribution leaves out: the suites of exporters and of generation, and downloads
# of pictures and sounds. The distributed suites lack their launcher. Our own export tests are in tests/modeling.
STAND_INS = {
    "tests/__init__.py": "",
    "tests/exporters/test_export.py": "class ExportTesterMixin: pass\n",
    "tests/generation/test_utils.py": "class GenerationTesterMixin: pass\n",
    "tests/utils/test_configuration_utils.py": "config_common_kwargs = {}\n",
    "utils/fetch_hub_objects_for_ci.py": "def url_to_local_path(url): return url\n",
}


def load(module: str) -> ModuleType:
    """A module of the suites. Where they cannot be had, the calling test module is skipped with the reason."""
    import_package()
    with warnings.catch_warnings(action="ignore", category=pytest.PytestUnknownMarkWarning):
        return importlib.import_module(f"{PACKAGE}.{module}")


@cache
def import_package() -> None:
    """Unpack the suites for this process and import their package."""
    folder = Path(tempfile.mkdtemp(prefix="transformers_tests_"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with tarfile.open(fetch_archive()) as archive:
        suites = [member for member in archive if re.fullmatch(r"[^/]+/tests/test_\w+\.py", member.name)]
        archive.extractall(folder, suites, filter="data")
    (root,) = folder.iterdir()
    for name, text in STAND_INS.items():
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    tests = root / "tests"
    spec = importlib.util.spec_from_file_location(
        PACKAGE, tests / "__init__.py", submodule_search_locations=[str(tests)]
    )
    sys.modules[PACKAGE] = importlib.util.module_from_spec(spec)


def fetch_archive() -> Path:
    """The source distribution in the cache, downloaded where it is not there yet."""
    pinned, digest = read_pin()
    if version("transformers") != pinned:
        reason = (
            f"transformers {version('transformers')} is installed, {REQUIREMENTS.name} pins the suites of {pinned}"
        )
        pytest.skip(reason, allow_module_level=True)
    cache_home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    folder = cache_home / "limssr" / "upstream"
    folder.mkdir(parents=True, exist_ok=True)
    archive = folder / f"transformers-{pinned}.tar.gz"
    with FileLock(folder / "lock"):  # of several test processes one downloads
        if not archive.is_file() or hashlib.sha256(archive.read_bytes()).hexdigest() != digest:
            download(folder)
    return archive


def read_pin() -> tuple[str, str]:
    """Version of transformers and SHA-256 of its source distribution."""
    return re.search(r"^transformers==(\S+) --hash=sha256:(\w+)$", REQUIREMENTS.read_text(), re.MULTILINE).groups()


def download(folder: Path) -> None:
    """Let pip fetch the distribution and check its hash; a wrong hash is a failure, no way to the index is a skip."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--retries=1", "--no-deps"]
    command += [f"--requirement={REQUIREMENTS}", f"--dest={folder}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")]
        if any("HASH" in line for line in lines):
            pytest.fail(done.stderr, pytrace=False)
        reason = f"the test suites of transformers could not be downloaded: {lines[-1]}"
        pytest.skip(reason, allow_module_level=True)


def not_applicable(reasons: dict[str, str]):
    """
    Class decorator: skip tests of a suite.

    Args:
        reasons (`dict[str, str]`): name of a test, which stands for all its parameters -> why it cannot apply.
    """

    def decorate(suite: type) -> type:
        for name, reason in reasons.items():
            tests = [test for test in dir(suite) if re.fullmatch(rf"{name}(_\d+(_\w+)?)?", test)]
            assert tests, f"{suite.__name__} has no test {name}"
            for test in tests:
                setattr(suite, test, unittest.skip(reason)(getattr(suite, test)))
        return suite

    return decorate
