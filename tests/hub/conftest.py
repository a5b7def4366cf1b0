"""A Hub on the loopback address and its clients, shared by the tests of a module."""

from collections.abc import Iterator

import pytest

from tests.helpers.hub_client import Caller, Client
from tests.helpers.loopback_hub import LoopbackHub


@pytest.fixture(scope="module")
def hub() -> Iterator[LoopbackHub]:
    with LoopbackHub() as served:
        yield served


@pytest.fixture(scope="module")
def client(hub, tmp_path_factory) -> Client:
    return Client(hub, tmp_path_factory.mktemp("client"))


@pytest.fixture(scope="module")
def call(client) -> Iterator[Caller]:
    """`call("publish", folder=..., repo_id=...)` calls the function in another process."""
    caller = Caller(client)
    yield caller
    caller.process.communicate(timeout=60)
