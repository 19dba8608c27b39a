"""Forwarders that the tests of one file share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.core.edges import Edges
from tests.core.tap_proof import prove


@pytest.fixture(scope="module")
def vxlan_edges() -> Iterator[Edges]:
    with Edges("vxlan") as edges:
        yield edges


@pytest.fixture(scope="module")
def udp_edges() -> Iterator[Edges]:
    with Edges("udp", mtu=1472) as edges:
        yield edges


@pytest.fixture(scope="module")
def ipv6_edges() -> Iterator[Edges]:
    with Edges("vxlan", family=6) as edges:
        yield edges


@pytest.fixture
def stopped_edges() -> Iterator[Edges]:
    """A forwarder that is not started: what is queued at its edges before becomes one burst."""
    with Edges("vxlan", sources=8, start=False) as edges:
        yield edges


@pytest.fixture
def udp_trains() -> Iterator[Edges]:
    with Edges("udp", start=False) as edges:
        yield edges


@pytest.fixture
def tap_edges() -> Iterator[Edges]:
    """Node 2 is proven, for both versions."""
    with Edges("vxlan", tunnel=True) as edges:
        prove(edges, 4)
        prove(edges, 6)
        yield edges
