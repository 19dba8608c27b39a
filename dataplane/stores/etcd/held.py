"""Who holds which subnet in etcd, and which one is ours to take.

Pure. What must stay true: a key that names subnets takes them, whatever its value says; of our own keys the oldest that
can be kept is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random

from dataplane.errors import BadLease
from dataplane.flannel.lease_format import parse_key
from dataplane.model import Lease, LeaseAttrs, NetConf
from dataplane.runtime.collector import settling
from dataplane.stores.choice import Choice, choose, compatible, overlaps, span
from dataplane.stores.etcd import etcd_pb2 as pb
from dataplane.stores.etcd.leases import decode, text_of


@dataclass(frozen=True, slots=True)
class Held:
    """A key that names subnets, and what etcd says about it; a value that cannot be decoded has no attributes."""

    kv: pb.KeyValue
    lease: Lease


def decoded(found: pb.RangeResponse, folder: bytes) -> list[Held]:
    """Return every key that names subnets."""
    held = []
    for kv in settling(found.kvs):
        try:
            held.append(Held(kv, decode(kv, folder)))
        except BadLease:
            # Unusable to forward by, yet somebody's: what its key names is taken.
            with suppress(BadLease):
                held.append(Held(kv, Lease(*parse_key(text_of(kv.key)), LeaseAttrs())))
    return held


def choose_among(
    conf: NetConf, held: Sequence[Held], attrs: LeaseAttrs, previous: Lease | None, random: Random
) -> tuple[list[Held], list[Lease], Held | None, Choice]:
    """Return what is ours of what is held, what is others', what of ours can be kept, and the subnets to take."""
    own = [entry for entry in held if entry.lease.attrs.public_ip == attrs.public_ip]
    others = [entry.lease for entry in held if entry.lease.attrs.public_ip != attrs.public_ip]
    own.sort(key=lambda entry: entry.lease.born)  # peers use the oldest of one public address
    kept = next((e for e in own if compatible(conf, e.lease) and not _has_elder(e.lease, others)), None)
    choice = choose(
        conf,
        kept.lease if kept else None,
        previous,
        [span(other.subnet) for other in others if other.subnet is not None],
        [span(other.ipv6_subnet) for other in others if other.ipv6_subnet is not None],
        random,
    )
    return own, others, kept, choice


def contested(held: Sequence[Held], mine: pb.KeyValue, lease: Lease) -> bool:
    """Tell whether an older key has an IPv6 subnet that overlaps the lease's."""
    older = [
        span(entry.lease.ipv6_subnet)
        for entry in held
        if entry.lease.ipv6_subnet is not None and entry.kv.create_revision < mine.create_revision
    ]
    return lease.ipv6_subnet is not None and overlaps(older, lease.ipv6_subnet)


def same_subnets(one: Lease, other: Lease) -> bool:
    """Tell whether two keys name the same subnets, however they are spelled."""
    return (one.subnet, one.ipv6_subnet) == (other.subnet, other.ipv6_subnet)


def _has_elder(lease: Lease, others: Sequence[Lease]) -> bool:
    """Tell whether another node has the same subnets, spelled otherwise, for longer: peers refuse `lease` then."""
    return any(
        same_subnets(other, lease) and other.born < lease.born and other.attrs.public_ip is not None for other in others
    )
