"""What a cluster's API server has of us while all is well: nothing, and no watch that only seems to stand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from dataplane.errors import StoreError
from dataplane.lab.commands import wait_for
from dataplane.model import LeasePut, Snapshot
from dataplane.stores.kube import watch
from tests.apiserver.access import Rule
from tests.apiserver.process import Server, service_account
from tests.stores.kube.places import fails_by, held, lists, peer, quick, short, store_of, until, vxlan, watches
from tests.stores.loop import run


def urls(server: Server) -> list[str]:
    return [request["url"] for request in server.requests()]


async def comes_to(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition of the server's, off the loop."""
    await asyncio.to_thread(wait_for, condition, 20, what)


def test_nothing_is_asked_while_the_watch_stands(tmp_path: Path) -> None:
    directory = tmp_path / "server"
    directory.mkdir()

    async def work(server: Server) -> None:
        server.add_node("us", "10.244.1.0/24")
        store = store_of(server, "us", tmp_path, timing=replace(quick, silence=2.0))
        await store.acquire(vxlan, None)
        events = store.watch()
        await anext(events)
        waiting = asyncio.ensure_future(anext(events))
        before = urls(server)
        loop = asyncio.get_running_loop()
        end = loop.time() + 5.0
        while loop.time() < end and not waiting.done():
            await store.ping()
            await asyncio.sleep(0.05)
        assert not waiting.done(), "bookmarks are as good as changes"
        assert urls(server) == before
        two = peer(server, "two", 2)
        assert await waiting == LeasePut(two)
        await events.aclose()
        await store.close()

    with Server(directory, settings={"bookmark_s": 0.5}) as server:
        run(work(server))


def test_a_watch_that_is_refused_does_not_stand(tmp_path: Path) -> None:
    directory = tmp_path / "server"
    directory.mkdir()
    rules = {service_account: (Rule(("",), ("nodes",), ("get", "list")), Rule(("",), ("nodes/status",), ("patch",)))}

    async def work(server: Server) -> None:
        server.add_node("us", "10.244.1.0/24")
        store = store_of(server, "us", tmp_path)
        own = await store.acquire(vxlan, None)
        first = []
        with pytest.raises(StoreError, match="cannot watch resource"):
            async for event in store.watch():
                first.append(event)
        assert isinstance(first[0], Snapshot)
        assert held(*first[0].leases) == held(own)
        for _ in range(3):
            assert "our ClusterRole must allow to watch nodes" in await fails_by(store)
            assert not store.stands
            with pytest.raises(StoreError, match="cannot watch resource"):
                await store.ping()
        assert lists(server) == 2, "the streamed one and the one in its place; attempts list no more"
        await store.close()

    with Server(directory, rules=rules) as server:
        run(work(server))


def test_a_watch_that_brings_nothing_does_not_stand(own_server: Server, tmp_path: Path) -> None:
    server = own_server
    server.add_node("us", "10.244.1.0/24")

    async def work() -> None:
        store = store_of(server, "us", tmp_path, timing=replace(quick, silence=1.0))
        await store.acquire(vxlan, None)
        events = store.watch()
        await anext(events)
        assert store.stands
        server.pull("swallow", on=True)
        two = peer(server, "two", 2)
        with pytest.raises(StoreError, match="nothing came for 1 s"):
            await anext(events)
        # The next one stands no better, but what there is, a list brings.
        events = store.watch()
        listed = await until(events, Snapshot)
        assert two.key in held(*listed.leases)
        assert not store.stands
        with pytest.raises(StoreError, match="nothing came for 1 s"):
            await store.ping()
        with pytest.raises(StoreError, match="nothing came for 1 s"):
            await anext(events)
        server.pull("swallow", on=False)
        server.pull("settings", bookmark_s=0.2)
        events = store.watch()
        await anext(events)
        waiting = asyncio.ensure_future(anext(events))
        await comes_to(lambda: store.stands, "the watch to bring something")
        await store.ping()
        three = peer(server, "three", 3)
        assert await waiting == LeasePut(three)
        await events.aclose()
        await store.close()

    run(work())


def test_a_watch_that_ends_at_once_is_not_begun_again_at_once(
    own_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own_server
    monkeypatch.setattr(watch, "shortest_watch_s", 60.0)
    server.add_node("us", "10.244.1.0/24")

    async def work() -> None:
        store = store_of(server, "us", tmp_path, spans=short)
        await store.acquire(vxlan, None)
        reason = await fails_by(store)
        assert "ended the watch at once" in reason
        assert len(watches(server)) == 1
        await store.close()

    run(work())


def test_the_heartbeats_of_a_cluster_reach_nobody_behind_the_store(own_server: Server, tmp_path: Path) -> None:
    """A Node's status changes all the time, and says nothing of its lease."""
    server = own_server
    server.add_node("us", "10.244.1.0/24")
    server.pull("fill", nodes=50, size=20_000, first=1)

    async def work() -> None:
        store = store_of(server, "us", tmp_path, conf={"Network": "10.0.0.0/8", "Backend": {"Type": "vxlan"}})
        await store.acquire(vxlan, None)
        events = store.watch()
        first = await anext(events)
        assert isinstance(first, Snapshot)
        assert len(first.leases) == 51
        waiting = asyncio.ensure_future(anext(events))
        before = server.version()
        server.pull("heartbeat", every_s=0.5, seconds=2)
        await comes_to(lambda: server.version() >= before + 100, "every Node's status to change twice")
        assert not waiting.done()
        two = peer(server, "two", 2)
        assert await waiting == LeasePut(two)
        await events.aclose()
        await store.close()

    run(work())
