"""What the forwarding tables should hold: leases and backend in, peers by prefix and refusals by key out.

Pure, and incremental: a change of one lease costs work in proportion to what it touches. What must stay true:
- the result depends on the set of leases only, never on the order in which they came, so that every node
  isolates the same lease;
- of leases whose prefixes overlap, the one that looks most like the cluster's own allocation wins (one with the
  configured length and families, then the longer prefix, then the smaller key), and whoever overlaps a better one
  is refused whole and named; that nobody overlaps us is the backend's check;
- our own lease is never a peer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from dataplane.backends.base import Plan
from dataplane.control.claims import Claims
from dataplane.control.diff import Change, diff
from dataplane.errors import BadLease
from dataplane.model import IPNetwork, Lease, NetConf, Peer


class LeaseMeaning(Protocol):
    """The part of a backend that says what a lease means for one of our plans."""

    def peers(self, conf: NetConf, lease: Lease, plan: Plan) -> tuple[Peer, ...]:
        """Return the peers that `lease` makes; raises `BadLease`."""
        ...


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A lease that is good in itself. Smaller rank wins; peers by plan name."""

    rank: tuple[bool, int, str]
    peers: Mapping[str, tuple[Peer, ...]]
    prefixes: tuple[IPNetwork, ...]


class Desired:
    """The wanted peers of each plan, kept up to date lease by lease.

    Attributes:
        peers: wanted peers by plan name and prefix, our own subnet included.
        refused: reason by lease key.
        judged: keys that the last `update` looked at; of no other has the refusal changed.
    """

    def __init__(self, conf: NetConf, own: Lease, backend: LeaseMeaning, plans: Sequence[Plan]) -> None:
        self._conf = conf
        self._own = own
        self._backend = backend
        self._plans = plans
        self._claims = Claims()
        self._candidates: dict[str, _Candidate] = {}
        self._accepted: dict[str, _Candidate] = {}
        self.refused: dict[str, str] = {}
        self.judged: set[str] = set()
        self.peers: dict[str, dict[IPNetwork, Peer]] = {
            plan.name: {peer.prefix: peer for peer in plan.local_peers} for plan in plans
        }

    @property
    def accepted(self) -> int:
        """How many leases of other nodes are in use."""
        return len(self._accepted)

    def update(self, changed: Mapping[str, Lease | None]) -> dict[str, Change]:
        """Take in leases that changed (None: gone) and return the change of each plan's peers that has one."""
        affected: set[str] = set()
        for key, lease in changed.items():
            affected |= self._consider(key, lease)
        self.judged = affected
        before: dict[str, dict[IPNetwork, Peer | None]] = {plan.name: {} for plan in self._plans}
        for key in affected:
            self._place(before, key, self._accepted.pop(key, None), leave=True)
        for key in affected:
            candidate = self._candidates.get(key)
            if candidate is None:
                continue
            better = self._better_than(key, candidate)
            if better is not None:
                self.refused[key] = better
                continue
            self.refused.pop(key, None)
            self._accepted[key] = candidate
            self._place(before, key, candidate, leave=False)
        changes = {}
        for name, touched in before.items():
            observed = {prefix: peer for prefix, peer in touched.items() if peer is not None}
            if change := diff(observed, self.peers[name], touched):
                changes[name] = change
        return changes

    def _consider(self, key: str, lease: Lease | None) -> set[str]:
        """Replace the candidate of `key`; return the keys whose acceptance may have changed by that."""
        affected = {key}
        old = self._candidates.pop(key, None)
        self.refused.pop(key, None)
        if old is not None:
            for prefix in old.prefixes:
                self._claims.drop(prefix, key)
                affected.update(self._claims.overlapping(prefix))
        if lease is None or key == self._own.key:
            return affected
        try:
            candidate = self._candidate(lease)
        except BadLease as error:
            self.refused[key] = error.reason
            return affected
        self._candidates[key] = candidate
        for prefix in candidate.prefixes:
            affected.update(self._claims.overlapping(prefix))
            self._claims.add(prefix, key)
        return affected

    def _candidate(self, lease: Lease) -> _Candidate:
        peers = {plan.name: self._backend.peers(self._conf, lease, plan) for plan in self._plans}
        prefixes = {peer.prefix for group in peers.values() for peer in group}
        longest = max((prefix.prefixlen for prefix in prefixes), default=0)
        return _Candidate((not self._is_regular(lease), -longest, lease.key), peers, tuple(prefixes))

    def _is_regular(self, lease: Lease) -> bool:
        conf = self._conf
        for subnet, enabled, length in (
            (lease.subnet, conf.enable_ipv4, conf.subnet_len),
            (lease.ipv6_subnet, conf.enable_ipv6, conf.ipv6_subnet_len),
        ):
            if (subnet is not None) != enabled:
                return False
            # Length 0: the store (Kubernetes) does not say.
            if subnet is not None and length and subnet.prefixlen != length:
                return False
        return True

    def _better_than(self, key: str, candidate: _Candidate) -> str | None:
        for prefix in candidate.prefixes:
            for other in self._claims.overlapping(prefix):
                if other != key and self._candidates[other].rank < candidate.rank:
                    return f"its subnet {prefix} overlaps lease {other}, which takes precedence"
        return None

    def _place(
        self, before: dict[str, dict[IPNetwork, Peer | None]], key: str, candidate: _Candidate | None, *, leave: bool
    ) -> None:
        """Put the candidate's peers into the tables, or take them out, remembering what each prefix held before."""
        for name, peers in candidate.peers.items() if candidate else ():
            table = self.peers[name]
            for peer in peers:
                before[name].setdefault(peer.prefix, table.get(peer.prefix))
                if leave:
                    table.pop(peer.prefix, None)
                else:
                    table[peer.prefix] = peer
