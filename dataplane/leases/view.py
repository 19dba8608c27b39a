"""Folds what a store's watch says into one complete view of the leases.

Pure. What must stay true: after each event the view is what a fresh snapshot would give; the answer of `fold`
names every lease whose value differs from before, compared whole (a lease that kept its subnet but changed its
VTEP MAC between two snapshots is a change), and nothing else.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from dataplane.model import Lease, LeaseGone, LeasePut, LeaseRefused, Snapshot, WatchEvent
from dataplane.runtime.pieces import pieces_of


@dataclass(slots=True)
class LeaseView:
    """All leases by key, and those that the store could not decode.

    Attributes:
        leases: every decoded lease, our own included.
        refused: reason by key; a key stands in one of the two only.
        synced: a snapshot has been seen, so the view is complete.
    """

    leases: dict[str, Lease] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    synced: bool = False

    def fold(self, event: WatchEvent) -> set[str]:
        """Take in one event; return the keys whose lease or refusal is not what it was."""
        return set().union(*self.pieces(event))

    def pieces(self, event: WatchEvent) -> Iterator[set[str]]:
        """Do the same piece by piece, none of them long; the view is whole again after the last."""
        match event:
            case Snapshot():
                yield from self._replace(event)
            case LeasePut(lease):
                yield self._set(lease.key, lease, None)
            case LeaseRefused(refused):
                yield self._set(refused.key, None, refused.reason)
            case LeaseGone(key):
                yield self._set(key, None, None)

    def _replace(self, snapshot: Snapshot) -> Iterator[set[str]]:
        self.synced = True
        # A later entry of one key counts, and a lease before a refusal.
        wanted: dict[str, tuple[Lease | None, str | None]] = {}
        for refused in pieces_of(snapshot.refused):
            wanted |= {entry.key: (None, entry.reason) for entry in refused}
            yield set()
        for leases in pieces_of(snapshot.leases):
            wanted |= {lease.key: (lease, None) for lease in leases}
            yield set()
        for keys in pieces_of([*self.leases, *self.refused]):
            yield set().union(*(self._set(key, None, None) for key in keys if key not in wanted))
        for keys in pieces_of(wanted):
            yield set().union(*(self._set(key, *wanted[key]) for key in keys))

    def _set(self, key: str, lease: Lease | None, reason: str | None) -> set[str]:
        if self.leases.get(key) == lease and self.refused.get(key) == reason:
            if lease is not None:
                # Else all that a snapshot brought would be freed in one go, with the snapshot.
                self.leases[key] = lease
            return set()
        self.leases.pop(key, None)
        self.refused.pop(key, None)
        if lease is not None:
            self.leases[key] = lease
        elif reason is not None:
            self.refused[key] = reason
        return {key}
