"""Fixtures of the Kubernetes tests: one API server for each module, Nodes of the test's own, and servers to break."""

from __future__ import annotations

from itertools import count

import pytest

from tests.apiserver.fixtures import own_server, server

__all__ = ["own_server", "server"]

_numbers = count(1)


@pytest.fixture
def name() -> str:
    """The name of a Node that no other test uses."""
    return f"worker-{next(_numbers)}"
