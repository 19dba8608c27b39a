"""Servers, and gateways before them, that are slow, cut, forget or tell what they should not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dataplane.errors import StoreError
from dataplane.model import LeasePut, Snapshot
from dataplane.stores.kube import client as api
from dataplane.stores.kube import watch
from dataplane.stores.kube.client import Refused
from dataplane.stores.kube.objects import Metadata
from dataplane.stores.kube.position import Position
from tests.apiserver.process import Server
from tests.stores.kube.places import fails_by, lists, peer, quick, short, store_of, vxlan, watches
from tests.stores.loop import run


def test_one_slow_answer_cuts_no_other(own_server: Server, tmp_path: Path) -> None:
    server = own_server
    server.add_node("us", "10.244.1.0/24")

    async def work() -> None:
        store = store_of(server, "us", tmp_path, timing=replace(quick, call=0.5))
        await store.acquire(vxlan, None)
        events = store.watch()
        await anext(events)
        waiting = asyncio.ensure_future(anext(events))
        server.pull("delay", verb="get", prefix="/api/v1/nodes/", seconds=5)
        for _ in range(3):
            with pytest.raises(StoreError, match="does not answer in time"):
                await store.addresses()
        assert store.stands
        assert not waiting.done()
        two = peer(server, "two", 2)
        assert await waiting == LeasePut(two)
        assert len(watches(server)) == 1
        await events.aclose()
        await store.close()

    run(work())


@pytest.mark.parametrize("way", ["event", "status"])
def test_a_server_that_forgets_at_once_is_not_stormed(own_server: Server, tmp_path: Path, way: str) -> None:
    server = own_server
    server.add_node("us", "10.244.1.0/24")

    async def work() -> None:
        store = store_of(server, "us", tmp_path)
        await store.acquire(vxlan, None)
        store._client.watch = _refusing(410)  # type: ignore[method-assign]
        if way == "status":
            store._at.streams = False
        assert "says 410" in await fails_by(store)
        assert lists(server) <= 4
        await store.close()

    run(work())


def _refusing(code: int) -> Any:
    async def watch(*_: object, **__: object) -> AsyncGenerator[object, None]:
        raise Refused(code, f"watch nodes: the API server says {code}: too old resource version: 1 (2)")
        yield

    return watch


@pytest.mark.parametrize(
    ("kind", "document", "left"),
    [
        ("BOOKMARK", {"metadata": {"resourceVersion": "900", "annotations": {"k8s.io/initial-events-end": "true"}}}, 2),
        ("BOOKMARK", {"metadata": {"resourceVersion": "9" * 5000}}, 2),
        ("DELETED", {"metadata": {"name": "two", "resourceVersion": "901"}}, 1),
    ],
)
def test_odd_events_lose_nothing(
    own_server: Server, tmp_path: Path, kind: str, document: dict[str, Any], left: int
) -> None:
    """The end of a list that is none; a version that is none; a plain deletion."""
    server = own_server
    server.add_node("us", "10.244.1.0/24")

    async def work() -> None:
        store = store_of(server, "us", tmp_path)
        await store.acquire(vxlan, None)
        peer(server, "two", 2)
        nodes = await store._all()
        at = Position()
        listed, version = await store._client.nodes("")
        await watch._take_list(nodes, at, list(listed), version)
        metadata = msgspec.convert(document["metadata"], Metadata)
        ends = "annotations" in document["metadata"]
        watch._Brought(nodes, at).change(
            api.listed if ends else kind, metadata, msgspec.Raw(json.dumps(document).encode())
        )
        assert len(nodes.snapshot().leases) == left
        await store.close()

    run(work())


def test_half_a_line_is_no_sign_of_life(own_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = own_server
    server.add_node("us", "10.244.1.0/24")

    async def trickle(_: object) -> AsyncGenerator[bytes, None]:
        while True:
            await asyncio.sleep(0.05)
            if asyncio.current_task() is None:
                yield b""

    async def work() -> None:
        store = store_of(server, "us", tmp_path, timing=replace(quick, silence=0.5))
        await store.acquire(vxlan, None)
        monkeypatch.setattr(api, "_lines", trickle)
        assert "nothing came for 0.5 s" in await fails_by(store)
        await store.close()

    run(work())


def test_a_due_list_that_takes_long_is_nothing_wrong(own_server: Server, tmp_path: Path) -> None:
    server = own_server
    server.add_node("us", "10.244.1.0/24")

    async def work() -> None:
        store = store_of(server, "us", tmp_path, spans=replace(short, relist=0.0))
        await store.acquire(vxlan, None)
        events = store.watch()
        await anext(events)
        server.pull("delay", verb="watch", prefix="/api/v1/nodes", seconds=2)
        waiting = asyncio.ensure_future(anext(events))
        stood = []
        while not waiting.done():
            stood.append(store.stands)
            await asyncio.sleep(0.05)
        assert len(stood) > 20
        assert all(stood)
        assert isinstance(waiting.result(), Snapshot)
        await events.aclose()
        await store.close()

    run(work())
