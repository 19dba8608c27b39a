"""What etcd's keys and values mean: leases, refused leases, and which event a change is.

Pure. What must stay true: a key that cannot be used is named and set apart, and never touches its neighbours; each key
is a lease of its own. Subnets can be spelled in several ways (fd00:0::, a length of 064, a folder in between), and
only the one that flannel writes gives its lease the plain name; every other is named by its whole key, so that control
sees who was there first, and no write to one key changes what another means. Ends of leases are left out (`expires`
None): etcd tells them only by one RPC for each key, control looks at the end of our own lease alone, and a renewal then
changes nothing, so it costs no work.
"""

from __future__ import annotations

from collections.abc import Iterable

from dataplane.errors import BadLease, printable
from dataplane.flannel.lease_format import decode_value, format_key, parse_key
from dataplane.model import Lease, LeaseGone, LeasePut, LeaseRefused, RefusedLease, Snapshot, WatchEvent
from dataplane.runtime.collector import settling
from dataplane.stores.etcd import etcd_pb2 as pb

longest_value_bytes = 65536


def decode(kv: pb.KeyValue, folder: bytes) -> Lease:
    """Return the lease that a key and its value are.

    Args:
        folder: what stands before a plain key's last "/".
    Raises:
        BadLease: under the lease's own name where it has one.
    """
    text = text_of(kv.key)
    subnet, ipv6_subnet = parse_key(text)
    key = name_of(kv.key, folder)
    spelled = "" if _is_plain(kv.key, folder, format_key(subnet, ipv6_subnet)) else key
    if spelled and spelled.encode() != kv.key:
        raise BadLease(key, "such a key cannot be told from others; allowed are printable ones of up to 400 characters")
    if len(kv.value) > longest_value_bytes:
        raise BadLease(key, f"its value has {len(kv.value)} bytes; allowed are up to {longest_value_bytes}")
    return Lease(
        subnet, ipv6_subnet, decode_value(key, kv.value), born=(float(kv.create_revision), text), spelled=spelled
    )


def name_of(key: bytes, folder: bytes) -> str:
    """Return the model's name of the lease under this key: the key itself if it is none, or not plainly spelled."""
    text = text_of(key)
    try:
        plain = format_key(*parse_key(text))
    except BadLease as error:
        return error.key
    return plain if _is_plain(key, folder, plain) else printable(text)


def text_of(key: bytes) -> str:
    """Return a key as text, whatever its bytes are."""
    return key.decode("utf-8", "backslashreplace")


def put_event(kv: pb.KeyValue, folder: bytes) -> LeasePut | LeaseRefused:
    """Return what to tell of a written key."""
    try:
        return LeasePut(decode(kv, folder))
    except BadLease as error:
        return LeaseRefused(RefusedLease(error.key, error.reason))


def delete_event(key: bytes, folder: bytes) -> WatchEvent:
    """Return what to tell of a deleted key."""
    return LeaseGone(name_of(key, folder))


def snapshot(kvs: Iterable[pb.KeyValue], folder: bytes) -> Snapshot:
    """Return the whole that all keys are."""
    leases, refused = [], []
    for kv in settling(kvs):
        match put_event(kv, folder):
            case LeasePut(lease):
                leases.append(lease)
            case LeaseRefused(entry):
                refused.append(entry)
    return Snapshot(tuple(leases), tuple(refused))


def _is_plain(key: bytes, folder: bytes, plain: str) -> bool:
    return key == folder + b"/" + plain.encode()
