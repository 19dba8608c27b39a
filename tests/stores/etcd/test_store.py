"""Acquire and renew against a real etcd server: which key, which bytes, which etcd lease, and who wins."""

from __future__ import annotations

import asyncio
import json
import time
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import pytest

from dataplane.errors import BadConfig, LeaseLost, OutOfSubnets, StoreError
from dataplane.model import Lease, LeaseAttrs
from dataplane.stores.etcd.store import EtcdStore, ttl_s
from tests.stores.etcd.server import Place, attrs
from tests.stores.loop import run

dual = {"EnableIPv6": True, "IPv6Network": "fd00::/48"}


def acquire(place: Place, mine: LeaseAttrs, previous: Lease | None = None) -> Lease:
    async def work() -> Lease:
        store = place.store()
        try:
            return await store.acquire(mine, previous)
        finally:
            await store.close()

    return run(work())


def renew(place: Place, lease: Lease) -> Lease:
    async def work() -> Lease:
        store = place.store()
        try:
            return await store.renew(lease)
        finally:
            await store.close()

    return run(work())


def read_config(place: Place) -> None:
    async def work() -> None:
        store = place.store()
        try:
            await store.read_config()
        finally:
            await store.close()

    run(work())


def test_missing_configuration_is_said_with_flannels_hint(place: Place) -> None:
    with pytest.raises(StoreError, match="Did you create your config using etcdv3 API") as refusal:
        read_config(place)
    assert f"{place.prefix}/config" in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "not JSON"),
        ('{"Network":"10.0.0.0/29"}', "too small"),
        ('{"EnableIPv4":false,' + json.dumps(dual)[1:], "IPv4"),
    ],
)
def test_unusable_configuration_is_refused_by_key(place: Place, text: str, says: str) -> None:
    place.server.ctl("put", f"{place.prefix}/config", text)
    with pytest.raises(BadConfig, match=says) as refusal:
        read_config(place)
    assert f"{place.prefix}/config" in str(refusal.value)


@pytest.mark.parametrize(
    ("mine", "value"),
    [
        (attrs(1), '{"PublicIP":"192.0.2.1","PublicIPv6":null}'),
        (
            replace(attrs(1), backend_type="vxlan", backend_data={"VNI": 1, "VtepMAC": "66:be:00:76:59:06"}),
            '{"PublicIP":"192.0.2.1","PublicIPv6":null,"BackendType":"vxlan",'
            '"BackendData":{"VNI":1,"VtepMAC":"66:be:00:76:59:06"}}',
        ),
    ],
)
def test_key_and_value_are_flannels_bytes(place: Place, mine: LeaseAttrs, value: str) -> None:
    place.configure(SubnetMin="10.5.34.0", SubnetMax="10.5.34.0")
    before = time.time()
    lease = acquire(place, mine)
    assert place.raw() == f"{place.prefix}/subnets/10.5.34.0-24\n{value}\n"
    assert lease.subnet == IPv4Network("10.5.34.0/24")
    assert lease.expires is not None and before + ttl_s <= lease.expires <= time.time() + ttl_s
    shown = json.loads(place.server.ctl("lease", "timetolive", f"{place.lease_id('10.5.34.0-24'):x}", "-w", "json"))
    assert shown["granted-ttl"] == ttl_s


def test_own_lease_is_taken_up_again_by_public_address(place: Place) -> None:
    place.configure()
    first = acquire(place, attrs(1))
    again = acquire(place, replace(attrs(1), backend_type="host-gw"))
    assert again.key == first.key
    assert '"BackendType":"host-gw"' in place.raw()
    assert place.raw().count("subnets/") == 1


@pytest.mark.parametrize("other", ["10.5.1.0-24", "10.5.9.0-24"])  # before ours and behind it
def test_of_leases_with_our_address_the_oldest_is_ours(place: Place, other: str) -> None:
    """It is the one that peers use; a later one may be anybody's."""
    mac = "02:00:00:00:00:{:02x}"
    place.configure(SubnetMin="10.5.34.0", SubnetMax="10.5.34.0")
    mine = replace(attrs(1), backend_type="vxlan", backend_data={"VNI": 1, "VtepMAC": mac.format(1)})
    first = acquire(place, mine)
    place.configure()
    place.put(other, json.dumps({"PublicIP": "192.0.2.1", "BackendData": {"VNI": 1, "VtepMAC": mac.format(9)}}))

    async def earlier() -> Lease | None:
        store = place.store()
        try:
            return await store.earlier(IPv4Address("192.0.2.1"))
        finally:
            await store.close()

    found = run(earlier())
    assert found is not None and (found.key, found.attrs) == (first.key, mine)
    assert acquire(place, mine).key == first.key
    assert other in place.raw()  # somebody else's to remove


def test_own_lease_outside_the_configuration_is_replaced(place: Place) -> None:
    place.configure()
    place.put("10.9.1.0-24", '{"PublicIP":"192.0.2.1","PublicIPv6":null}')
    lease = acquire(place, attrs(1))
    assert lease.subnet is not None and lease.subnet.subnet_of(IPv4Network("10.5.0.0/16"))
    assert "10.9.1.0-24" not in place.raw()


@pytest.mark.parametrize(("holder", "kept"), [(None, True), ("192.0.2.9", False)])
def test_previous_subnet_is_used_if_nobody_holds_it(place: Place, holder: str | None, kept: bool) -> None:
    place.configure()
    if holder:
        place.put("10.5.77.0-24", json.dumps({"PublicIP": holder, "PublicIPv6": None}))
    previous = Lease(IPv4Network("10.5.77.0/24"), None, LeaseAttrs())
    assert (acquire(place, attrs(1), previous).subnet == previous.subnet) is kept


def test_what_overlaps_or_cannot_be_read_is_taken(place: Place) -> None:
    place.configure(SubnetMin="10.5.0.0", SubnetMax="10.5.7.0")
    place.put("10.5.0.0-22", '{"PublicIP":"192.0.2.9","PublicIPv6":null}')
    for third in (4, 5, 6):
        place.put(f"10.5.{third}.0-24", "rubbish")
    assert acquire(place, attrs(1)).subnet == IPv4Network("10.5.7.0/24")
    with pytest.raises(OutOfSubnets):
        acquire(place, attrs(2))


def test_many_nodes_at_once_get_one_subnet_each(place: Place) -> None:
    place.configure(SubnetMin="10.5.1.0", SubnetMax="10.5.40.0")

    async def work() -> list[Lease]:
        stores = [place.store() for _ in range(40)]
        try:
            return list(await asyncio.gather(*(each.acquire(attrs(n + 1), None) for n, each in enumerate(stores))))
        finally:
            for each in stores:
                await each.close()

    leases_before = place.leases()
    leases = run(work())
    assert len({lease.key for lease in leases}) == 40
    assert place.raw().count("subnets/") == 40
    assert place.leases() == leases_before + 40  # the losers' etcd leases were revoked


def test_dual_stack_nodes_at_once_share_no_subnet_of_either_family(place: Place) -> None:
    place.configure(**dual)

    async def work() -> list[Lease]:
        stores = [place.store() for _ in range(15)]
        try:
            return list(await asyncio.gather(*(each.acquire(attrs(n + 1), None) for n, each in enumerate(stores))))
        finally:
            for each in stores:
                await each.close()

    leases = run(work())
    assert len({lease.subnet for lease in leases}) == len({lease.ipv6_subnet for lease in leases}) == 15
    assert place.raw().count("subnets/") == 15


def test_a_lost_race_is_tried_again(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.configure(SubnetMin="10.5.1.0", SubnetMax="10.5.2.0")
    original = EtcdStore._write
    raced = []

    async def late(self: EtcdStore, lease: Lease, *rest: object, **named: object) -> Lease | None:
        if not raced:
            raced.append(lease.key)
            await asyncio.to_thread(place.put, lease.key, '{"PublicIP":"192.0.2.9","PublicIPv6":null}')
        return await original(self, lease, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(EtcdStore, "_write", late)
    leases_before = place.leases()
    lease = acquire(place, attrs(1))
    assert raced and lease.key != raced[0]
    assert place.leases() == leases_before + 1


def test_odd_spelling_of_our_own_lease_becomes_the_plain_one(place: Place) -> None:
    place.configure(**dual)
    place.put("10.5.3.0-24&fd00:0:0:3:0::-64", '{"PublicIP":"192.0.2.1","PublicIPv6":"fd01::1"}')
    lease = acquire(place, attrs(1))
    assert lease == replace(lease, subnet=IPv4Network("10.5.3.0/24"), ipv6_subnet=IPv6Network("fd00:0:0:3::/64"))
    assert lease.expires is None
    assert place.raw().splitlines()[0] == f"{place.prefix}/subnets/10.5.3.0-24&fd00:0:0:3::-64"
    assert renew(place, lease).key == lease.key


def test_reservation_is_used_and_stays_one(place: Place) -> None:
    place.configure()
    place.put("10.5.3.0-24", '{"PublicIP":"192.0.2.1"}')
    leases_before = place.leases()
    lease = acquire(place, attrs(1))
    assert (lease.key, lease.expires) == ("10.5.3.0-24", None)
    assert renew(place, lease) == lease
    assert place.lease_id("10.5.3.0-24") == 0
    assert place.raw().endswith('{"PublicIP":"192.0.2.1","PublicIPv6":null}\n')
    assert place.leases() == leases_before


def test_renewal_hangs_the_key_on_a_new_etcd_lease(place: Place) -> None:
    place.configure()
    lease = acquire(place, attrs(1))
    first = place.lease_id(lease.key)
    renewed = renew(place, lease)
    assert renewed.expires is not None and lease.expires is not None and renewed.expires > lease.expires
    assert place.lease_id(lease.key) not in (first, 0, -1)


@pytest.mark.parametrize("value", ['{"PublicIP":"192.0.2.9","PublicIPv6":null}', "rubbish", None])
def test_lease_that_is_no_longer_ours_is_not_renewed(place: Place, value: str | None) -> None:
    place.configure()
    lease = acquire(place, attrs(1))
    if value is None:
        place.delete(lease.key)
    else:
        place.put(lease.key, value)
    leases_before = place.leases()
    with pytest.raises(LeaseLost, match=lease.key):
        renew(place, lease)
    assert place.leases() == leases_before
    assert place.raw().endswith(f"{value}\n") if value else not place.raw()


def test_lease_stolen_between_look_and_write_is_not_overwritten(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.configure()
    lease = acquire(place, attrs(1))
    original = EtcdStore._write

    async def late(self: EtcdStore, *rest: object, **named: object) -> Lease | None:
        await asyncio.to_thread(place.put, lease.key, '{"PublicIP":"192.0.2.9","PublicIPv6":null}')
        return await original(self, *rest, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(EtcdStore, "_write", late)
    with pytest.raises(LeaseLost, match=r"192\.0\.2\.9"):
        renew(place, lease)
    assert "192.0.2.9" in place.raw()
