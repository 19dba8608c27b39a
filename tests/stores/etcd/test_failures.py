"""Servers that die, freeze, forget and come back: noticed in time, and nothing is skipped silently."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from dataplane.errors import BadInput, StoreError
from dataplane.model import LeaseGone, Snapshot, WatchEvent
from dataplane.stores.etcd.client import Unanswered
from dataplane.stores.etcd.store import EtcdStore
from tests.stores.etcd.server import Place, Relay, Server, attrs, free_ports
from tests.stores.loop import run

value = '{"PublicIP":"192.0.2.1","PublicIPv6":null}'


@asynccontextmanager
async def watching(place: Place) -> AsyncIterator[tuple[Relay, EtcdStore, AsyncGenerator[WatchEvent, None]]]:
    """A store behind a relay, and its watch, which is open and has told all that there is."""
    async with Relay(place.server.port) as relay:
        store = place.store(endpoints=relay.url)
        try:
            async with aclosing(store.watch()) as events:
                await anext(events)
                waiting = asyncio.ensure_future(anext(events))
                await asyncio.to_thread(place.put, "10.5.2.0-24", value)
                await waiting
                yield relay, store, events
        finally:
            relay.flowing.set()
            await store.close()


async def first_keys(store: EtcdStore) -> set[str]:
    async with aclosing(store.watch()) as events:
        event = await anext(events)
    assert isinstance(event, Snapshot)
    return {lease.key for lease in event.leases}


async def until_answered(store: EtcdStore) -> None:
    """Ask until it answers; gRPC connects anew at most a second after the server is back."""
    async with asyncio.timeout(200):
        while True:
            try:
                await store.ping()
                return
            except StoreError:
                await asyncio.sleep(0.02)


def test_nobody_there_is_an_error_that_names_the_server(tmp_path: Path) -> None:
    (port,) = free_ports(1)

    async def work() -> None:
        store = Place(Server(tmp_path), "/x").store(endpoints=f"http://127.0.0.1:{port}")
        try:
            for call in (store.ping(), store.read_config(), store.acquire(attrs(1), None), anext(store.watch())):
                with pytest.raises(StoreError, match=str(port)):
                    await call
        finally:
            await store.close()

    run(work())


def test_the_second_endpoint_answers_when_the_first_does_not(place: Place) -> None:
    (port,) = free_ports(1)
    place.configure()

    async def work() -> None:
        store = place.store(endpoints=f"http://127.0.0.1:{port},{place.server.url}")
        try:
            lease = await store.acquire(attrs(1), None)
            assert await first_keys(store) == {lease.key}
        finally:
            await store.close()

    run(work())


def test_a_watch_goes_on_at_the_second_endpoint_when_the_first_goes(place: Place) -> None:
    place.put("10.5.1.0-24", value)

    async def work() -> None:
        async with Relay(place.server.port) as first, Relay(place.server.port) as second:
            store = place.store(endpoints=f"{first.url},{second.url}")
            try:
                async with aclosing(store.watch()) as events:
                    await anext(events)
                    waiting = asyncio.ensure_future(anext(events))
                    first.refusing = True
                    first.cut()
                    with pytest.raises(StoreError):
                        await waiting
                await asyncio.to_thread(place.put, "10.5.2.0-24", value)
                assert await first_keys(store) == {"10.5.1.0-24", "10.5.2.0-24"}
            finally:
                await store.close()

    run(work())


def test_a_cut_connection_ends_the_watch_and_the_next_tells_what_was_missed(place: Place) -> None:
    place.put("10.5.1.0-24", value)

    async def work() -> None:
        async with watching(place) as (relay, store, events):
            waiting = asyncio.ensure_future(anext(events))
            relay.cut()
            with pytest.raises(StoreError):
                await waiting
            await asyncio.to_thread(place.delete, "10.5.1.0-24")
            await until_answered(store)
            assert await first_keys(store) == {"10.5.2.0-24"}

    run(work())


def test_a_connection_that_carries_nothing_any_more_is_noticed(place: Place) -> None:
    place.put("10.5.1.0-24", value)

    async def work() -> None:
        async with watching(place) as (relay, _, events):
            relay.flowing.clear()
            with pytest.raises(StoreError):
                await asyncio.wait_for(anext(events), 200)

    run(work())


def test_a_frozen_server_is_noticed_by_ping_and_watch_and_welcome_again(own_server: Server) -> None:
    place = Place(own_server, "/frozen")
    place.put("10.5.1.0-24", value)

    async def work() -> None:
        store = place.store()
        try:
            async with aclosing(store.watch()) as events:
                await anext(events)
                waiting = asyncio.ensure_future(anext(events))
                await asyncio.to_thread(place.delete, "10.5.1.0-24")
                assert await waiting == LeaseGone("10.5.1.0-24")
                waiting = asyncio.ensure_future(anext(events))
                own_server.freeze()
                try:
                    with pytest.raises(Unanswered):
                        await store.ping()
                    with pytest.raises(StoreError):
                        await asyncio.wait_for(waiting, 200)
                finally:
                    own_server.thaw()
            await until_answered(store)
            assert await first_keys(store) == set()
        finally:
            await store.close()

    run(work())


def test_a_killed_server_comes_back_with_every_lease(own_server: Server) -> None:
    place = Place(own_server, "/killed")
    place.configure()

    async def work() -> None:
        store = place.store()
        try:
            lease = await store.acquire(attrs(1), None)
            async with aclosing(store.watch()) as events:
                await anext(events)
                waiting = asyncio.ensure_future(anext(events))
                await asyncio.to_thread(place.put, "10.5.250.0-24", "rubbish")
                await waiting
                waiting = asyncio.ensure_future(anext(events))
                own_server.kill()
                with pytest.raises(StoreError):
                    await asyncio.wait_for(waiting, 200)
            with pytest.raises(StoreError):
                await store.renew(lease)
            await asyncio.to_thread(own_server.start)
            await until_answered(store)
            assert await first_keys(store) == {lease.key}
            assert (await store.renew(lease)).key == lease.key
        finally:
            await store.close()

    run(work())


def test_a_server_restored_from_a_backup_is_told_by_a_snapshot(own_server: Server) -> None:
    """The restored server is written to until its revision is past the old one's: no number tells them apart."""
    place = Place(own_server, "/restored")
    place.put("10.5.1.0-24", value)
    backup = own_server.directory / "backup"
    own_server.ctl("snapshot", "save", str(backup))
    place.put("10.5.2.0-24", value)

    def replace_server() -> None:
        own_server.kill()
        own_server.restore(backup)
        own_server.start()
        for _ in range(5):
            place.put("10.5.3.0-24", value)

    async def work() -> None:
        store = place.store()
        try:
            async with aclosing(store.watch()) as events:
                event = await anext(events)
                assert isinstance(event, Snapshot) and len(event.leases) == 2
                waiting = asyncio.ensure_future(anext(events))
                await asyncio.to_thread(place.put, "10.5.2.0-24", value)
                await waiting
                waiting = asyncio.ensure_future(anext(events))
                await asyncio.to_thread(replace_server)
                with pytest.raises(StoreError):
                    await asyncio.wait_for(waiting, 200)
            await until_answered(store)
            assert await first_keys(store) == {"10.5.1.0-24", "10.5.3.0-24"}
        finally:
            await store.close()

    run(work())


def test_a_renewal_without_an_answer_keeps_the_etcd_lease_it_may_stand_on(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.configure()

    async def work() -> None:
        store = place.store()
        original = store._client.write

        async def unheard(method: str, *rest: object) -> object:
            answer = await original(method, *rest)  # type: ignore[arg-type]
            if method == "KV/Txn":
                raise Unanswered("the answer was lost")
            return answer

        try:
            lease = await store.acquire(attrs(1), None)
            monkeypatch.setattr(store._client, "write", unheard)
            with pytest.raises(Unanswered):
                await store.renew(lease)
            assert await first_keys(store) == {lease.key}
        finally:
            await store.close()

    run(work())


def test_closing_ends_a_watch_with_an_error_not_a_cancellation(place: Place) -> None:
    async def work() -> None:
        store = place.store()
        events = store.watch()
        await anext(events)
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.to_thread(place.put, "10.5.2.0-24", value)
        await waiting
        waiting = asyncio.ensure_future(anext(events))
        await asyncio.sleep(0)
        await store.close()
        with pytest.raises(StoreError):
            await waiting

    run(work())


def test_unreadable_tls_file_is_refused_by_flag(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="--etcd-cafile"):
        Place(Server(tmp_path), "/x").store(endpoints="https://127.0.0.1:1", cafile=str(tmp_path / "none"))
