"""Rows of the embedded store and what they mean: leases, refused leases, expiry, changes since a revision.

What must stay true: a row that cannot be decoded is named and set apart, never an exception for its neighbours, and
its key is never that of a lease: whatever is told of it must not touch a good one. Anybody may write rows, so what
is too long is cut by SQLite and never reaches Python.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from math import inf

from dataplane.errors import BadLease
from dataplane.flannel.lease_format import decode_value
from dataplane.model import (
    Born,
    Lease,
    LeaseAttrs,
    LeaseGone,
    LeasePut,
    LeaseRefused,
    RefusedLease,
    Snapshot,
    WatchEvent,
)
from dataplane.runtime.collector import settling
from dataplane.stores.choice import Span, span

longest_value_bytes = 65536
longest_subnet_bytes = 128


def _bytes_of(column: str) -> str:
    # length() of text ends at the first NUL.
    return f"length(CAST({column} AS BLOB))"


def _short(column: str) -> str:
    text = f"substr({column}, 1, 32) || '... (' || {_bytes_of(column)} || ' bytes)'"
    return f"CASE WHEN {_bytes_of(column)} > {longest_subnet_bytes} THEN {text} ELSE {column} END"


columns = (
    f"{_short('subnet')}, {_short('ipv6_subnet')}, "
    f"CASE WHEN {_bytes_of('value')} > {longest_value_bytes} THEN '' ELSE value END, "
    f"expires, coalesce({_bytes_of('value')}, 0)"
)
"""What to select of either table; a subnet that was cut is no subnet any more."""

lease_columns = f"{columns}, rowid"
"""What to select of `lease` for a `Row`."""

_event_columns = (
    f"{columns}, coalesce("  # noqa: S608 (constants)
    "(SELECT rowid FROM lease WHERE subnet = event.subnet AND ipv6_subnet IS event.ipv6_subnet), "
    "(SELECT rowid FROM lease WHERE subnet IS NULL AND event.subnet IS NULL AND ipv6_subnet = event.ipv6_subnet))"
)

Row = tuple[str | None, str | None, str, float | None, int, int | None]
"""Subnet, IPv6 subnet, value, expiry, bytes of the value (which is empty when they are too many), row number.

Rows are numbered as they are made and renewals keep the number; None for a lease that is gone meanwhile.
"""


@dataclass(frozen=True, slots=True)
class Changes:
    """What a watcher missed, and where it stands then."""

    events: list[WatchEvent]
    revision: int


def key_of(subnet: str | None, ipv6_subnet: str | None) -> str:
    """Return the lease's key from the two columns, or a quoted text, which is no lease's key, if they are no subnets."""
    try:
        ipv4, ipv6 = decode_subnets(subnet, ipv6_subnet)
    except BadLease as error:
        return error.key
    return Lease(ipv4, ipv6, LeaseAttrs()).key


def decode(row: Row) -> Lease:
    """Return the row as a lease; raises `BadLease`."""
    subnet, ipv6_subnet, value, expires, size, number = row
    ipv4, ipv6 = decode_subnets(subnet, ipv6_subnet)
    key = Lease(ipv4, ipv6, LeaseAttrs()).key
    if size > longest_value_bytes:
        raise BadLease(key, f"its value has {size} bytes; allowed are up to {longest_value_bytes}")
    return Lease(ipv4, ipv6, decode_value(key, value), expires, born_of(number))


def born_of(number: int | None) -> Born:
    """Return the age that a row's number tells; what is gone is younger than all."""
    return (inf if number is None else float(number), "")


def decode_subnets(subnet: str | None, ipv6_subnet: str | None) -> tuple[IPv4Network | None, IPv6Network | None]:
    """Return the two columns as networks; raises `BadLease`, also for a second spelling of a network."""
    quoted = "&".join("" if text is None else repr(text) for text in (subnet, ipv6_subnet)).rstrip("&")
    try:
        ipv4 = None if subnet is None else IPv4Network(subnet)
        ipv6 = None if ipv6_subnet is None else IPv6Network(ipv6_subnet)
    except ValueError as error:
        raise BadLease(quoted, f"{error}; allowed is such as 10.1.2.0/24") from None
    for text, network in ((subnet, ipv4), (ipv6_subnet, ipv6)):
        if text is not None and text != str(network):
            raise BadLease(quoted, f"{text} is not the plain spelling {network}")
    return ipv4, ipv6


def expire(connection: sqlite3.Connection, now: float) -> None:
    """Delete the leases whose deadline has passed (seconds of `LeaseClock.awake`); the transaction makes it happen once."""
    connection.execute("DELETE FROM lease WHERE deadline <= ?", (now,))


def next_deadline(connection: sqlite3.Connection) -> float | None:
    """Return when the next lease ends (seconds of `LeaseClock.awake`), None if none does."""
    deadline: float | None = connection.execute("SELECT min(deadline) FROM lease").fetchone()[0]
    return deadline


def trim(connection: sqlite3.Connection, history: int) -> None:
    """Forget all but the newest `history` events."""
    connection.execute("DELETE FROM event WHERE revision <= (SELECT max(revision) FROM event) - ?", (history,))


def taken(connection: sqlite3.Connection, node: str) -> list[Span]:
    """Return the IPv4 spans of all leases but this node's own; a subnet that is none takes no room."""
    rows = connection.execute(f"SELECT {_short('subnet')} FROM lease WHERE subnet IS NOT NULL AND node != ?", (node,))  # noqa: S608 (constants)
    return list(_spans(IPv4Network, rows))


def ipv6_taken(connection: sqlite3.Connection, node: str) -> list[Span]:
    """Return the same for IPv6."""
    rows = connection.execute(
        f"SELECT {_short('ipv6_subnet')} FROM lease WHERE ipv6_subnet IS NOT NULL AND node != ?",  # noqa: S608 (constants)
        (node,),
    )
    return list(_spans(IPv6Network, rows))


def _spans(kind: type[IPv4Network] | type[IPv6Network], rows: Iterable[tuple[str]]) -> Iterator[Span]:
    for (text,) in rows:
        try:
            yield span(kind(text, strict=False))
        except ValueError:
            continue


def changes(connection: sqlite3.Connection, since: int | None) -> Changes:
    """Return what happened after a revision, as a new Snapshot where the log no longer tells.

    Args:
        since: the revision up to which the watcher knows; None if it knows nothing.
    """
    (newest,) = connection.execute("SELECT coalesce(max(revision), 0) FROM event").fetchone()
    if since is None or since > newest:
        return Changes([snapshot(connection)], newest)
    if since == newest:
        return Changes([], newest)
    rows = connection.execute(
        f"SELECT revision, value IS NULL, {_event_columns} FROM event WHERE revision > ? ORDER BY revision",  # noqa: S608 (constants)
        (since,),
    ).fetchall()
    if rows[0][0] != since + 1:
        return Changes([snapshot(connection)], newest)
    return Changes([_event(row[1], row[2:]) for row in settling(rows)], newest)


def snapshot(connection: sqlite3.Connection) -> Snapshot:
    """Return all leases; those that cannot be decoded are set apart."""
    leases, refused = [], []
    for row in settling(connection.execute(f"SELECT {lease_columns} FROM lease")):  # noqa: S608 (constants)
        try:
            leases.append(decode(row))
        except BadLease as error:
            refused.append(RefusedLease(error.key, error.reason))
    return Snapshot(tuple(leases), tuple(refused))


def _event(gone: bool, row: Row) -> WatchEvent:
    if gone:
        return LeaseGone(key_of(*row[:2]))
    try:
        return LeasePut(decode(row))
    except BadLease as error:
        return LeaseRefused(RefusedLease(error.key, error.reason))
