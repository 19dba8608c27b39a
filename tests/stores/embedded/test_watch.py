"""The embedded store's watch, and time: expiry, clocks that jump, reboots. No test waits for time to pass."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Network
from pathlib import Path

import pytest

from dataplane.errors import LeaseLost
from dataplane.model import LeaseGone, LeasePut, Snapshot
from tests.stores.embedded.machine import Machine, leases, node, previous, run, ttl, watching


def test_watch_tells_a_snapshot_then_every_change_of_every_daemon(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        own, other = machine.store(), machine.store()
        first = await own.acquire(node(1), None)
        async with watching(own) as following:
            assert await following() == Snapshot((first,))
            second = await other.acquire(node(2), None)
            assert await following() == LeasePut(second)
            renewed = await other.renew(second)
            assert await following() == LeasePut(renewed)
            mine = await own.renew(first)
            assert await following() == LeasePut(mine)
            with machine.sql() as sql:
                sql.execute("DELETE FROM lease WHERE node = '192.0.2.2'")
            assert await following() == LeaseGone(second.key)

    run(tmp_path, test)


def test_expiry_is_told_once_to_every_watcher(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        stores = [machine.store() for _ in range(3)]
        gone = await stores[0].acquire(node(1), None)
        machine.clock.pass_time(10)
        kept = await stores[0].acquire(node(2), None)
        async with contextlib.AsyncExitStack() as stack:
            watches = [await stack.enter_async_context(watching(store)) for store in stores]
            for following in watches:
                assert isinstance(await following(), Snapshot)
            machine.clock.pass_time(ttl - 10)
            for following in watches:
                assert await following() == LeaseGone(gone.key)
            kept = await stores[0].renew(kept)
            for following in watches:
                assert await following() == LeasePut(kept)
        with pytest.raises(LeaseLost, match="gone"):
            await stores[0].renew(gone)

    run(tmp_path, test)


def test_an_expired_subnet_is_given_to_another_node_and_stays_its(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        machine.net_conf.write_text('{"Network":"10.3.0.0/22","SubnetMin":"10.3.3.0"}')
        store = machine.store()
        lease = await store.acquire(node(1), None)
        machine.clock.pass_time(ttl)
        assert (await store.acquire(node(2), None)).key == lease.key
        with pytest.raises(LeaseLost, match=r"held by 192\.0\.2\.2"):
            await store.renew(lease)

    run(tmp_path, test)


def test_a_wall_clock_that_jumps_ends_nothing(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        store = machine.store()
        lease = await store.acquire(node(1), None)
        for jump in (40 * 365 * ttl, -80 * 365 * ttl):
            machine.clock.wall_now += jump
            await store.acquire(node(2), None)
            lease = await store.renew(lease)
            assert lease.expires == machine.clock.wall_now + ttl

    run(tmp_path, test)


@pytest.mark.parametrize(("off", "left"), [(3600.0, ttl - 3600), (ttl + 1, 0.0), (-1e9, ttl)])
def test_a_reboot_leaves_what_was_left_by_the_wall_clock(tmp_path: Path, off: float, left: float) -> None:
    async def test(machine: Machine) -> None:
        lease = await machine.store().acquire(node(1), None)
        address = node(2).public_ip
        assert address is not None
        reserved = await machine.store().reserve(IPv4Network("10.3.250.0/24"), address)
        await machine.close()
        machine.stores.clear()
        machine.clock.boot_id, machine.clock.boot_now = "second", 5.0
        machine.clock.wall_now += off
        store = machine.store()
        machine.clock.pass_time(0.0)
        assert await leases(store) == {lease.key: lease, reserved.key: reserved}  # nothing has looked at the time yet
        machine.clock.pass_time(max(left - 1, 0.0))
        if left:
            await store.acquire(node(3), previous("10.3.240.0/24"))
            assert lease.key in await leases(store)
        machine.clock.pass_time(1.0)
        await store.acquire(node(3), previous("10.3.240.0/24"))
        assert lease.key not in await leases(store) and reserved.key in await leases(store)

    run(tmp_path, test)


def test_a_watcher_that_fell_behind_the_log_gets_a_snapshot(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        store = machine.store(history=5)
        lease = await store.acquire(node(1), None)
        async with watching(store) as following:
            await following()
            for _ in range(5):
                lease = await store.renew(lease)
            assert [await following() for _ in range(5)][-1] == LeasePut(lease)
            for _ in range(6):
                lease = await store.renew(lease)
            assert await following() == Snapshot((lease,))
            lease = await store.renew(lease)
            assert await following() == LeasePut(lease)
            with machine.sql() as sql:
                assert sql.execute("SELECT count(*) FROM event").fetchone() == (5,)
                sql.execute("DELETE FROM event")
            assert await following() == Snapshot((lease,))
            lease = await store.renew(lease)
            assert await following() == Snapshot((lease,))

    run(tmp_path, test)
