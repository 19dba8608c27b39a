"""The watch of the Nodes, through all that an API server does to a watch; and what of it costs the server a list."""

from __future__ import annotations

import asyncio
import json
import shutil
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path

import pytest

from dataplane.errors import StoreError
from dataplane.lab.commands import wait_for
from dataplane.model import Lease, LeaseAttrs, LeaseGone, LeasePut, LeaseRefused, Snapshot
from dataplane.stores.kube.watch import Spans
from tests.apiserver.process import Server
from tests.stores.kube.places import dual, held, lists, mac, peer, short, started, store_of, until, watches
from tests.stores.loop import run


def test_a_list_and_then_every_change(own_server: Server, tmp_path: Path) -> None:
    server = own_server
    server.add_node("us", "10.244.1.0/24")
    two = peer(server, "two", 2)
    server.add_node("unmanaged", "10.244.9.0/24")

    async def work() -> None:
        store, own = await started(server, tmp_path)
        events = store.watch()
        first = await anext(events)
        assert isinstance(first, Snapshot)
        assert held(*first.leases) == held(own, two)
        assert first.refused == ()
        three = peer(server, "three", 3)
        assert await anext(events) == LeasePut(three)
        changed = peer(server, "two", 2, 22)
        assert await anext(events) == LeasePut(changed)
        server.annotate("two", {"flannel.alpha.coreos.com/public-ip": "nowhere"})
        assert await anext(events) == LeaseGone("10.244.2.0-24")
        refused = await anext(events)
        assert isinstance(refused, LeaseRefused)
        assert refused.refused.key == "node two"
        server.annotate("three", {"flannel.alpha.coreos.com/kube-subnet-manager": None})
        assert await anext(events) == LeaseGone("10.244.3.0-24")
        server.delete_node("two")
        assert await anext(events) == LeaseGone("node two")
        server.delete_node("us")
        assert await anext(events) == LeaseGone("10.244.1.0-24")
        await events.aclose()
        await store.close()

    run(work())


def test_one_subnet_on_two_nodes_in_two_spellings_is_the_older_nodes(own_server: Server, tmp_path: Path) -> None:
    server = own_server
    conf = {
        "Network": "10.244.0.0/16",
        "EnableIPv6": True,
        "IPv6Network": "fd00:a::/48",
        "Backend": {"Type": "vxlan"},
    }
    server.add_node("us", "10.244.1.0/24", "fd00:a:0:1::/64")

    def other(name: str, number: int, ipv6_subnet: str) -> Lease:
        server.add_node(name, "10.244.7.0/24", ipv6_subnet)
        public, public6 = IPv4Address(f"198.51.100.{number}"), IPv6Address(f"2001:db8::{number}")
        data = {"VNI": 1, "VtepMAC": f"02:00:00:00:00:{number:02x}"}
        return server.annotate_as_flannel(name, LeaseAttrs(public, public6, "vxlan", data, data))

    async def work() -> None:
        store = store_of(server, "us", tmp_path, conf=conf)
        await store.acquire(dual, None)
        events = store.watch()
        await anext(events)
        # Of one second, as these are, the first name counts as older.
        first = other("a", 7, "FD00:A:0:7::/64")
        event = await until(events, LeasePut)
        assert event.lease == first and event.lease.key == "10.244.7.0-24&fd00:a:0:7::-64"
        other("b", 8, "fd00:000a::7:0:0:0:0/064")
        event = await until(events, LeaseRefused)
        assert event.refused.key == "node b"
        assert event.refused.reason == f"its subnet {first.key} is node a's, which was there first"
        fresh = store_of(server, "us", tmp_path, conf=conf).watch()
        snapshot = await anext(fresh)
        assert isinstance(snapshot, Snapshot) and first in snapshot.leases
        assert [entry.key for entry in snapshot.refused] == ["node b"]
        await fresh.aclose()
        server.delete_node("a")
        event = await until(events, LeasePut)
        assert (event.lease.key, event.lease.attrs.public_ip) == (first.key, IPv4Address("198.51.100.8"))
        await events.aclose()
        await store.close()

    run(work())


@pytest.mark.parametrize(("settings", "pages"), [({}, 0), ({"watch_list": False}, 6)])
def test_a_long_list_comes_in_a_stream_or_in_pages_of_one_version_from_the_cache(
    tmp_path: Path, settings: dict[str, bool], pages: int
) -> None:
    directory = tmp_path / "server"
    directory.mkdir()
    prefix = "flannel.alpha.coreos.com/"
    with (directory / "journal").open("w") as journal:
        for number in range(1, 1101):
            name = f"node-{number:05}"
            texts = {
                "kube-subnet-manager": "true",
                "backend-type": "vxlan",
                "public-ip": f"198.18.{number >> 8}.{number & 255}",
            }
            texts["backend-data"] = f'{{"VNI":1,"VtepMAC":"{mac}"}}'
            document = {
                "metadata": {
                    "name": name,
                    "uid": f"uid-{number}",
                    "creationTimestamp": "2026-01-01T00:00:00Z",
                    "resourceVersion": str(number + 1),
                    "annotations": {prefix + item: text for item, text in texts.items()},
                },
                "spec": {"podCIDRs": [f"10.{number >> 8}.{number & 255}.0/24"]},
            }
            entry = {"version": number + 1, "kind": "nodes", "key": name, "document": document}
            journal.write(json.dumps(entry) + "\n")

    async def work(server: Server) -> None:
        store = store_of(server, "node-00001", tmp_path)
        events = store.watch()
        first = await anext(events)
        assert isinstance(first, Snapshot)
        assert len(first.leases) == 1100
        listed = [request for request in server.requests() if request["verb"] == "list"]
        assert [request["source"] for request in listed] == ["cache"] * pages
        new = LeaseAttrs(IPv4Address("198.18.9.9"), None, "vxlan", {"VNI": 1, "VtepMAC": mac})
        server.annotate_as_flannel("node-00007", new)
        changed = await until(events, LeasePut)
        assert changed.lease.attrs == new
        await events.aclose()
        await store.close()

    with Server(directory, settings=settings) as server:
        run(work(server))


def test_a_broken_connection_goes_on_without_a_list(own_server: Server, tmp_path: Path) -> None:
    server = own_server
    server.add_node("us", "10.244.1.0/24")

    async def work() -> None:
        store, own = await started(server, tmp_path)
        events = store.watch()
        await anext(events)
        two = peer(server, "two", 2)
        assert await anext(events) == LeasePut(two)
        server.kill()
        with pytest.raises(StoreError):
            await anext(events)
        with pytest.raises(StoreError):
            await store.ping()
        assert not store.stands
        server.start()
        events = store.watch()
        again = await anext(events)
        await store.ping()
        assert store.stands
        assert isinstance(again, Snapshot)
        assert held(*again.leases) == held(own, two)
        three = peer(server, "three", 3)
        assert await anext(events) == LeasePut(three)
        assert lists(server) == 0
        await events.aclose()
        await store.close()

    run(work())


@pytest.mark.parametrize("way", ["event", "status"])
def test_what_was_missed_behind_an_expired_version_comes_by_a_list(
    own_server: Server, tmp_path: Path, way: str
) -> None:
    server = own_server
    server.add_node("us", "10.244.1.0/24")

    async def work() -> None:
        store, own = await started(server, tmp_path)
        two, three = peer(server, "two", 2), peer(server, "three", 3)
        events = store.watch()
        first = await anext(events)
        assert isinstance(first, Snapshot)
        assert held(*first.leases) == held(own, two, three)
        await events.aclose()
        # While nobody watches, one goes, one comes, one changes; then the history is forgotten.
        server.delete_node("two")
        four, changed = peer(server, "four", 4), peer(server, "three", 3, 33)
        server.pull("compact")
        server.pull("gone", **{"as": way})
        events = store.watch()
        after = await anext(events)
        if way == "event" and after == first:  # the connection stood before the server said it
            after = await anext(events)
        assert isinstance(after, Snapshot)
        assert held(*after.leases) == held(own, changed, four)
        five = peer(server, "five", 5)
        assert await anext(events) == LeasePut(five)
        await events.aclose()
        await store.close()

    run(work())


def test_a_running_watch_survives_a_compaction(own_server: Server, tmp_path: Path) -> None:
    server = own_server
    server.add_node("us", "10.244.1.0/24")

    async def work() -> None:
        store, _ = await started(server, tmp_path)
        events = store.watch()
        await anext(events)
        server.pull("compact")
        two = peer(server, "two", 2)
        put = await until(events, LeasePut)
        assert put.lease == two
        await events.aclose()
        await store.close()

    run(work())


def test_watches_are_bounded_and_bookmarks_keep_them_young(own_server: Server, tmp_path: Path) -> None:
    """A quiet cluster, whose other writes are not of Nodes, costs no list."""
    server = own_server
    server.add_node("us", "10.244.1.0/24")

    async def work() -> None:
        store, _ = await started(server, tmp_path, short)
        events = store.watch()
        await anext(events)
        server.add_pod("default", "other", "us")
        version = int(server.node("us")["metadata"]["resourceVersion"]) + 1
        # The next watch begins after the pod, by the bookmark of the first.
        waiting = asyncio.create_task(anext(events))
        await asyncio.to_thread(wait_for, lambda: len(watches(server)) > 1, 10, "the second watch")
        assert watches(server)[1].endswith(f"resourceVersion={version}")
        server.pull("compact")
        two = peer(server, "two", 2)
        assert await waiting == LeasePut(two)
        assert lists(server) == 1
        await events.aclose()
        await store.close()

    run(work())


def test_a_server_restored_from_a_backup_is_listed_anew(own_server: Server, tmp_path: Path) -> None:
    """Its versions are lower than ours: a watch from there is silent for ever, and no error tells."""
    server = own_server
    server.add_node("us", "10.244.1.0/24")

    async def work() -> None:
        store, own = await started(server, tmp_path, short)
        two = peer(server, "two", 2)
        backup = tmp_path / "backup"
        shutil.copy(server.journal, backup)
        for public in range(100, 120):
            peer(server, "two", 2, public)
        three = peer(server, "three", 3)
        events = store.watch()
        first = await anext(events)
        assert isinstance(first, Snapshot)
        assert three in first.leases
        server.kill()
        with pytest.raises(StoreError):
            await anext(events)
        shutil.copy(backup, server.journal)
        server.start()
        events = store.watch()
        restored = await anext(events)
        assert isinstance(restored, Snapshot)
        assert held(*restored.leases) == held(own, two)
        await events.aclose()
        await store.close()

    run(work())


def test_a_list_now_and_then(own_server: Server, tmp_path: Path) -> None:
    server = own_server
    server.add_node("us", "10.244.1.0/24")

    async def work() -> None:
        store, _ = await started(server, tmp_path, Spans(watch=3, relist=0.0))
        events = store.watch()
        assert isinstance(await anext(events), Snapshot)
        assert isinstance(await anext(events), Snapshot)
        assert lists(server) == 2
        await events.aclose()
        await store.close()

    run(work())
