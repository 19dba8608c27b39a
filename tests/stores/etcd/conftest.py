"""Fixtures of the etcd tests: one real server for each module, and stores under a prefix of the test's own."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.stores.etcd.server import Place, Server

_numbers = count()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("etcd")) as server:
        yield server


@pytest.fixture
def place(server: Server) -> Place:
    """A prefix that no other test uses."""
    return Place(server, f"/test{next(_numbers)}/network")


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server for one test, which may kill, freeze or replace it."""
    with Server(tmp_path) as server:
        yield server
