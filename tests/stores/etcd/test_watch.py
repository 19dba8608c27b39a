"""The watch against a real etcd server: Snapshot, changes, bad content, compaction, size."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import pytest

from dataplane.errors import StoreError
from dataplane.model import Lease, LeaseGone, LeasePut, LeaseRefused, Snapshot, WatchEvent
from dataplane.stores.etcd import etcd_pb2 as pb
from dataplane.stores.etcd import watch
from dataplane.stores.etcd.store import EtcdStore
from tests.stores.etcd.server import Place, attrs
from tests.stores.loop import run

Events = AsyncGenerator[WatchEvent, None]
value = '{"PublicIP":"192.0.2.1","PublicIPv6":null}'


def watching(place: Place, script: Callable[[Events, Callable[..., Awaitable[None]]], Awaitable[None]]) -> None:
    """Run `script(events, do)`, where `do(function, …)` runs etcdctl beside the watch."""

    async def work() -> None:
        store = place.store()
        try:
            async with aclosing(store.watch()) as events:
                await script(events, asyncio.to_thread)
        finally:
            await store.close()

    run(work())


def leases(event: WatchEvent) -> tuple[Lease, ...]:
    assert isinstance(event, Snapshot)
    return event.leases


def keys(event: WatchEvent) -> set[str]:
    return {lease.key for lease in leases(event)}


def test_snapshot_then_every_change_in_order(place: Place) -> None:
    place.put("10.5.1.0-24", value)

    async def script(events: Events, do: Callable[..., Awaitable[None]]) -> None:
        assert keys(await anext(events)) == {"10.5.1.0-24"}
        # Written before the watch is open: it begins at the snapshot's revision, so nothing is missed.
        await do(place.put, "10.5.2.0-24", value)
        await do(place.put, "10.5.1.0-24", value.replace("2.1", "2.7"))
        await do(place.delete, "10.5.2.0-24")
        first, second, third = [await anext(events) for _ in range(3)]
        assert isinstance(first, LeasePut) and first.lease.key == "10.5.2.0-24"
        assert isinstance(second, LeasePut) and second.lease.attrs == attrs(7)
        assert third == LeaseGone("10.5.2.0-24")

    watching(place, script)


def test_expiry_is_told(place: Place) -> None:
    granted = place.server.ctl("lease", "grant", "60").split()[1]
    place.put("10.5.1.0-24", value, f"--lease={granted}")

    async def script(events: Events, do: Callable[..., Awaitable[None]]) -> None:
        assert keys(await anext(events)) == {"10.5.1.0-24"}
        await do(place.server.ctl, "lease", "revoke", granted)
        assert await anext(events) == LeaseGone("10.5.1.0-24")

    watching(place, script)


def test_bad_keys_and_values_are_set_apart(place: Place) -> None:
    place.put("10.5.1.0-24", value)
    place.put("10.5.2.0-24", "rubbish")
    place.put("10.5.3.1-24", value)
    place.put("nonsense", value)

    async def script(events: Events, do: Callable[..., Awaitable[None]]) -> None:
        snapshot = await anext(events)
        assert keys(snapshot) == {"10.5.1.0-24"}
        assert isinstance(snapshot, Snapshot)
        names = {entry.key for entry in snapshot.refused}
        under = f"{place.prefix}/subnets"
        assert names == {"10.5.2.0-24", f"{under}/10.5.3.1-24", f"{under}/nonsense"}
        await do(place.put, "10.5.1.0-24", '{"PublicIP":null}')
        event = await anext(events)
        assert isinstance(event, LeaseRefused) and event.refused.key == "10.5.1.0-24"
        await do(place.delete, "nonsense")
        assert await anext(events) == LeaseGone(f"{under}/nonsense")
        await do(place.put, "10.5.9.0-24", value)
        event = await anext(events)
        assert isinstance(event, LeasePut) and event.lease.key == "10.5.9.0-24"

    watching(place, script)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("10.5.1.0-24&fd00::-64", "10.5.1.0-24&fd00:0:0::-64"),
        ("10.5.1.0-24&fd00:0:0::-64", "10.5.1.0-24&fd00::-64"),
        ("10.5.1.0-24", "10.5.1.0-024"),
        ("10.5.1.0-24", "folder/10.5.1.0-24"),
    ],
)
def test_each_spelling_is_a_lease_of_its_own_that_tells_its_age(place: Place, first: str, second: str) -> None:
    place.put(first, value)

    async def script(events: Events, do: Callable[..., Awaitable[None]]) -> None:
        (one,) = leases(await anext(events))
        await do(place.put, second, value.replace("2.1", "2.7"))
        event = await anext(events)
        assert isinstance(event, LeasePut)
        other = event.lease
        assert one.born < other.born and one.attrs == attrs(1) and other.attrs == attrs(7)
        under = f"{place.prefix}/subnets/"
        plain = min(first, second, key=len)
        assert [one.key, other.key] == [name if name == plain else under + name for name in (first, second)]
        # A renewal, even of the younger by the way, changes no age; a deletion leaves the other as it was.
        await do(place.put, first, value)
        event = await anext(events)
        assert isinstance(event, LeasePut) and event.lease == one
        await do(place.delete, first)
        assert await anext(events) == LeaseGone(one.key)
        await do(place.delete, second)
        assert await anext(events) == LeaseGone(other.key)

    watching(place, script)


def test_keys_written_at_once_have_the_age_of_their_bytes(place: Place) -> None:
    """One transaction, so one revision: every node must still find the same one older."""

    async def script(events: Events, do: Callable[..., Awaitable[None]]) -> None:
        await anext(events)
        store = place.store()
        try:
            names = ("10.5.1.0-24&fd00::-64", "10.5.1.0-24&fd00:0:0::-64", "10.5.1.0-24&fd00:0::-64")
            puts = [
                pb.PutRequest(key=f"{place.prefix}/subnets/{name}".encode(), value=value.encode()) for name in names
            ]
            request = pb.TxnRequest(success=[pb.RequestOp(request_put=put) for put in puts])
            await store._client.write("KV/Txn", request, pb.TxnResponse)
        finally:
            await store.close()
        told = [await anext(events) for _ in names]
        found = [event.lease for event in told if isinstance(event, LeasePut)]
        assert len({lease.born[0] for lease in found}) == 1
        oldest = min(found, key=lambda lease: lease.born)
        assert oldest.key.endswith("/10.5.1.0-24&fd00:0:0::-64")

    watching(place, script)


def test_a_key_that_cannot_be_shown_is_no_lease(place: Place) -> None:
    """Names are cut and escaped for logs; two keys must never get one name."""
    place.put("x" * 400 + "/10.5.1.0-24", value)
    place.put("a\nb/10.5.1.0-24", value)
    place.put("10.5.1.0-24", value)

    async def script(events: Events, _: Callable[..., Awaitable[None]]) -> None:
        snapshot = await anext(events)
        assert isinstance(snapshot, Snapshot)
        assert keys(snapshot) == {"10.5.1.0-24"}
        assert len(snapshot.refused) == 2
        assert all(entry.key.isprintable() and len(entry.key) <= 400 for entry in snapshot.refused)

    watching(place, script)


def test_compaction_before_the_watch_opens_gives_a_new_snapshot(place: Place) -> None:
    place.put("10.5.1.0-24", value)

    async def script(events: Events, do: Callable[..., Awaitable[None]]) -> None:
        assert keys(await anext(events)) == {"10.5.1.0-24"}
        await do(place.delete, "10.5.1.0-24")
        await do(place.put, "10.5.2.0-24", value)
        await do(compact, place)
        assert keys(await anext(events)) == {"10.5.2.0-24"}
        await do(place.put, "10.5.3.0-24", value)
        event = await anext(events)
        assert isinstance(event, LeasePut) and event.lease.key == "10.5.3.0-24"

    watching(place, script)


def compact(place: Place) -> None:
    import json

    revision = json.loads(place.server.ctl("get", "/", "-w", "json"))["header"]["revision"]
    place.server.ctl("compact", str(revision))


def test_ten_thousand_leases_come_in_one_snapshot(place: Place) -> None:
    """Values of 1 kB make it 10 MB: more than gRPC takes by default."""
    padding = f',"BackendType":"x","BackendData":"{"x" * 1000}"}}'

    async def work() -> None:
        store = place.store()
        try:
            await fill(store, place.prefix, value[:-1] + padding)
            async with aclosing(store.watch()) as events:
                assert len(keys(await anext(events))) == 10_000
        finally:
            await store.close()

    run(work())


async def fill(store: EtcdStore, prefix: str, text: str) -> None:
    """Write 10,000 keys in transactions of 128, the server's limit."""
    puts = [
        pb.RequestOp(
            request_put=pb.PutRequest(key=f"{prefix}/subnets/10.{n >> 8}.{n & 255}.0-24".encode(), value=text.encode())
        )
        for n in range(10_000)
    ]
    for at in range(0, len(puts), 128):
        await store._client.write("KV/Txn", pb.TxnRequest(success=puts[at : at + 128]), pb.TxnResponse)


def test_a_watch_that_keeps_changes_back_is_ended(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As behind a proxy that has lost it: the connection stands, other requests are answered, changes do not come."""
    monkeypatch.setattr(watch, "shortest_rest_s", 0.02)
    monkeypatch.setattr(watch, "grace_s", 0.1)
    place.put("10.5.1.0-24", value)

    async def work() -> None:
        store = place.store()
        honest = store._client.watch

        @asynccontextmanager
        async def swallowed(request: pb.WatchRequest) -> AsyncGenerator[AsyncGenerator[pb.WatchResponse, None], None]:
            async def first(answers: AsyncGenerator[pb.WatchResponse, None]) -> AsyncGenerator[pb.WatchResponse, None]:
                yield await anext(answers)
                await asyncio.get_running_loop().create_future()

            async with honest(request) as answers:
                yield first(answers)

        async def asked(waiting: asyncio.Future[WatchEvent]) -> None:
            while not waiting.done():
                await store.ping()
                await asyncio.sleep(0.01)

        # While nothing changes, or while changes come, nothing is wrong with it.
        events = store.watch()
        await anext(events)
        for number in (2, 3):
            waiting = asyncio.ensure_future(anext(events))
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1.0):
                    await asked(asyncio.shield(waiting))
            assert store.stands
            await asyncio.to_thread(place.put, f"10.5.{number}.0-24", value)
            await asked(waiting)
            assert isinstance(waiting.result(), LeasePut)
        await events.aclose()
        monkeypatch.setattr(store._client, "watch", swallowed)
        events = store.watch()
        await anext(events)
        waiting = asyncio.ensure_future(anext(events))
        while not store.stands:
            await store.ping()
        await asyncio.to_thread(place.put, "10.5.4.0-24", value)
        await asked(waiting)
        with pytest.raises(StoreError, match="changes of leases that its watch does not bring"):
            waiting.result()
        assert not store.stands
        await store.close()

    run(work())
