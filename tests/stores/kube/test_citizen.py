"""What a cluster's API server has of us: nothing asked while all is well, nobody in step, no watch that only seems to stand."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from dataplane.errors import StoreError
from dataplane.lab.commands import wait_for
from dataplane.model import Lease, LeaseGone, LeasePut, Snapshot
from dataplane.stores.kube import client as api
from dataplane.stores.kube import watch
from dataplane.stores.kube.client import Refused
from dataplane.stores.kube.objects import Metadata, Node
from dataplane.stores.kube.position import Position
from dataplane.stores.kube.store import KubeStore
from tests.apiserver.access import Rule, admin
from tests.apiserver.process import Server, first_token, service_account
from tests.stores.kube.places import quick, run, short, store_of, until, vxlan
from tests.stores.kube.test_watch import held, lists, peer, watches


def urls(server: Server) -> list[str]:
    return [request["url"] for request in server.requests()]


async def comes_to(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition of the server's, off the loop."""
    await asyncio.to_thread(wait_for, condition, 20, what)


async def fails_by(store: KubeStore) -> str:
    """Watch until that fails, and return why."""
    with pytest.raises(StoreError) as failure:
        async for _ in store.watch():
            pass
    return str(failure.value)


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


def test_a_token_is_taken_up_while_the_old_one_is_good(tmp_path: Path) -> None:
    directory = tmp_path / "server"
    directory.mkdir()
    renewed = "system:serviceaccount:kube-flannel:renewed"
    rights = (Rule(("",), ("nodes", "nodes/status"), ("get", "list", "watch", "patch")),)

    async def work(server: Server) -> None:
        server.add_node("us", "10.244.1.0/24")
        token = tmp_path / "token"
        token.write_text(first_token)
        kubeconfig = server.kubeconfig(tmp_path / "kubeconfig")
        given = json.loads(kubeconfig.read_text())
        given["users"][0]["user"] = {"tokenFile": str(token)}
        kubeconfig.write_text(json.dumps(given))
        store = store_of(server, "us", tmp_path, kubeconfig=kubeconfig, timing=replace(quick, look=0.0))
        await store.acquire(vxlan, None)
        events = store.watch()
        await anext(events)
        waiting = asyncio.ensure_future(anext(events))
        administrators = next(text for text, user in _tokens(server).items() if user == admin)
        server.pull("tokens", **{administrators: admin, first_token: service_account, "second": renewed})
        fresh = tmp_path / "fresh"
        fresh.write_text("second")
        fresh.replace(token)
        await store.addresses()
        assert server.requests()[-1]["user"] == renewed
        two = peer(server, "two", 2)
        assert await waiting == LeasePut(two), "the watch goes on with the old one until its end"
        await events.aclose()
        await store.close()

    with Server(directory, rules={service_account: rights, renewed: rights}) as server:
        run(work(server))


def _tokens(server: Server) -> dict[str, str]:
    settings = json.loads((server.directory / "server.json").read_text())
    tokens: dict[str, str] = settings["tokens"]
    return tokens


def test_a_server_that_has_just_started_refuses_without_a_word_of_roles(tmp_path: Path) -> None:
    directory = tmp_path / "server"
    directory.mkdir()

    async def work(server: Server) -> None:
        store = store_of(server, "us", tmp_path, timing=replace(quick, settle=30.0))
        with pytest.raises(StoreError, match="403: .*has just started refuses for some seconds") as refused:
            await store.addresses()
        assert "ClusterRole" not in str(refused.value)
        server.pull("settings", forbid_s=0.0)
        await store.addresses()
        await store.close()

    with Server(directory, settings={"forbid_s": 3600.0}) as server:
        server.add_node("us", "10.244.1.0/24")
        run(work(server))


@pytest.mark.parametrize("past", [0, 10_000])
def test_a_backup_of_a_few_seconds_ago_is_noticed_whatever_its_version(
    own_server: Server, tmp_path: Path, past: int
) -> None:
    """What was written after it is gone; what is written since may have versions below ours, that no watch from there tells of."""
    server = own_server
    server.add_node("us", "10.244.1.0/24")

    async def work() -> None:
        store = store_of(server, "us", tmp_path, spans=short)
        own = await store.acquire(vxlan, None)
        two = peer(server, "two", 2)
        events = store.watch()
        await anext(events)
        backup = server.snapshot()
        lost = peer(server, "lost", 9)
        assert await until(events, LeasePut) == LeasePut(lost)
        three = peer(server, "three", 3)
        assert await until(events, LeasePut) == LeasePut(three)
        server.kill()
        with pytest.raises(StoreError):
            await anext(events)
        server.restore(backup, past=past)
        four = peer(server, "four", 4)
        seen: dict[str, Lease] = {}
        async for event in store.watch():
            seen = held(*event.leases) if isinstance(event, Snapshot) else seen
            if seen == held(own, two, four):
                break
        await store.close()

    run(work())


def test_a_connection_that_broke_costs_no_list_and_skips_nothing(own_server: Server, tmp_path: Path) -> None:
    """The server's history is still ours: the newest change that it has as we saw it is where the watch goes on."""
    server = own_server
    server.add_node("us", "10.244.1.0/24")

    async def work() -> None:
        store = store_of(server, "us", tmp_path)
        await store.acquire(vxlan, None)
        peer(server, "two", 2)
        peer(server, "three", 3)
        events = store.watch()
        await anext(events)
        await events.aclose()
        changed, four = peer(server, "three", 3, 33), peer(server, "four", 4)
        events = store.watch()
        await anext(events)
        assert await anext(events) == LeasePut(changed)
        assert await anext(events) == LeasePut(four)
        assert lists(server) == 1
        asked = [
            request
            for request in server.requests()
            if request["verb"] == "get" and "resourceVersion=" in request["url"]
        ]
        assert 1 <= len(asked) <= 4
        assert {request["source"] for request in asked} == {"cache"}
        await events.aclose()
        await store.close()

    run(work())


def test_a_gateway_that_gives_up_makes_nobody_list(
    own_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its 504 is not the API server's, which says by one that it is not at our version."""
    server = own_server
    server.add_node("us", "10.244.1.0/24")

    async def work() -> None:
        store = store_of(server, "us", tmp_path)
        await store.acquire(vxlan, None)
        events = store.watch()
        await anext(events)
        await events.aclose()
        honest = store._client.node

        async def gateway(*_: object) -> Node:
            raise Refused(504, "GET /api/v1/nodes/us: the API server says 504: <html>Gateway Time-out</html>")

        monkeypatch.setattr(store._client, "node", gateway)
        assert "Gateway Time-out" in await fails_by(store)
        monkeypatch.setattr(store._client, "node", honest)
        events = store.watch()
        await anext(events)
        assert lists(server) == 1
        await events.aclose()
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


@pytest.mark.parametrize("past", [0, 10_000])
def test_a_deletion_that_a_backup_undoes_is_undone_here(own_server: Server, tmp_path: Path, past: int) -> None:
    server = own_server
    server.add_node("us", "10.244.1.0/24")

    async def work() -> None:
        store = store_of(server, "us", tmp_path, spans=short)
        own = await store.acquire(vxlan, None)
        two, three = peer(server, "two", 2), peer(server, "three", 3)
        events = store.watch()
        await anext(events)
        backup = server.snapshot()
        server.delete_node("two")
        assert await anext(events) == LeaseGone(two.key)
        server.kill()
        with pytest.raises(StoreError):
            await anext(events)
        server.restore(backup, past=past)
        async for event in store.watch():
            if isinstance(event, Snapshot) and held(*event.leases) == held(own, two, three):
                break
        await store.close()

    run(work())


def test_a_deletion_costs_no_list_when_the_connection_breaks(own_server: Server, tmp_path: Path) -> None:
    server = own_server
    server.add_node("us", "10.244.1.0/24")

    async def work() -> None:
        store = store_of(server, "us", tmp_path)
        await store.acquire(vxlan, None)
        two, _ = peer(server, "two", 2), peer(server, "three", 3)
        events = store.watch()
        await anext(events)
        server.delete_node("two")
        assert await anext(events) == LeaseGone(two.key)
        await events.aclose()
        events = store.watch()
        first = await anext(events)
        assert isinstance(first, Snapshot)
        four = peer(server, "four", 4)
        assert await anext(events) == LeasePut(four)
        assert lists(server) == 1
        await events.aclose()
        await store.close()

    run(work())


def test_a_quiet_watch_that_a_gateway_ends_early_is_a_broken_connection(own_server: Server, tmp_path: Path) -> None:
    server = own_server
    server.add_node("us", "10.244.1.0/24")

    async def work() -> None:
        store = store_of(server, "us", tmp_path)
        await store.acquire(vxlan, None)
        events = store.watch()
        await anext(events)
        await events.aclose()
        honest = store._client.watch

        async def ended(*given: Any, **named: Any) -> AsyncGenerator[Any, None]:
            async with aclosing(honest(*given, **named)) as watch:
                yield await anext(watch)

        store._client.watch = ended  # type: ignore[method-assign]
        for _ in range(3):
            assert "ended the watch at once" in await fails_by(store)
        assert lists(server) == 1
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
