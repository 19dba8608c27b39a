"""The Node's network condition: it says that there is a network, whatever becomes of the Node, and at a measured pace."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from dataplane.lab.commands import wait_for
from dataplane.model import LeaseGone, Snapshot, WatchEvent
from dataplane.stores.kube.condition import rest_s
from dataplane.stores.kube.store import KubeStore
from tests.apiserver.process import Server
from tests.stores.kube.own_node import flannels, patches, shown
from tests.stores.kube.places import annotations, store_of, until, vxlan
from tests.stores.loop import run


def test_the_network_is_announced_beside_the_other_conditions(server: Server, name: str, tmp_path: Path) -> None:
    before = server.add_node(name, "10.244.7.0/24")

    async def work(wanted: bool) -> None:
        store = store_of(server, name, tmp_path, set_network_unavailable=wanted)
        await store.acquire(vxlan, None)
        if wanted:
            async with announcing(store):
                await shown(server, name, "False")
        else:
            await store.announce()
        await store.close()

    run(work(False))
    assert server.node(name)["status"] == before["status"]
    run(work(True))
    status = server.node(name)["status"]
    ready, network = status["conditions"]
    assert ready == before["status"]["conditions"][0]
    assert status["addresses"] == before["status"]["addresses"]
    times = {network.pop("lastHeartbeatTime"), network.pop("lastTransitionTime")}
    assert len(times) == 1
    assert network == {
        "type": "NetworkUnavailable",
        "status": "False",
        "reason": "FlannelIsUp",
        "message": "Flannel is running on this node",
    }


def test_a_node_made_anew_is_annotated_and_announced_at_once(server: Server, name: str, tmp_path: Path) -> None:
    server.add_node(name, "10.244.71.0/24")

    async def work() -> None:
        store = store_of(server, name, tmp_path)
        lease = await store.acquire(vxlan, None)
        async with watching(store) as events, announcing(store):
            await until(events, Snapshot)
            await shown(server, name, "False")
            begun = time.monotonic()
            await asyncio.to_thread(server.delete_node, name)
            await asyncio.to_thread(server.add_node, name, "10.244.71.0/24")
            assert (await until(events, LeaseGone)).key == lease.key
            await shown(server, name, "False")
            assert time.monotonic() - begun < rest_s / 2  # the last one was written a moment ago
            anew = await store.renew(lease)
            assert (anew.key, anew.attrs) == (lease.key, lease.attrs)
            assert annotations(server, name) == flannels
        await store.close()

    run(work())


def test_a_node_made_anew_behind_our_back_is_announced(server: Server, name: str, tmp_path: Path) -> None:
    """All that is seen of it is a list, without its conditions and with the annotations that it had."""
    server.add_node(name, "10.244.72.0/24")

    async def work() -> None:
        store = store_of(server, name, tmp_path)
        await store.acquire(vxlan, None)
        async with watching(store), announcing(store):
            await shown(server, name, "False")
        before = server.node(name)["metadata"]["annotations"]
        server.delete_node(name)
        server.add_node(name, "10.244.72.0/24", annotations=before)
        server.pull("compact")
        async with announcing(store):
            await shown(server, name, "False")  # as at a start
            server.delete_node(name)
            server.add_node(name, "10.244.72.0/24", annotations=before)
            server.pull("compact")
            async with watching(store):
                await shown(server, name, "False")
        await store.close()

    run(work())


def test_a_node_that_goes_before_it_is_announced_is_announced_once_it_is_back(
    server: Server, name: str, tmp_path: Path
) -> None:
    server.add_node(name, "10.244.74.0/24")

    async def work() -> None:
        store = store_of(server, name, tmp_path)
        await store.acquire(vxlan, None)
        async with watching(store) as events:
            await until(events, Snapshot)
            await asyncio.to_thread(server.delete_node, name)
            before = patches(server, name)
            async with announcing(store):
                await asyncio.to_thread(wait_for, lambda: patches(server, name) > before, 20, "the first attempt")
                begun = time.monotonic()
                await asyncio.to_thread(server.add_node, name, "10.244.74.0/24")
                await shown(server, name, "False")
                assert time.monotonic() - begun < rest_s / 2
        await store.close()

    run(work())


def test_another_that_denies_our_network_is_answered_at_a_measured_pace(
    server: Server, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dataplane.stores.kube.condition.rest_s", 1.0)
    server.add_node(name, "10.244.73.0/24")

    async def work() -> None:
        store = store_of(server, name, tmp_path)
        await store.acquire(vxlan, None)
        before = patches(server, name)
        begun = time.monotonic()
        async with watching(store), announcing(store):
            for _ in range(4):
                await shown(server, name, "False")
                await asyncio.to_thread(deny_network, server, name)
            await shown(server, name, "False")
            took = time.monotonic() - begun
            assert took > 3.9
            assert patches(server, name) - before <= 1 + took
            # And where nobody denies it nothing is written.
            version = server.node(name)["metadata"]["resourceVersion"]
            await asyncio.to_thread(server.annotate, name, {"volumes.kubernetes.io/x": "z"})
            await asyncio.to_thread(server.annotate, name, {"volumes.kubernetes.io/x": "y"})
            await asyncio.sleep(1.5)  # longer than the rest
            assert int(server.node(name)["metadata"]["resourceVersion"]) == int(version) + 2
        await store.close()

    run(work())


def deny_network(server: Server, name: str) -> None:
    """Write the condition as a cloud's route controller does that has made no route."""
    server.patch(f"{name}/status", {"status": {"conditions": [{"type": "NetworkUnavailable", "status": "True"}]}})


@asynccontextmanager
async def announcing(store: KubeStore) -> AsyncGenerator[None, None]:
    task = asyncio.create_task(store.announce())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@asynccontextmanager
async def watching(store: KubeStore) -> AsyncGenerator[AsyncGenerator[WatchEvent, None], None]:
    """Have the watch go on, as in the daemon, and yield its events."""
    queue: asyncio.Queue[WatchEvent] = asyncio.Queue()

    async def follow() -> None:
        async with aclosing(store.watch()) as events:
            async for event in events:
                queue.put_nowait(event)

    async def told() -> AsyncGenerator[WatchEvent, None]:
        while True:
            yield await queue.get()

    task = asyncio.create_task(follow())
    try:
        async with aclosing(told()) as events:
            yield events
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
