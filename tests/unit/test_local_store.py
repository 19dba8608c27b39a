"""The embedded store through its public face: leases, watches, time, damage. Processes that die: *_crash.py.

Time is the test's own clock; no test waits for it to pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from random import Random
from typing import Any

import pytest

from dataplane.errors import BadConfig, BadInput, LeaseLost, OutOfSubnets, StoreError
from dataplane.model import (
    Lease,
    LeaseAttrs,
    LeaseGone,
    LeasePut,
    LeaseRefused,
    RefusedLease,
    Snapshot,
    WatchEvent,
)
from dataplane.stores import local_directory
from dataplane.stores.base import Store
from dataplane.stores.choice import overlaps, span
from dataplane.stores.local import LocalStore, file_name
from dataplane.stores.local_database import LeaseClock

ttl = 86400.0


class TestClock(LeaseClock):
    """A machine's clocks, set by the test."""

    __test__ = False

    def __init__(self) -> None:
        self.boot_id = "first"
        self.boot_now = 1000.0
        self.wall_now = 1_700_000_000.0

    def boot(self) -> float:
        return self.boot_now

    def wall(self) -> float:
        return self.wall_now

    def pass_time(self, seconds: float) -> None:
        self.boot_now += seconds
        self.wall_now += seconds


class Machine:
    """A lease directory, its configuration and clock, and the daemons that use them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "leases"
        self.net_conf = directory / "net-conf.json"
        self.net_conf.write_text('{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan"}}')
        self.clock = TestClock()
        self.stores: list[LocalStore] = []

    def store(self, **options: Any) -> LocalStore:
        store = LocalStore(
            self.directory, self.net_conf, **{"clock": self.clock, "random": Random(len(self.stores)), **options}
        )
        self.stores.append(store)
        return store

    @contextlib.contextmanager
    def sql(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.directory / file_name, isolation_level=None, timeout=5)
        try:
            yield connection
        finally:
            connection.close()

    async def close(self) -> None:
        for store in self.stores:
            await store.close()


@asynccontextmanager
async def watching(store: Store) -> AsyncIterator[Callable[[], Awaitable[WatchEvent]]]:
    """Give a function that returns the watch's next event, and fails after five seconds without one."""
    events = store.watch()

    async def following() -> WatchEvent:
        return await asyncio.wait_for(anext(events), 5)

    try:
        yield following
    finally:
        assert isinstance(events, AsyncGenerator)
        await events.aclose()


def run(directory: Path, test: Callable[[Machine], Awaitable[None]]) -> None:
    async def whole() -> None:
        machine = Machine(directory)
        try:
            await test(machine)
        finally:
            await machine.close()

    asyncio.run(whole())


def node(number: int) -> LeaseAttrs:
    return LeaseAttrs(IPv4Address("192.0.2.0") + number, None, "vxlan", {"VNI": 1, "VtepMAC": "0e:00:00:00:00:01"})


def previous(subnet: str, ipv6_subnet: str | None = None) -> Lease:
    return Lease(IPv4Network(subnet), IPv6Network(ipv6_subnet) if ipv6_subnet else None, LeaseAttrs())


async def leases(store: Store) -> dict[str, Lease]:
    async with watching(store) as following:
        snapshot = await following()
        assert isinstance(snapshot, Snapshot)
        return {lease.key: lease for lease in snapshot.leases}


def test_it_is_a_store(tmp_path: Path) -> None:
    store: Store = LocalStore(tmp_path, tmp_path / "none")
    asyncio.run(store.close())


def test_configuration_is_read_and_errors_name_the_path(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        store = machine.store()
        assert (await store.read_config()).subnet_max == IPv4Address("10.3.255.0")
        machine.net_conf.write_text("{")
        with pytest.raises(BadConfig, match=str(machine.net_conf)):
            await store.read_config()
        machine.net_conf.unlink()
        for refused in (store.read_config(), store.acquire(node(1), None)):
            with pytest.raises(StoreError, match=str(machine.net_conf)):
                await refused

    run(tmp_path, test)


def test_acquire_renew_and_come_back(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        store = machine.store()
        lease = await store.acquire(node(1), None)
        assert lease.subnet is not None and lease.subnet.subnet_of(IPv4Network("10.3.0.0/16"))
        assert (lease.attrs, lease.expires) == (node(1), machine.clock.wall_now + ttl)
        machine.clock.pass_time(3600)
        renewed = await store.renew(lease)
        assert (renewed.subnet, renewed.expires) == (lease.subnet, machine.clock.wall_now + ttl)
        again = await machine.store().acquire(LeaseAttrs(node(1).public_ip), previous("10.3.200.0/24"))
        assert (again.subnet, again.attrs.backend_type) == (lease.subnet, "")
        assert list((await leases(store)).values()) == [again]

    run(tmp_path, test)


def test_previous_subnet_is_used_when_free_and_not_stolen(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        first, second = machine.store(), machine.store()
        assert (await first.acquire(node(1), previous("10.3.200.0/24"))).key == "10.3.200.0-24"
        assert (await second.acquire(node(2), previous("10.3.200.0/24"))).key != "10.3.200.0-24"

    run(tmp_path, test)


def test_a_changed_configuration_moves_the_lease(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        store = machine.store()
        old = await store.acquire(node(1), None)
        async with watching(store) as following:
            await following()
            machine.net_conf.write_text('{"Network":"10.9.0.0/16"}')
            new = await store.acquire(node(1), old)
            assert new.subnet is not None and new.subnet.subnet_of(IPv4Network("10.9.0.0/16"))
            assert [await following(), await following()] == [LeaseGone(old.key), LeasePut(new)]

    run(tmp_path, test)


def test_other_lengths_after_a_change_never_overlap(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        store = machine.store()
        old = [await store.acquire(node(number), None) for number in range(10)]
        machine.net_conf.write_text('{"Network":"10.3.0.0/16","SubnetLen":22,"SubnetMax":"10.3.120.0"}')
        new = [await store.acquire(node(number), None) for number in range(10, 15)]
        held = [span(lease.subnet) for lease in old if lease.subnet]
        assert not any(overlaps(held, lease.subnet) for lease in new if lease.subnet)

    run(tmp_path, test)


def test_out_of_subnets(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        machine.net_conf.write_text('{"Network":"10.3.0.0/22"}')
        store = machine.store()
        keys = {(await store.acquire(node(number), None)).key for number in range(3)}
        assert keys == {"10.3.1.0-24", "10.3.2.0-24", "10.3.3.0-24"}
        with pytest.raises(OutOfSubnets):
            await store.acquire(node(9), None)
        assert (await store.acquire(node(1), None)).key in keys

    run(tmp_path, test)


def test_dual_stack_and_ipv6_only(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        machine.net_conf.write_text('{"Network":"10.3.0.0/16","EnableIPv6":true,"IPv6Network":"fc00::/48"}')
        store = machine.store()
        lease = await store.acquire(node(1), previous("10.3.7.0/24", "fc00:0:0:9::/64"))
        assert lease.key == "10.3.7.0-24&fc00:0:0:9::-64"
        other = await store.acquire(node(2), previous("10.3.8.0/24", "fc00:0:0:9::/64"))
        assert other.ipv6_subnet is not None and other.ipv6_subnet != lease.ipv6_subnet
        assert (await store.renew(lease)).key == lease.key
        machine.net_conf.write_text('{"EnableIPv4":false,"EnableIPv6":true,"IPv6Network":"fc00::/48"}')
        only = await store.acquire(LeaseAttrs(public_ipv6=IPv6Address("fd00::5")), None)
        assert only.subnet is None and only.ipv6_subnet is not None
        assert set(await leases(store)) == {lease.key, other.key, only.key}

    run(tmp_path, test)


def test_a_node_without_an_address_is_refused(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        with pytest.raises(BadInput, match="public address"):
            await machine.store().acquire(LeaseAttrs(), None)

    run(tmp_path, test)


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


def test_a_change_is_told_within_fifty_milliseconds(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        own, other = machine.store(), machine.store()
        lease = await other.acquire(node(2), None)
        spent = []
        async with watching(own) as following:
            await following()
            for _ in range(20):
                told = asyncio.ensure_future(following())
                await asyncio.sleep(0)  # the watch is waiting now
                lease = await other.renew(lease)
                start = time.perf_counter()
                assert await told == LeasePut(lease)
                spent.append(time.perf_counter() - start)
        # The median, as the machine running the test may be busy; the poll interval bounds the rest.
        assert sorted(spent)[10] < 0.05

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


def test_a_reservation_stays_one(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        store = machine.store()
        address = node(7).public_ip
        assert address is not None
        reserved = await store.reserve(IPv4Network("10.3.250.0/24"), address)
        assert reserved.expires is None
        machine.clock.pass_time(10 * ttl)
        lease = await store.acquire(node(7), previous("10.3.9.0/24"))
        assert (lease.key, lease.expires, lease.attrs) == ("10.3.250.0-24", None, node(7))
        assert (await store.renew(lease)).expires is None
        machine.clock.pass_time(10 * ttl)
        assert await leases(store) == {lease.key: lease}
        assert (await store.acquire(node(8), previous("10.3.250.0/24"))).key != lease.key

    run(tmp_path, test)


def test_a_lease_becomes_a_reservation_and_bad_ones_are_refused(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        store = machine.store()
        lease = await store.acquire(node(7), None)
        address, other = node(7).public_ip, node(8).public_ip
        assert lease.subnet is not None and address is not None and other is not None
        with pytest.raises(StoreError, match="overlaps the lease of another node"):
            await store.reserve(lease.subnet, other)
        with pytest.raises(StoreError, match=f"it holds {lease.key}"):
            await store.reserve(IPv4Network("10.3.250.0/24"), address)
        with pytest.raises(BadInput, match=r"10\.4\.0\.0-24: allowed is one /24 from 10\.3\.1\.0 to 10\.3\.255\.0"):
            await store.reserve(IPv4Network("10.4.0.0/24"), other)
        async with watching(store) as following:
            await following()
            reserved = await store.reserve(lease.subnet, address)
            assert reserved == Lease(lease.subnet, None, lease.attrs, None)
            assert await following() == LeasePut(reserved)

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


def test_a_row_that_cannot_be_decoded_is_refused_alone(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        store = machine.store()
        good = await store.acquire(node(1), previous("10.3.1.0/24"))
        insert = "INSERT INTO lease (subnet, node, value) VALUES (?, ?, ?)"
        async with watching(store) as following:
            assert await following() == Snapshot((good,))
            with machine.sql() as sql:
                sql.execute(insert, ("10.3.2.0/24", "192.0.2.9", '{"PublicIP":7}'))
                event = await following()
                assert isinstance(event, LeaseRefused) and event.refused.key == "10.3.2.0-24"
                assert "PublicIP: 7" in event.refused.reason
                sql.execute(insert, ("10.3.3.0", "b", "{}"))
                sql.execute(insert, ("here; rm -rf", "c", "{}"))
                sql.execute("INSERT INTO lease (subnet, node, value) VALUES ('10.3.4.0/24', 'd', CAST(x'ff' AS TEXT))")
                for key in ("10.3.3.0", "here; rm -rf", "10.3.4.0-24"):
                    event = await following()
                    assert isinstance(event, LeaseRefused) and event.refused.key == key
        async with watching(store) as following:
            snapshot = await following()
            assert isinstance(snapshot, Snapshot) and snapshot.leases == (good,)
            assert {refused.key for refused in snapshot.refused} == {
                "10.3.2.0-24",
                "10.3.3.0",
                "here; rm -rf",
                "10.3.4.0-24",
            }
            assert all(isinstance(refused, RefusedLease) and refused.reason for refused in snapshot.refused)
            # Refused or not, the subnet is somebody's; and its own node heals it.
            assert (await store.acquire(node(5), previous("10.3.2.0/24"))).key != "10.3.2.0-24"
            await following()
            healed = await store.acquire(node(9), None)
            assert healed.key == "10.3.2.0-24"
            assert await following() == LeasePut(healed)

    run(tmp_path, test)


@pytest.mark.parametrize("content", [b"not a database, but long enough to be looked at" * 100, os.urandom(8192)])
def test_a_file_that_is_no_database_is_named(tmp_path: Path, content: bytes) -> None:
    async def test(machine: Machine) -> None:
        machine.directory.mkdir()
        path = machine.directory / file_name
        path.write_bytes(content)
        store = machine.store()
        with pytest.raises(StoreError, match=str(path)):
            await store.acquire(node(1), None)
        async with watching(store) as following:
            with pytest.raises(StoreError, match=str(path)):
                await following()
        assert path.read_bytes() == content
        path.unlink()
        await store.acquire(node(1), None)  # the same store, once the file is out of the way

    run(tmp_path, test)


def test_a_damaged_database_is_named(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        store = machine.store()
        for number in range(200):
            await store.acquire(node(number), None)
        await machine.close()
        machine.stores.clear()
        path = machine.directory / file_name
        content = bytearray(path.read_bytes())
        content[4096:] = os.urandom(len(content) - 4096)  # the first page holds the schema and stays
        path.write_bytes(content)
        with pytest.raises(StoreError, match=f"{path}: damaged"):
            await machine.store().acquire(node(1), None)

    run(tmp_path, test)


def test_anothers_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        machine.directory.mkdir()
        with machine.sql() as sql:
            sql.execute("CREATE TABLE notes (text)")
        before = (machine.directory / file_name).read_bytes()
        with pytest.raises(StoreError, match="database of another program"):
            await machine.store().acquire(node(1), None)
        assert (machine.directory / file_name).read_bytes() == before
        assert os.listdir(machine.directory) == [file_name]

    run(tmp_path, test)


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        await machine.store().acquire(node(1), None)
        with machine.sql() as sql:
            sql.execute("PRAGMA user_version = 2")
        with pytest.raises(StoreError, match="schema version 2, known here is 1"):
            await machine.store().acquire(node(1), None)

    run(tmp_path, test)


def test_a_file_replaced_under_us_is_no_second_truth(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        store = machine.store()
        lease = await store.acquire(node(1), None)
        async with watching(store) as following:
            await following()
            for name in os.listdir(machine.directory):
                (machine.directory / name).unlink()
            with pytest.raises(StoreError, match="removed or replaced"):
                await following()
        with pytest.raises(StoreError, match="removed or replaced"):
            await store.renew(lease)
        with pytest.raises(LeaseLost):
            await store.renew(lease)
        assert (await store.acquire(node(1), lease)).subnet == lease.subnet

    run(tmp_path, test)


def test_a_lock_held_by_another_program_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dataplane.stores.local_database.busy_seconds", 0.1)

    async def test(machine: Machine) -> None:
        store = machine.store()
        lease = await store.acquire(node(1), None)
        with machine.sql() as sql:
            sql.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="locked by another process"):
                await store.renew(lease)
            async with watching(machine.store()) as following:
                with pytest.raises(StoreError, match="locked by another process"):
                    await following()
            sql.execute("ROLLBACK")
        await store.renew(lease)

    run(tmp_path, test)


def test_a_directory_that_cannot_be_is_named(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        machine.directory.write_text("a file")
        with pytest.raises(StoreError, match=f"lease directory {machine.directory}"):
            await machine.store().acquire(node(1), None)

    run(tmp_path, test)


@pytest.mark.parametrize(("magic", "name"), [(0x6969, "NFS"), (0xFF534D42, "CIFS"), (0x01021997, "9P")])
def test_network_file_systems_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, magic: int, name: str
) -> None:
    class Libc:
        def __init__(self, *_: Any, **__: Any) -> None:
            pass

        @staticmethod
        def statfs(_path: bytes, buffer: Any) -> int:
            ctypes.c_long.from_buffer(buffer).value = magic
            return 0

    with monkeypatch.context() as patched:
        patched.setattr(ctypes, "CDLL", Libc)
        with pytest.raises(StoreError, match=f"{tmp_path} is on {name}.*allowed is a local file system"):
            local_directory.refuse_network_file_system(tmp_path)
    local_directory.refuse_network_file_system(tmp_path)
    with pytest.raises(OSError):
        local_directory.refuse_network_file_system(tmp_path / "none")


def test_the_event_loop_goes_on_while_the_store_waits(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        store = machine.store()
        lease = await store.acquire(node(1), None)
        with machine.sql() as sql:
            sql.execute("BEGIN IMMEDIATE")
            waiting = asyncio.ensure_future(store.renew(lease))
            for _ in range(50):
                await asyncio.sleep(0.001)
            assert not waiting.done()
            sql.execute("ROLLBACK")
        assert (await asyncio.wait_for(waiting, 5)).key == lease.key

    run(tmp_path, test)


def test_ten_thousand_leases(tmp_path: Path) -> None:
    async def test(machine: Machine) -> None:
        machine.net_conf.write_text('{"Network":"10.0.0.0/8"}')
        store = machine.store()
        await store.read_config()
        await store.acquire(node(1), previous("10.200.0.0/24"))
        with machine.sql() as sql:
            sql.execute("BEGIN")
            for number in range(10_000):
                address = IPv4Address("172.16.0.0") + number
                subnet = f"10.{1 + number // 256}.{number % 256}.0/24"
                value = f'{{"PublicIP":"{address}","PublicIPv6":null}}'
                sql.execute("INSERT INTO lease VALUES (?, NULL, ?, ?, NULL, NULL)", (subnet, str(address), value))
            sql.execute("COMMIT")
        start = time.process_time()
        lease = await store.acquire(node(2), None)
        spent = time.process_time() - start
        assert lease.subnet is not None
        assert len(await leases(store)) == 10_002
        assert spent < 1  # 0.05 s on a 2-core VM

    run(tmp_path, test)
