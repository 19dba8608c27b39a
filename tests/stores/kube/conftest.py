"""Fixtures of the Kubernetes tests: one API server for each module, Nodes of the test's own, and servers to break."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from tests.apiserver.process import Server

_numbers = count(1)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("kube")) as server:
        yield server


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[Server]:
    """A server for one test, which may kill, freeze or replace it."""
    directory = tmp_path / "server"
    directory.mkdir()
    with Server(directory) as server:
        yield server


@pytest.fixture
def name() -> str:
    """The name of a Node that no other test uses."""
    return f"worker-{next(_numbers)}"
