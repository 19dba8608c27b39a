"""Which subnet a node gets: flannel's choice as a pure function of configuration, history and what is taken.

Taken subnets may have any prefix length (a configuration may have changed), so they are handled as spans of
addresses, merged and sorted once; the search then walks subnets and spans side by side. What must stay true: a
chosen subnet lies in [SubnetMin, SubnetMax] and overlaps nothing that is taken, and the cost is that of sorting.

Source: flannel pkg/subnet/etcd/local_manager.go (tryAcquireLease, allocateSubnet); flannel.md section 2.4.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from random import Random

from dataplane.errors import OutOfSubnets
from dataplane.model import IPAddress, IPNetwork, Lease, NetConf

Span = tuple[int, int]
"""First and last address, both included, as integers."""

_candidates = 100  # flannel collects this many free subnets and draws one of them


@dataclass(frozen=True, slots=True)
class Choice:
    """The outcome.

    Attributes:
        own: the node's present lease is kept; when False and it has one, that one must be deleted.
    """

    subnet: IPv4Network | None
    ipv6_subnet: IPv6Network | None
    own: bool


def span(network: IPNetwork) -> Span:
    """Return the network's first and last address."""
    return int(network.network_address), int(network.broadcast_address)


def compatible(conf: NetConf, lease: Lease) -> bool:
    """Tell whether the lease's subnets are ones that this (validated) configuration could give out."""
    return _fits(lease.subnet, conf.enable_ipv4, conf.subnet_len, conf.subnet_min, conf.subnet_max) and _fits(
        lease.ipv6_subnet, conf.enable_ipv6, conf.ipv6_subnet_len, conf.ipv6_subnet_min, conf.ipv6_subnet_max
    )


def overlaps(taken: Iterable[Span], network: IPNetwork) -> bool:
    """Tell whether the network has an address in common with any of the spans."""
    return _overlaps(_merge(taken), network)


def choose(
    conf: NetConf,
    own: Lease | None,
    previous: Lease | None,
    taken: Iterable[Span],
    ipv6_taken: Iterable[Span],
    random: Random,
) -> Choice:
    """Choose the node's subnets.

    The own lease is kept if compatible; else the previous subnets are taken up if compatible and free; else each
    family gets, independently, one of the first 100 free subnets at random.

    Args:
        conf: validated configuration.
        own: the lease that the store holds for this node, a reservation included.
        previous: subnets of an earlier life; its attributes are ignored.
        taken, ipv6_taken: what other nodes hold; only looked at when `own` cannot be kept.
    Raises:
        OutOfSubnets: nothing is free in one of the families.
    """
    if own is not None and compatible(conf, own):
        return Choice(own.subnet, own.ipv6_subnet, own=True)
    occupied, ipv6_occupied = _merge(taken), _merge(ipv6_taken)
    if previous is not None and compatible(conf, previous):
        subnet, ipv6_subnet = previous.subnet, previous.ipv6_subnet
        if not _overlaps(occupied, subnet) and not _overlaps(ipv6_occupied, ipv6_subnet):
            return Choice(subnet, ipv6_subnet, own=False)
    new: IPv4Network | None = None
    ipv6_new: IPv6Network | None = None
    if conf.enable_ipv4 and conf.subnet_min is not None and conf.subnet_max is not None:
        base = _draw(occupied, conf.subnet_min, conf.subnet_max, conf.subnet_len, random)
        new = IPv4Network((IPv4Address(base), conf.subnet_len))
    if conf.enable_ipv6 and conf.ipv6_subnet_min is not None and conf.ipv6_subnet_max is not None:
        base = _draw(ipv6_occupied, conf.ipv6_subnet_min, conf.ipv6_subnet_max, conf.ipv6_subnet_len, random)
        ipv6_new = IPv6Network((IPv6Address(base), conf.ipv6_subnet_len))
    return Choice(new, ipv6_new, own=False)


def _fits(
    subnet: IPNetwork | None, enabled: bool, length: int, lowest: IPAddress | None, highest: IPAddress | None
) -> bool:
    if not enabled or subnet is None:
        return not enabled and subnet is None
    if lowest is None or highest is None:
        return False
    return subnet.prefixlen == length and int(lowest) <= int(subnet.network_address) <= int(highest)


def _merge(spans: Iterable[Span]) -> list[Span]:
    """Return the same addresses as disjoint spans in ascending order."""
    merged: list[Span] = []
    for first, last in sorted(spans):
        if merged and first <= merged[-1][1] + 1:
            if last > merged[-1][1]:
                merged[-1] = (merged[-1][0], last)
        else:
            merged.append((first, last))
    return merged


def _overlaps(occupied: list[Span], subnet: IPNetwork | None) -> bool:
    if subnet is None:
        return False
    first, last = span(subnet)
    before = bisect_right(occupied, last, key=lambda entry: entry[0])
    return before > 0 and occupied[before - 1][1] >= first


def _draw(occupied: list[Span], lowest: IPAddress, highest: IPAddress, length: int, random: Random) -> int:
    """Return the base of one of the first free subnets of this length whose base is in [lowest, highest]."""
    size = 1 << (lowest.max_prefixlen - length)
    free: list[int] = []
    base = int(lowest)
    at = 0
    while base <= int(highest) and len(free) < _candidates:
        while at < len(occupied) and occupied[at][1] < base:
            at += 1
        if at < len(occupied) and occupied[at][0] < base + size:
            # Jump behind the span in one step: it may be a million subnets long.
            base += size * ((occupied[at][1] - base) // size + 1)
            continue
        free.append(base)
        base += size
    if not free:
        raise OutOfSubnets(f"out of subnets: every /{length} from {lowest} to {highest} overlaps a lease")
    return random.choice(free)
