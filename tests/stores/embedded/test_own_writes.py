"""Who else writes our row in the embedded store: a second node with our public address is told, our own writes are not."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from itertools import count
from pathlib import Path

import pytest

from dataplane.errors import StoreError
from dataplane.model import LeasePut, SecondWriter, Snapshot, WatchEvent
from dataplane.stores.embedded.store import EmbeddedStore, file_name
from tests.stores.embedded.machine import Machine, node, previous, run, watching

Following = Callable[[], Awaitable[WatchEvent]]
marks = count(1000)


async def seconds(machine: Machine, following: Following) -> list[SecondWriter]:
    """What was told of other writers up to now; it may come behind the other news of one look, so look twice."""
    return [second for _ in range(2) for second in await _until_a_mark(machine, following)]


async def _until_a_mark(machine: Machine, following: Following) -> list[SecondWriter]:
    """The same until another node's lease, made here, has come."""
    mark = await machine.store().acquire(node(next(marks)), None)
    told = []
    while True:
        event = await following()
        if isinstance(event, SecondWriter):
            told.append(event)
        elif event == LeasePut(mark) or (isinstance(event, Snapshot) and mark in event.leases):
            return told


@pytest.mark.parametrize("reserved", [False, True])
@pytest.mark.parametrize("history", [10_000, 3])
def test_two_daemons_with_one_address_are_told_of_each_other(tmp_path: Path, reserved: bool, history: int) -> None:
    async def test(machine: Machine) -> None:
        one, other = machine.store(history=history), machine.store(history=history)
        if reserved:
            await machine.store().reserve(IPv4Network("10.3.7.0/24"), IPv4Address("192.0.2.1"))
        lease = await one.acquire(node(1), None)
        async with watching(one) as following, watching(other) as there:
            assert await seconds(machine, following) == []
            held = await other.acquire(node(1), None)
            assert held.key == lease.key
            assert [second.lease.attrs for second in await seconds(machine, following)] == [node(1)]
            assert await seconds(machine, there) == []
            lease = await one.renew(lease)
            assert await seconds(machine, following) == []
            assert [second.lease.attrs for second in await seconds(machine, there)] == [node(1)]
            await other.renew(held, replace(node(1), backend_type="host-gw"))
            assert [second.lease.attrs.backend_type for second in await seconds(machine, following)] == ["host-gw"]
        # Written while nobody watched.
        await one.renew(lease)
        await other.renew(held)
        async with watching(one) as following:
            assert len(await seconds(machine, following)) == 1
        await one.renew(lease)
        async with watching(one) as following:
            assert await seconds(machine, following) == []

    run(tmp_path, test)


@pytest.mark.parametrize("reserved", [False, True])
def test_nothing_that_we_do_is_anothers(tmp_path: Path, reserved: bool) -> None:
    async def test(machine: Machine) -> None:
        if reserved:
            await machine.store().reserve(IPv4Network("10.3.7.0/24"), IPv4Address("192.0.2.1"))
        one = machine.store()
        lease = await one.acquire(node(1), None)
        async with watching(one) as following:
            for _ in range(3):
                lease = await one.renew(lease)
            lease = await one.renew(lease, replace(node(1), backend_type="host-gw"))
            assert await seconds(machine, following) == []
            # We move to another address, and back.
            lease = await one.renew(lease, node(5))
            lease = await one.renew(lease, node(1))
            assert await seconds(machine, following) == []
        # Another life, after a reboot.
        await one.close()
        machine.stores.remove(one)
        machine.clock.boot_id, machine.clock.boot_now = "second", 10.0
        again = machine.store()
        async with watching(again) as following:
            assert isinstance(await following(), Snapshot)
            assert (await again.acquire(node(1), None)).key == lease.key
            assert await seconds(machine, following) == []

    run(tmp_path, test)


def test_an_administrator_who_reserves_our_lease_is_no_second_node(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        one = machine.store()
        lease = await one.acquire(node(1), previous("10.3.7.0/24"))
        async with watching(one) as following:
            await machine.store().reserve(IPv4Network("10.3.7.0/24"), IPv4Address("192.0.2.1"))
            assert await seconds(machine, following) == []
        async with watching(one) as following:
            assert await seconds(machine, following) == []
            lease = await one.renew(lease)
            assert lease.expires is None
            assert await seconds(machine, following) == []
            await machine.store().acquire(node(1), None)
            assert len(await seconds(machine, following)) == 1

    run(tmp_path, test)


def test_a_file_put_back_from_a_backup_has_no_second_node(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        path = machine.directory / file_name
        first = machine.store()
        await first.acquire(node(1), previous("10.3.7.0/24"))
        with machine.sql() as sql:
            sql.execute("VACUUM INTO ?", (str(tmp_path / "backup"),))
        one = machine.store()
        lease = await one.acquire(node(1), None)
        await one.renew(lease)
        await first.close()
        machine.stores.remove(first)
        for name in (file_name, f"{file_name}-wal", f"{file_name}-shm"):
            (machine.directory / name).unlink(missing_ok=True)
        shutil.copy(tmp_path / "backup", path)
        path.chmod(0o600)
        with pytest.raises(StoreError, match="replaced"):
            await one.ping()
        async with watching(one) as following:
            assert await seconds(machine, following) == []
            await one.renew(lease)
            assert await seconds(machine, following) == []
            await machine.store().acquire(node(1), None)
            assert len(await seconds(machine, following)) == 1

    run(tmp_path, test)


def test_what_no_daemon_writes_is_no_second_node(tmp_path: Path) -> None:
    """Rubbish, and an address that is not ours: the lease is lost, which is told in another way."""

    async def test(machine: Machine) -> None:
        one: EmbeddedStore = machine.store()
        lease = await one.acquire(node(1), None)
        async with watching(one) as following:
            for value in ('{"PublicIP":"192.0.2.9"}', "rubbish"):
                with machine.sql() as sql:
                    sql.execute("UPDATE lease SET value = ?", (value,))
                assert await seconds(machine, following) == []
            await one.renew(lease)
            event = await following()
            assert isinstance(event, LeasePut)

    run(tmp_path, test)
