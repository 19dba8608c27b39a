"""What etcd's keys and values mean: leases, refused leases, and which event a change is.

Pure. What must stay true: a key that cannot be used is named and set apart, and never touches its neighbours; keys
that spell the same subnets in different ways (fd00:0::, fd00::) are one lease, that of the last write, which is gone
only when its last spelling is. Ends of leases are left out (`expires` None): etcd tells them only by one RPC for each
key, control looks at the end of our own lease alone, and a renewal then changes nothing, so it costs no work.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dataplane.errors import BadLease
from dataplane.model import Lease, LeaseGone, LeasePut, LeaseRefused, RefusedLease, Snapshot, WatchEvent
from dataplane.stores import etcd_pb2 as pb
from dataplane.stores.lease_format import decode_value, format_key, parse_key

longest_value_bytes = 65536


def decode(kv: pb.KeyValue) -> Lease:
    """Return the lease that a key and its value are; raises `BadLease` under the lease's own name where it has one."""
    subnet, ipv6_subnet = parse_key(text_of(kv.key))
    key = format_key(subnet, ipv6_subnet)
    if len(kv.value) > longest_value_bytes:
        raise BadLease(key, f"its value has {len(kv.value)} bytes; allowed are up to {longest_value_bytes}")
    return Lease(subnet, ipv6_subnet, decode_value(key, kv.value), born=(float(kv.create_revision), ""))


def name_of(key: bytes) -> str:
    """Return the model's name of the lease under this key; of a key that is none, the key itself."""
    try:
        return format_key(*parse_key(text_of(key)))
    except BadLease as error:
        return error.key


def text_of(key: bytes) -> str:
    """Return a key as text, whatever its bytes are."""
    return key.decode("utf-8", "backslashreplace")


@dataclass(slots=True)
class Spellings:
    """What every key holds, by the lease it names; a later write stands later."""

    known: dict[str, dict[bytes, LeasePut | LeaseRefused]] = field(default_factory=dict)

    def put(self, kv: pb.KeyValue) -> WatchEvent:
        """Take in a written key; return what to tell."""
        event: LeasePut | LeaseRefused
        try:
            lease = decode(kv)
            event, name = LeasePut(lease), lease.key
        except BadLease as error:
            event, name = LeaseRefused(RefusedLease(error.key, error.reason)), error.key
        spelled = self.known.setdefault(name, {})
        spelled.pop(kv.key, None)
        spelled[kv.key] = event
        return event

    def delete(self, key: bytes) -> WatchEvent:
        """Take in a deleted key; return what to tell."""
        name = name_of(key)
        spelled = self.known.get(name, {})
        spelled.pop(key, None)
        if spelled:
            return list(spelled.values())[-1]
        self.known.pop(name, None)
        return LeaseGone(name)

    def replace(self, kvs: Iterable[pb.KeyValue]) -> Snapshot:
        """Take in every key there is; return the whole."""
        self.known.clear()
        for kv in sorted(kvs, key=lambda kv: kv.mod_revision):
            self.put(kv)
        leases, refused = [], []
        for spelled in self.known.values():
            match list(spelled.values())[-1]:
                case LeasePut(lease):
                    leases.append(lease)
                case LeaseRefused(entry):
                    refused.append(entry)
        return Snapshot(tuple(leases), tuple(refused))
