"""A Hub on the loopback address, and processes that are its clients."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.loopback_hub import LoopbackHub

REPOSITORY = Path(__file__).parents[2]


class Client:
    """Processes that know this Hub, a token that may write, and a cache of their own.

    Attributes:
        home: their folder; `cache` in it is of the Hub.
    """

    def __init__(self, hub: LoopbackHub, home: Path):
        self.hub, self.home = hub, home
        self.variables = {
            "PATH": os.environ["PATH"],
            "HOME": str(home),
            "HF_HOME": str(home / "cache"),
            "HF_TOKEN": "hf_writer",
            "HF_ENDPOINT": hub.endpoint,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "OMP_NUM_THREADS": "1",
        }

    def start(self, *words: str | Path) -> subprocess.Popen:
        """`python WORDS ...`, with pipes."""
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        return subprocess.Popen([sys.executable, *words], cwd=self.home, env=self.variables, text=True, **pipes)

    def run(self, *words: str | Path, fails: bool = False) -> str:
        """`python WORDS ...` to its end; what it printed, of one that fails on stderr."""
        process = self.start(*words)
        printed, complained = process.communicate(timeout=300)
        assert (process.returncode != 0) == fails, complained
        return complained if fails else printed

    def script(self, name: str, *words: str | Path, fails: bool = False) -> str:
        """`python training/NAME WORDS ...`"""
        return self.run(REPOSITORY / "training" / name, *words, fails=fails)


class Caller:
    """A client process (`calls.py`) that makes one call after the other."""

    def __init__(self, client: Client):
        self.process = client.start(REPOSITORY / "tests" / "helpers" / "hub_calls.py")

    def __call__(self, function: str, **arguments) -> str:
        """What it returned, or `ErrorType: message`."""
        self.process.stdin.write(json.dumps([function, arguments], default=str) + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        assert answer, self.process.stderr.read()
        return json.loads(answer)


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as served:
        yield served


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory) -> Client:
    return Client(hub, tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="module")
def call(client) -> Iterator[Caller]:
    """`call("publish", folder=..., repo_id=...)` in another process."""
    caller = Caller(client)
    yield caller
    caller.process.communicate(timeout=60)
