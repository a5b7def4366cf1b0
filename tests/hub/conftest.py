"""A Hub on the loopback address, and processes that are its clients."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.hub_client import Client
from tests.helpers.loopback_hub import LoopbackHub

REPOSITORY = Path(__file__).parents[2]


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
