"""All Nodes of the cluster as leases: which event a change of a Node is.

Pure. What must stay true: what was told so far is always what a fresh list would tell; a Node that cannot be used is
named and touches no other; of several Nodes with one subnet ours holds it, else the oldest (of one second the one whose
name comes first), and the others are refused. Our own Node shows the very lease that we hold for as long as its annotations say what we want.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, insort
from collections.abc import Set
from dataclasses import dataclass, replace
from datetime import datetime

from dataplane.errors import BadInput, BadLease
from dataplane.flannel.annotations import Facts, published, read_lease, refused_key, wanted
from dataplane.model import Born, Lease, LeaseGone, LeasePut, LeaseRefused, NetConf, RefusedLease, Snapshot, WatchEvent
from dataplane.stores.kube.condition import NetworkCondition
from dataplane.stores.kube.objects import Node

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Own:
    """Our Node and the lease that we hold by it."""

    name: str
    lease: Lease


class Nodes:
    """What is known of every Node.

    Args:
        prefix: of the annotations, checked.

    Attributes:
        network: our own Node's condition.
    """

    def __init__(self, prefix: str, conf: NetConf) -> None:
        self.network = NetworkCondition()
        self._prefix = prefix
        self._conf = conf
        self._own: Own | None = None
        self._facts: dict[str, Facts] = {}
        self._leases: dict[str, Lease] = {}
        self._faults: dict[str, str] = {}
        self._holders: dict[str, list[tuple[Born, str]]] = {}  # who has a subnet, the oldest first
        self._told: dict[str, LeasePut | LeaseRefused] = {}

    def hold(self, own: Own) -> None:
        """Take in that this lease is ours, before its annotations are written."""
        before = self._holder(own.lease.key)
        self._own = own
        facts = self._facts.get(own.name)
        if facts is not None:
            self._set(own.name, facts, before)

    def put(self, node: Node) -> list[WatchEvent]:
        """Take in a Node that was added or changed; return what to tell: mostly nothing, Nodes change all the time."""
        if self._own is not None and node.metadata.name == self._own.name:
            self.network.look(node)
        facts = facts_of(node, self._prefix)
        if self._facts.get(node.metadata.name) == facts:
            return []
        return self._set(node.metadata.name, facts)

    def delete(self, name: str) -> list[WatchEvent]:
        """Take in that a Node is gone; return what to tell."""
        return self._set(name, None)

    def others(self, names: Set[str]) -> Set[str]:
        """Return the names of what is known beside these."""
        return self._facts.keys() - names

    def snapshot(self) -> Snapshot:
        """Return the whole."""
        told = self._told.values()
        return Snapshot(
            tuple(event.lease for event in told if isinstance(event, LeasePut)),
            tuple(event.refused for event in told if isinstance(event, LeaseRefused)),
        )

    def _set(self, name: str, facts: Facts | None, *others: str | None) -> list[WatchEvent]:
        """Take in what a Node is, and tell that of it and of these others, and of who had or has what it had or has.

        A subnet may be that of 100,000 Nodes; the work does not grow with them.
        """
        touched = {name, *others}
        before = self._leases.get(name)
        if before is not None:
            touched.add(self._holder(before.key))
            holders = self._holders[before.key]
            del holders[bisect_left(holders, (before.born, name))]
            if not holders:
                del self._holders[before.key]
            del self._leases[name]
        self._faults.pop(name, None)
        if facts is None:
            self._facts.pop(name, None)
        else:
            self._facts[name] = facts
            self._read(name, facts)
        after = self._leases.get(name)
        if after is not None:
            touched.add(self._holder(after.key))
            insort(self._holders.setdefault(after.key, []), (after.born, name))
        keys = dict.fromkeys(lease.key for lease in (before, after) if lease is not None)
        touched.update(self._holder(key) for key in keys)
        wants = {key: self._holder_event(key) for key in keys} | {
            refused_key(other): self._refusal(other) for other in touched if other is not None
        }
        return [event for key, want in wants.items() for event in self._tell(key, want)]

    def _read(self, name: str, facts: Facts) -> None:
        try:
            lease = read_lease(name, facts, self._conf)
        except BadLease as error:
            self._faults[name] = error.reason
            return
        if lease is not None:
            self._leases[name] = self._as_held(name, lease, facts)

    def _as_held(self, name: str, lease: Lease, facts: Facts) -> Lease:
        own = self._own
        if own is None or own.name != name or own.lease.key != lease.key:
            return lease
        ours = own.lease.attrs
        try:
            texts = wanted(ours, facts)
        except BadInput as error:
            # Nothing to publish in its place: what is published stays, and only the rest is looked at.
            log.warning("%s; what is published stays", error)
            shown = replace(lease.attrs, public_ip=ours.public_ip, public_ipv6=ours.public_ipv6)
            return own.lease if shown == ours else lease
        if texts.items() <= facts.annotations.items():
            return own.lease
        if lease.attrs != ours:
            return lease
        # The Node says what we are, and an administrator has just set what it should say instead.
        return replace(lease, attrs=replace(ours, **published(texts)))

    def _holder(self, key: str) -> str | None:
        holders = self._holders.get(key)
        if not holders:
            return None
        ours = self._own.name if self._own is not None else ""
        lease = self._leases.get(ours)
        if lease is not None and lease.key == key:
            at = bisect_left(holders, (lease.born, ours))
            if holders[at : at + 1] == [(lease.born, ours)]:
                return ours
        return holders[0][1]

    def _holder_event(self, key: str) -> LeasePut | None:
        holder = self._holder(key)
        return None if holder is None else LeasePut(self._leases[holder])

    def _refusal(self, name: str) -> LeaseRefused | None:
        reason = self._faults.get(name, "")
        lease = self._leases.get(name)
        holder = None if lease is None else self._holder(lease.key)
        if lease is not None and holder is not None and holder != name:
            first = self._leases[holder].born <= lease.born
            why = "which was there first" if first else "which is ours; it was there first, so other nodes refuse ours"
            reason = f"its subnet {lease.key} is node {holder}'s, {why}"
        return LeaseRefused(RefusedLease(refused_key(name), reason)) if reason else None

    def _tell(self, key: str, want: LeasePut | LeaseRefused | None) -> list[WatchEvent]:
        if self._told.get(key) == want:
            return []
        if want is None:
            del self._told[key]
            return [LeaseGone(key)]
        self._told[key] = want
        return [want]


def facts_of(node: Node, prefix: str) -> Facts:
    """Return what matters of a Node; `prefix` is a checked one (access.read_prefix)."""
    cidrs = tuple(node.spec.pod_cidrs or ()) or ((node.spec.pod_cidr,) if node.spec.pod_cidr else ())
    annotations = node.metadata.annotations or {}
    ours = {name[len(prefix) :]: text for name, text in annotations.items() if name.startswith(prefix)}
    return Facts(cidrs, ours, _read_time(node.metadata.creation_timestamp))


def _read_time(text: str | None) -> float:
    try:
        return datetime.fromisoformat(text or "").timestamp()
    except ValueError:
        return 0.0
