"""Folds what a store's watch says into one complete view of the leases.

Pure. What must stay true: after each event the view is what a fresh snapshot would give; the answer of `fold`
names every lease whose value differs from before, compared whole (a lease that kept its subnet but changed its
VTEP MAC between two snapshots is a change), and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dataplane.model import Lease, LeaseGone, LeasePut, LeaseRefused, Snapshot, WatchEvent


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
        match event:
            case Snapshot():
                return self._replace(event)
            case LeasePut(lease):
                return self._set(lease.key, lease, None)
            case LeaseRefused(refused):
                return self._set(refused.key, None, refused.reason)
            case LeaseGone(key):
                return self._set(key, None, None)

    def _replace(self, snapshot: Snapshot) -> set[str]:
        self.synced = True
        leases = {lease.key: lease for lease in snapshot.leases}
        refused = {entry.key: entry.reason for entry in snapshot.refused}
        changed = set()
        for key in {*self.leases, *self.refused} - {*leases, *refused}:
            changed |= self._set(key, None, None)
        for key, reason in refused.items():
            changed |= self._set(key, None, reason)
        for key, lease in leases.items():
            changed |= self._set(key, lease, None)
        return changed

    def _set(self, key: str, lease: Lease | None, reason: str | None) -> set[str]:
        if self.leases.get(key) == lease and self.refused.get(key) == reason:
            return set()
        self.leases.pop(key, None)
        self.refused.pop(key, None)
        if lease is not None:
            self.leases[key] = lease
        elif reason is not None:
            self.refused[key] = reason
        return {key}
