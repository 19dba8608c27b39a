"""Which writes of our own row are ours: how a second node with our public address is noticed in the embedded store.

A node is known by its public address there, so that two nodes with one address write one row. Each change of it is an
event with a revision of its own, and a daemon knows the revisions of its writes before anybody can see them. What must
stay true: nothing of ours is taken for another's. Only what comes after this process's first write counts; and who takes
the end away from a lease is an administrator who reserves it, since no daemon does.
Noted in the thread that writes and read in the one that watches: each attribute is replaced whole.
"""

from __future__ import annotations

import sqlite3

from dataplane.errors import BadLease
from dataplane.model import IPAddress, Lease, LeaseAttrs, SecondWriter
from dataplane.stores.embedded import rows

remembered = 100  # writes


class Writers:
    """What this process wrote to its row."""

    def __init__(self) -> None:
        self._subnets: tuple[str | None, str | None] | None = None
        self._attrs = LeaseAttrs()
        self._reserved = False
        self._last = 0
        self._revisions: tuple[int, ...] = ()

    def written(
        self, connection: sqlite3.Connection, subnet: str | None, ipv6_subnet: str | None, lease: Lease
    ) -> None:
        """Take in what was just written, within the same transaction."""
        (revision,) = connection.execute("SELECT max(revision) FROM event").fetchone()
        self._know(revision)
        self._last, self._reserved = revision, lease.expires is None
        self._attrs = lease.attrs
        self._subnets = (subnet, ipv6_subnet)

    def judge(self, connection: sqlite3.Connection, since: int | None) -> SecondWriter | None:
        """Return what to tell if somebody else wrote our row lately.

        Args:
            since: the revision up to which the watcher knows; None if it knows nothing.
        """
        if self._subnets is None:
            return None
        written = connection.execute(
            f"SELECT revision, {rows.columns}, NULL FROM event "  # noqa: S608 (constants)
            "WHERE revision > ? AND subnet IS ? AND ipv6_subnet IS ? AND value IS NOT NULL ORDER BY revision",
            (self._last if since is None else since, *self._subnets),
        ).fetchall()
        second = None
        for revision, *row in written:
            if revision in self._revisions:
                continue
            expires = row[3]
            if expires is None and not self._reserved:
                self._reserved = True
                self._know(revision)
                continue
            try:
                lease = rows.decode((*row,))
            except BadLease:
                continue
            # One with another address has taken the lease away, which is noticed elsewhere.
            if _node(lease.attrs) == _node(self._attrs):
                second = SecondWriter(lease)
        return second

    def _know(self, revision: int) -> None:
        self._revisions = (*self._revisions[1 - remembered :], revision)


def _node(attrs: LeaseAttrs) -> IPAddress | None:
    return attrs.public_ip or attrs.public_ipv6
