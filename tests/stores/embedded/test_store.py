"""Leases of the embedded store: acquire, renew, reserve. Processes that die: test_crash.py."""

from __future__ import annotations

import asyncio
import time
from ipaddress import IPv4Address, IPv4Network, IPv6Address
from pathlib import Path

import pytest

from dataplane.errors import BadConfig, BadInput, OutOfSubnets, StoreError
from dataplane.model import Lease, LeaseAttrs, LeaseGone, LeasePut
from dataplane.stores.base import Store
from dataplane.stores.choice import overlaps, span
from dataplane.stores.embedded.store import EmbeddedStore
from tests.stores.embedded.machine import Machine, leases, node, previous, run, ttl, watching


def test_it_is_a_store(tmp_path: Path) -> None:
    store: Store = EmbeddedStore(tmp_path, tmp_path / "none")
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
            assert reserved == Lease(lease.subnet, None, lease.attrs, None, lease.born), "and keeps its age"
            assert await following() == LeasePut(reserved)

    run(tmp_path, test)


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
        assert (await asyncio.wait_for(waiting, 200)).key == lease.key

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
