"""How the store is back after a break, a restart or a backup: it lists only where something was missed, and never in step."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dataplane.errors import StoreError
from dataplane.model import Lease, LeaseGone, LeasePut, Snapshot
from dataplane.stores.kube.client import Refused
from dataplane.stores.kube.objects import Node
from tests.apiserver.access import Rule, admin
from tests.apiserver.process import Server, first_token, service_account
from tests.stores.kube.places import fails_by, held, lists, peer, quick, short, store_of, until, vxlan
from tests.stores.loop import run


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
