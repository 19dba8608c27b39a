"""Leases that claim what other nodes hold, and hands that write them into each kind of store.

What must stay true: each lease claims one thing of one holder and is good otherwise; which of them are used is worked
out here by comparing everything with everything, so that it owes nothing to the daemon's own way.
"""

from __future__ import annotations

import json
import sqlite3
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from dataplane.flannel.lease_format import encode_value
from dataplane.lab.cluster import Lab
from dataplane.lab.commands import wait_for
from dataplane.model import Lease, LeaseAttrs
from tests.apiserver.process import Server
from tests.netns.cluster.etcd_cluster import EtcdCluster, prefix

annotation = "flannel.alpha.coreos.com/"


@dataclass(frozen=True, slots=True)
class Claim:
    """A lease that claims something of another's.

    Attributes:
        node: who writes it, as the store knows nodes.
        spelled: its key in etcd where that is not the lease's own.
        refused_as: what a status calls it.
    """

    lease: Lease
    node: str
    refused_as: str
    spelled: str = ""


class Ledger(ABC):
    """Writes leases into a store, past its rules."""

    takes_same_subnet = True
    """Whether two leases of this store may have the same IPv4 subnet."""
    takes_spellings = False

    @abstractmethod
    def put(self, lease: Lease, node: str, spelled: str = "") -> None:
        """Write a lease; `node` is unique, and the holder's own name where it is the holder's lease."""

    @abstractmethod
    def delete(self, lease: Lease, node: str, spelled: str = "") -> None:
        """Delete what `put` wrote, or a daemon."""

    def later(self) -> None:  # noqa: B027
        """Return when a lease that is written now is younger than all; most stores tell any two apart."""

    def name_of(self, number: int, holder: Lease) -> str:
        """Return what `put` and `delete` take as `node` for the lease of the daemon of this number."""
        return str(holder.attrs.public_ip)


class LocalLedger(Ledger):
    takes_same_subnet = False  # it has no room for it

    def __init__(self, lab: Lab) -> None:
        self._path = lab.lease_dir / "leases.sqlite3"

    def put(self, lease: Lease, node: str, spelled: str = "") -> None:
        row = (*self._columns(lease), node, encode_value(lease.attrs).decode())
        self._run("INSERT INTO lease (subnet, ipv6_subnet, node, value) VALUES (?, ?, ?, ?)", row)

    def delete(self, lease: Lease, node: str, spelled: str = "") -> None:
        self._run("DELETE FROM lease WHERE subnet IS ? AND ipv6_subnet IS ?", self._columns(lease))

    def _run(self, statement: str, values: tuple[str | None, ...]) -> None:
        with closing(sqlite3.connect(self._path, timeout=200)) as connection, connection:
            assert connection.execute(statement, values).rowcount == 1

    @staticmethod
    def _columns(lease: Lease) -> tuple[str | None, str | None]:
        return (
            None if lease.subnet is None else str(lease.subnet),
            None if lease.ipv6_subnet is None else str(lease.ipv6_subnet),
        )


class EtcdLedger(Ledger):
    takes_spellings = True

    def __init__(self, cluster: EtcdCluster) -> None:
        self._cluster = cluster

    def put(self, lease: Lease, node: str, spelled: str = "") -> None:
        self._cluster.write({spelled or lease.key: encode_value(lease.attrs).decode()})

    def delete(self, lease: Lease, node: str, spelled: str = "") -> None:
        self._cluster.write({}, (spelled or lease.key,))


class KubeLedger(Ledger):
    """Nodes; their age is told in whole seconds, and of one second the first by name is the older."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def put(self, lease: Lease, node: str, spelled: str = "") -> None:
        attrs = lease.attrs
        texts: dict[str, object] = {
            "kube-subnet-manager": "true",
            "backend-type": attrs.backend_type,
            "public-ip": attrs.public_ip,
            "backend-data": json.dumps(attrs.backend_data),
        }
        if lease.ipv6_subnet is not None:
            texts |= {"public-ipv6": attrs.public_ipv6, "backend-v6-data": json.dumps(attrs.backend_v6_data)}
        cidrs = [str(subnet) for subnet in (lease.subnet, lease.ipv6_subnet) if subnet is not None]
        self._server.add_node(node, *cidrs, annotations={annotation + item: str(text) for item, text in texts.items()})

    def delete(self, lease: Lease, node: str, spelled: str = "") -> None:
        self._server.delete_node(node)

    def later(self) -> None:
        second = int(time.time())
        wait_for(lambda: int(time.time()) > second, 90, "the next second")

    def name_of(self, number: int, holder: Lease) -> str:
        return f"node{number}"


Change = Callable[[Lease], Lease]


def claims_on(holder: Lease, backend: str, ledger: Ledger, numbers: Iterator[int]) -> list[Claim]:
    """Make a lease for each thing of the holder's that can be claimed; of each kind some before and behind the holder's
    in the order of keys."""

    def attrs(**named: object) -> Change:
        return lambda lease: replace(lease, attrs=replace(lease.attrs, **named))  # type: ignore[arg-type]

    def subnets(**named: object) -> Change:
        return lambda lease: replace(lease, **named)  # type: ignore[arg-type]

    assert holder.subnet is not None
    held4, held6 = holder.subnet, holder.ipv6_subnet
    changes = [attrs(public_ip=holder.attrs.public_ip)] * 2
    inside4 = list(held4.subnets(new_prefix=30))
    changes += [subnets(subnet=subnet) for subnet in (inside4[0], inside4[-1], held4.supernet())]
    if backend == "vxlan":
        changes += [attrs(backend_data=holder.attrs.backend_data)] * 2
    if held6 is not None:
        changes.append(subnets(subnet=inside4[7], ipv6_subnet=None))
        inside6 = list(held6.subnets(new_prefix=72))
        changes += [subnets(ipv6_subnet=subnet) for subnet in (inside6[0], inside6[-1], held6.supernet())]
        if ledger.takes_same_subnet:
            changes += [subnets(ipv6_subnet=held6), subnets(subnet=held4), subnets(subnet=held4, ipv6_subnet=None)]
        if backend != "udp":
            changes += [attrs(public_ipv6=holder.attrs.public_ipv6)] * 2
        if backend == "vxlan":
            changes += [attrs(backend_v6_data=holder.attrs.backend_v6_data)] * 2
    claims = []
    for place, change in enumerate(changes):
        number = next(numbers)
        lease = change(_fresh(number, backend, held6 is not None, lower=place % 2 == 0))
        claims.append(Claim(lease, f"claimant-{number}", lease.key))
    number = next(numbers)
    # One that the holder could be given itself: a store knows a node by its address.
    lease = attrs(public_ip=holder.attrs.public_ip)(_fresh(number, backend, held6 is not None, lower=True))
    lease = replace(lease, subnet=IPv4Network(f"10.244.{100 + number}.0/24"))
    if held6 is not None:
        lease = replace(lease, ipv6_subnet=IPv6Network(f"fd00:244:0:{100 + number:x}::/64"))
    claims.append(Claim(lease, f"claimant-{number}", lease.key))
    return claims


def claims_on_the_key(holder: Lease, backend: str, ledger: Ledger, number: int) -> list[Claim]:
    """Make a lease under the holder's very key, where the store has room for that: etcd by another spelling of it."""
    if not ledger.takes_same_subnet:
        return []
    lease = _fresh(number, backend, holder.ipv6_subnet is not None, lower=True)
    lease = replace(lease, subnet=holder.subnet, ipv6_subnet=holder.ipv6_subnet)
    node = f"claimant-{number}"
    if not ledger.takes_spellings:
        return [Claim(lease, node, f"node {node}")]
    spelled = holder.key.replace("-24", "-024")
    return [Claim(lease, node, f"{prefix}/subnets/{spelled}", spelled)]


def _fresh(number: int, backend: str, dual: bool, *, lower: bool) -> Lease:
    """A lease that claims nothing of anybody's, before or behind the daemons' in the order of keys."""
    subnet = IPv4Network(f"10.244.{0 if lower else 250}.0/24")
    ipv6_subnet = IPv6Network(f"fd00:244:0:{0 if lower else 0xFF00:x}::/64")

    def data(family: int) -> dict[str, Any] | None:
        return {"VNI": 1, "VtepMAC": f"02:00:00:00:{family:02x}:{number:02x}"} if backend == "vxlan" else None

    attrs = LeaseAttrs(IPv4Address("192.0.2.100") + number, None, "" if backend == "udp" else backend, data(4))
    if dual and backend != "udp":
        attrs = replace(attrs, public_ipv6=IPv6Address("2001:db8::100") + number, backend_v6_data=data(6))
    four = IPv4Network((int(subnet[0]) + 4 * number, 30))
    return Lease(four, IPv6Network((int(ipv6_subnet[0]) + (number << 32), 96)) if dual else None, attrs)


def used(own: Lease, leases: Iterable[Lease]) -> list[Lease]:
    """Return which of these, oldest first, are in use on the node whose lease is `own`."""
    taken: list[Lease] = []
    for lease in leases:
        if not any(_collide(lease, other) for other in (own, *taken)):
            taken.append(lease)
    return taken


def _collide(one: Lease, other: Lease) -> bool:
    a, b = one.attrs, other.attrs
    things = [(a.public_ip, b.public_ip), (a.public_ipv6, b.public_ipv6)]
    things += [(a.backend_data, b.backend_data), (a.backend_v6_data, b.backend_v6_data)]
    subnets = [(one.subnet, other.subnet), (one.ipv6_subnet, other.ipv6_subnet)]
    return any(x is not None and x == y for x, y in things) or any(
        x is not None and y is not None and x.overlaps(y)  # type: ignore[arg-type]
        for x, y in subnets
    )


def peers_of(leases: Iterable[Lease]) -> dict[str, str]:
    """Return the underlay address by overlay subnet that these leases come to."""
    peers = {str(lease.subnet): str(lease.attrs.public_ip) for lease in leases if lease.subnet is not None}
    return peers | {
        str(lease.ipv6_subnet): str(lease.attrs.public_ipv6 or lease.attrs.public_ip)
        for lease in leases
        if lease.ipv6_subnet is not None
    }
