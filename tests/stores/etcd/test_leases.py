"""One subnet under several keys of a real etcd: which lease is used, on every node alike, and what becomes of our own."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest

from dataplane.backends import from_conf
from dataplane.flannel.net_conf import parse, validate
from dataplane.leases.desired import Desired
from dataplane.leases.view import LeaseView
from dataplane.model import Lease, LeaseAttrs
from tests.stores.etcd.server import Place
from tests.stores.loop import run

conf = validate(
    parse('{"Network":"10.5.0.0/16","EnableIPv6":true,"IPv6Network":"fd00::/48","Backend":{"Type":"vxlan"}}')
)
backend = from_conf(conf)
plain = "10.5.7.0-24&fd00:0:0:7::-64"
odd = "10.5.7.0-24&fd00:0:0:7:0::-64"
odder = "10.5.7.0-024&fd00:0:0:7::-64"


def attrs(last: int) -> LeaseAttrs:
    data = {"VNI": 1, "VtepMAC": f"02:00:00:00:00:{last:02x}"}
    return LeaseAttrs(IPv4Address(f"192.0.2.{last}"), IPv6Address(f"2001:db8::{last:x}"), "vxlan", data, data)


def value(last: int) -> str:
    data = f'{{"VNI":1,"VtepMAC":"02:00:00:00:00:{last:02x}"}}'
    return (
        f'{{"PublicIP":"192.0.2.{last}","PublicIPv6":"2001:db8::{last:x}","BackendType":"vxlan",'
        f'"BackendData":{data},"BackendV6Data":{data}}}'
    )


@dataclass(frozen=True)
class Seen:
    """What a node makes of the leases: where the disputed subnet goes, and why other leases are refused."""

    used: str | None
    refused: Mapping[str, str]


class Onlooker:
    """Another node, which follows the store from now on."""

    def __init__(self, place: Place) -> None:
        own = Lease(IPv4Network("10.5.240.0/24"), IPv6Network("fd00:0:0:f0::/64"), attrs(240))
        address, address6 = own.attrs.public_ip, own.attrs.public_ipv6
        plans = backend.plans(conf, own, interface="eth0", interface_mtu=1500, address=address, address6=address6)
        self._store = place.store()
        self._events = self._store.watch()
        self._view = LeaseView()
        self._desired = Desired(conf, own, backend, plans)

    async def next(self) -> Seen:
        """Take in one event."""
        changed = self._view.fold(await anext(self._events))
        self._desired.update({key: self._view.leases.get(key) for key in changed})
        used = self._desired.peers["flannel.1"].get(IPv4Network("10.5.7.0/24"))
        return Seen(used and str(used.next_hop), {**self._view.refused, **self._desired.refused})

    async def close(self) -> None:
        await self._events.aclose()
        await self._store.close()


@pytest.mark.parametrize("keys", [(plain, odd, odder), (odd, plain, odder), (odder, odd, plain)])
def test_the_oldest_stands_whole_and_then_the_next(place: Place, keys: tuple[str, str, str]) -> None:
    """Seen by a node that was there all the time, and after every step by one that starts then: they agree."""
    first, second, third = keys
    names = {key: key if key == plain else f"{place.prefix}/subnets/{key}" for key in keys}

    async def agreed(witness: Onlooker) -> Seen:
        seen = await witness.next()
        late = Onlooker(place)
        try:
            assert await late.next() == seen
        finally:
            await late.close()
        return seen

    async def work() -> None:
        witness = Onlooker(place)
        try:
            assert await witness.next() == Seen(None, {})
            for last, key in enumerate(keys, 11):
                await asyncio.to_thread(place.put, key, value(last))
                seen = await agreed(witness)
            assert seen.used == "192.0.2.11"
            assert seen.refused.keys() == {names[second], names[third]}
            assert all(
                reason == f"its subnet 10.5.7.0/24 overlaps lease {names[first]}, which was there first"
                for reason in seen.refused.values()
            )
            # A renewal of the younger by its node makes it no older.
            await asyncio.to_thread(place.put, second, value(12))
            assert await agreed(witness) == seen
            await asyncio.to_thread(place.delete, first)
            seen = await agreed(witness)
            assert (seen.used, seen.refused.keys()) == ("192.0.2.12", {names[third]})
            await asyncio.to_thread(place.delete, second)
            assert await agreed(witness) == Seen("192.0.2.13", {})
        finally:
            await witness.close()

    run(work())


def test_what_cannot_be_used_is_nobodys_obstacle(place: Place) -> None:
    place.put(odd, "rubbish")
    place.put(odder, value(1).replace('"vxlan"', '"host-gw"'))
    place.put(plain, value(12))

    async def work() -> None:
        witness = Onlooker(place)
        try:
            seen = await witness.next()
            assert seen.used == "192.0.2.12"
            assert seen.refused.keys() == {f"{place.prefix}/subnets/{key}" for key in (odd, odder)}
        finally:
            await witness.close()

    run(work())


def acquired(place: Place, last: int) -> Lease:
    """Acquire, and renew; return the lease."""

    async def work() -> Lease:
        store = place.store()
        try:
            lease = await store.acquire(attrs(last), None)
            assert (await store.renew(lease)).key == lease.key
            return lease
        finally:
            await store.close()

    return run(work())


def configure(place: Place) -> None:
    place.configure(EnableIPv6=True, IPv6Network="fd00::/48")


def written(place: Place) -> set[str]:
    return {line.rpartition("/")[2] for line in place.raw().splitlines()[::2]}


def test_both_spellings_are_our_own(place: Place) -> None:
    """One is enough: the younger would be refused by all, the older would be used with what it said last."""
    configure(place)
    for key in (odd, plain):
        place.put(key, value(1))
    assert acquired(place, 1).key == plain
    assert written(place) == {plain}


def test_our_own_is_the_older_spelling(place: Place) -> None:
    """The plain key is somebody's: what we have stays where it is, and keeps its age."""
    configure(place)
    for last, key in ((1, odd), (2, plain)):
        place.put(key, value(last))
    lease = acquired(place, 1)
    assert lease.subnet == IPv4Network("10.5.7.0/24")
    assert lease.key == f"{place.prefix}/subnets/{odd}"
    assert written(place) == {odd, plain}

    async def work() -> None:
        witness = Onlooker(place)
        try:
            assert (await witness.next()).used == "192.0.2.1"
        finally:
            await witness.close()

    run(work())


@pytest.mark.parametrize(("theirs", "ours"), [(odd, plain), (plain, odd)])
def test_our_own_is_the_younger_spelling(place: Place, theirs: str, ours: str) -> None:
    """Every peer refuses it: a node that starts takes another subnet, and leaves the other's key alone."""
    configure(place)
    place.put(theirs, value(2))
    place.put(ours, value(1))
    lease = acquired(place, 1)
    assert lease.subnet != IPv4Network("10.5.7.0/24")
    assert written(place) == {theirs, lease.key}


def test_of_two_leases_of_ours_the_older_is_kept(place: Place) -> None:
    """Peers use the older one, whose public address it is; so do we."""
    configure(place)
    for key in ("10.5.9.0-24&fd00:0:0:9::-64", plain):
        place.put(key, value(1))
    assert acquired(place, 1).subnet == IPv4Network("10.5.9.0/24")
