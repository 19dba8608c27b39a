"""Who else writes our lease, in a real etcd: a second node with our public address is told, whatever we do ourselves is not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address
from itertools import count
from pathlib import Path

import pytest
from google.protobuf.message import Message

from dataplane.errors import StoreError
from dataplane.model import Lease, LeaseGone, LeasePut, SecondWriter, Snapshot, WatchEvent
from dataplane.stores.etcd.client import Client, Unanswered
from dataplane.stores.etcd.store import EtcdStore
from tests.stores.etcd.server import Place, Server, attrs
from tests.stores.loop import run

mine = replace(attrs(1), backend_type="vxlan", backend_data={"VNI": 1, "VtepMAC": "02:00:00:00:00:01"})
marker = "10.9.9.0-24"
marks = count(int(IPv4Address("198.18.0.0")))


class Daemon:
    """A store as one daemon uses it: acquired first, then watched."""

    def __init__(self, place: Place) -> None:
        self._place = place
        self.store: EtcdStore = place.store()
        self._events = self.store.watch()

    async def start(self) -> Lease:
        self.lease = await self.store.acquire(mine, None)
        await self.told()
        return self.lease

    async def renew(self) -> None:
        self.lease = await self.store.renew(self.lease)

    async def watch_again(self) -> None:
        await self._events.aclose()
        self._events = self.store.watch()

    async def told(self) -> list[WatchEvent]:
        """Everything up to now: to the end of a Snapshot, or of what was written before a marker of another lease."""
        mark = IPv4Address(next(marks))
        await asyncio.to_thread(self._place.put, marker, f'{{"PublicIP":"{mark}"}}', "--command-timeout=20s")
        events: list[WatchEvent] = []
        async with asyncio.timeout(200):
            async for event in self._events:
                events.append(event)
                if isinstance(event, Snapshot) and any(lease.key == marker for lease in event.leases):
                    # What belongs to a Snapshot comes right behind it, so one more marker tells its end.
                    return events + await self.told()
                if isinstance(event, LeasePut) and event.lease.attrs.public_ip == mark:
                    return events
        raise AssertionError("the watch ended")

    async def seconds(self) -> list[Lease]:
        return [event.lease for event in await self.told() if isinstance(event, SecondWriter)]

    async def close(self) -> None:
        with suppress(StoreError):
            await self._events.aclose()
        await self.store.close()


def with_daemons(place: Place, number: int, script: Callable[..., Awaitable[None]]) -> None:
    place.configure()

    async def work() -> None:
        daemons = [Daemon(place) for _ in range(number)]
        try:
            await script(*daemons)
        finally:
            for daemon in daemons:
                await daemon.close()

    run(work())


@pytest.mark.parametrize("reserved", [False, True])
def test_two_daemons_with_one_address_are_told_of_each_other(place: Place, reserved: bool) -> None:
    if reserved:
        place.put("10.5.3.0-24", '{"PublicIP":"192.0.2.1"}')

    async def script(one: Daemon, other: Daemon) -> None:
        lease = await one.start()
        assert await one.seconds() == []
        assert (await other.start()).key == lease.key
        assert [second.attrs for second in await one.seconds()] == [mine]
        assert await other.seconds() == []
        await one.renew()
        assert [second.attrs for second in await other.seconds()] == [mine]
        assert await one.seconds() == []
        other.lease = replace(other.lease, attrs=replace(mine, backend_type="host-gw"))
        await other.renew()
        assert [second.attrs.backend_type for second in await one.seconds()] == ["host-gw"]

    with_daemons(place, 2, script)


@pytest.mark.parametrize("reserved", [False, True])
def test_what_was_written_while_nobody_watched_is_told(place: Place, reserved: bool) -> None:
    if reserved:
        place.put("10.5.3.0-24", '{"PublicIP":"192.0.2.1"}')

    async def script(one: Daemon, other: Daemon) -> None:
        await one.start()
        await one.watch_again()
        await other.start()
        assert len(await one.seconds()) == 1
        await one.renew()
        await one.watch_again()
        assert await one.seconds() == []

    with_daemons(place, 2, script)


@pytest.mark.parametrize("reserved", [False, True])
def test_nothing_that_we_do_is_anothers(place: Place, reserved: bool) -> None:
    if reserved:
        place.put("10.5.3.0-24", '{"PublicIP":"192.0.2.1"}')

    async def script(one: Daemon, again: Daemon) -> None:
        await one.start()
        leases = place.leases()
        for _ in range(5):
            await one.renew()
        assert await one.seconds() == []
        assert place.leases() == leases, "etcd leases of renewals pile up"
        one.lease = await one.store.renew(one.lease, replace(mine, backend_type="host-gw"))
        await one.watch_again()
        assert await one.seconds() == []
        # Another life of ours, whatever the first had under way.
        await one.renew()
        await again.start()
        await again.renew()
        assert await again.seconds() == []
        await asyncio.to_thread(compact, place.server)
        await again.watch_again()
        assert await again.seconds() == []

    with_daemons(place, 2, script)


def compact(server: Server) -> None:
    revision = json.loads(server.ctl("get", "/", "-w", "json"))["header"]["revision"]
    server.ctl("compact", str(revision))


@pytest.mark.parametrize("reserved", [False, True])
def test_a_write_whose_answer_was_lost_is_ours(place: Place, monkeypatch: pytest.MonkeyPatch, reserved: bool) -> None:
    if reserved:
        place.put("10.5.3.0-24", '{"PublicIP":"192.0.2.1"}')
    write = Client.write

    async def mute(self: Client, method: str, request: Message, answer: type[Message]) -> Message:
        got = await write(self, method, request, answer)
        if method == "KV/Txn":
            raise Unanswered("no answer")
        return got

    async def script(one: Daemon) -> None:
        await one.start()
        with monkeypatch.context() as patch:
            patch.setattr(Client, "write", mute)
            with pytest.raises(Unanswered):
                await one.renew()
        assert await one.seconds() == []
        await one.renew()
        assert await one.seconds() == []
        await one.watch_again()
        assert await one.seconds() == []

    with_daemons(place, 1, script)


def test_a_write_that_is_told_before_its_answer_comes_is_ours(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.put("10.5.3.0-24", '{"PublicIP":"192.0.2.1"}')
    write = Client.write
    done, go_on = asyncio.Event(), asyncio.Event()

    async def slow(self: Client, method: str, request: Message, answer: type[Message]) -> Message:
        got = await write(self, method, request, answer)
        if method == "KV/Txn":
            done.set()
            await go_on.wait()
        return got

    async def script(one: Daemon) -> None:
        await one.start()
        monkeypatch.setattr(Client, "write", slow)
        renewing = asyncio.create_task(one.renew())
        await done.wait()
        telling = asyncio.create_task(one.told())
        finished, _ = await asyncio.wait((telling,), timeout=1)
        assert not finished, "the watch waits for what it cannot judge yet"
        go_on.set()
        await renewing
        assert not any(isinstance(event, SecondWriter) for event in await telling)

    with_daemons(place, 1, script)


def test_an_administrator_who_reserves_our_lease_is_no_second_node(place: Place) -> None:
    async def script(one: Daemon, other: Daemon) -> None:
        lease = await one.start()
        value = place.raw().splitlines()[1]
        await asyncio.to_thread(place.put, lease.key, value)
        assert place.lease_id(lease.key) == 0
        assert await one.seconds() == []
        await one.watch_again()
        assert await one.seconds() == []
        await one.renew()
        assert one.lease.expires is None or place.lease_id(lease.key) == 0
        assert await one.seconds() == []
        await other.start()
        assert len(await one.seconds()) == 1

    with_daemons(place, 2, script)


def test_a_lease_taken_away_is_not_told_as_a_second_node(place: Place) -> None:
    async def script(one: Daemon) -> None:
        lease = await one.start()
        for value in ('{"PublicIP":"192.0.2.9","PublicIPv6":null}', "rubbish"):
            await asyncio.to_thread(place.put, lease.key, value)
            assert await one.seconds() == []

    with_daemons(place, 1, script)


def test_our_lease_outlives_the_end_of_the_others(place: Place) -> None:
    """What our key hangs on after our answer is ours; before it, the lease ends with the other's."""

    async def script(one: Daemon, other: Daemon) -> None:
        lease = await one.start()
        await other.start()
        theirs = f"{place.lease_id(lease.key):x}"
        await one.renew()
        await asyncio.to_thread(place.server.ctl, "lease", "revoke", theirs)
        assert place.lease_id(lease.key) > 0
        await other.renew()
        theirs = f"{place.lease_id(lease.key):x}"
        await asyncio.to_thread(place.server.ctl, "lease", "revoke", theirs)
        assert LeaseGone(lease.key) in await one.told()

    with_daemons(place, 2, script)


@pytest.mark.parametrize("reserved", [False, True])
def test_a_server_that_forgot_our_last_write_has_no_second_node(
    own_server: Server, tmp_path: Path, reserved: bool
) -> None:
    place = Place(own_server, "/test/network")
    if reserved:
        place.put("10.5.3.0-24", '{"PublicIP":"192.0.2.1"}')
    backup = tmp_path / "backup"

    async def script(first: Daemon, one: Daemon, other: Daemon) -> None:
        await first.start()
        await asyncio.to_thread(own_server.ctl, "snapshot", "save", str(backup))
        await one.start()
        await one.renew()
        own_server.kill()
        own_server.restore(backup)
        await asyncio.to_thread(own_server.start)
        await one.watch_again()
        assert await one.seconds() == []
        await one.renew()
        await one.watch_again()
        assert await one.seconds() == []
        own_server.kill()
        await asyncio.to_thread(own_server.start)
        await one.watch_again()
        assert await one.seconds() == []
        await other.start()
        assert len(await one.seconds()) == 1

    with_daemons(place, 3, script)
