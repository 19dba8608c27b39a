"""What the forwarding tables should hold: leases and backend in, peers by prefix and refusals by key out.

Pure, and incremental: a change of one lease costs work in proportion to what it touches. How it works: each lease is
judged against those in use only. One that claims what an older one holds is refused and waits for that one; one that
is older than the holders displaces them, and whoever waited for what is displaced or gone is judged again. What must
stay true:
- of leases that claim one thing (overlapping prefixes, a VTEP MAC, a public address) the older stays, whole, and who
  comes later is refused, whole, and named with the lease that it collides with; that nobody claims what is ours is the
  backend's check;
- where the store knows ages, the result depends on the set of leases only, never on the order in which they came, so
  that every node isolates the same lease; of leases of one age the one in use stays, then the smaller key;
- `step` does a bounded piece of work, whatever leases there are;
- our own lease is never a peer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Protocol

from dataplane.backends.base import Plan
from dataplane.errors import BadLease, OursClaimed
from dataplane.leases.claims import Claims
from dataplane.leases.diff import Change, diff
from dataplane.model import Born, IPNetwork, Lease, NetConf, Peer

_breath = 64  # leases looked at, of the cheap kind, for one unit of work


class LeaseMeaning(Protocol):
    """The part of a backend that says what a lease means for one of our plans."""

    def peers(self, conf: NetConf, lease: Lease, plan: Plan) -> tuple[Peer, ...]:
        """Return the peers that `lease` makes; raises `BadLease`."""
        ...

    def mismatch(self, lease: Lease, plan: Plan) -> str:
        """Return what such a lease tells of a node configured otherwise than we are; "" for nothing."""
        ...


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A lease that is good in itself; peers by plan name; what it claims besides prefixes, as (what, value).

    `mismatch` is the first of its plans' that is one.
    """

    born: Born
    peers: Mapping[str, tuple[Peer, ...]]
    prefixes: tuple[IPNetwork, ...]
    things: tuple[tuple[str, object], ...]
    mismatch: str


class Desired:
    """The wanted peers of each plan, kept up to date lease by lease.

    Attributes:
        peers: wanted peers by plan name and prefix, our own subnet included.
        refused: reason by lease key.
        mismatched: by the key of a lease in use, what tells of a node configured otherwise than we are.
        elders: reason by the key of a lease that claims what is ours and is older, so that others refuse ours.
        judged: keys that the last `step` or `update` looked at; of no other has one of the two changed.
    """

    def __init__(self, conf: NetConf, own: Lease, backend: LeaseMeaning, plans: Sequence[Plan]) -> None:
        self._conf = conf
        self._own = own
        self._backend = backend
        self._plans = plans
        self._changed: dict[str, Lease | None] = {}
        self._fresh: list[tuple[Born, str]] = []  # heaps: what changed goes before what is only judged again
        self._again: list[tuple[Born, str]] = []
        self._candidates: dict[str, _Candidate] = {}
        self._accepted: dict[str, _Candidate] = {}
        self._waiting: dict[str, dict[str, None]] = {}  # keys by the key that they wait for
        self._waits: dict[str, str] = {}  # the reverse
        self._prefixes = Claims()  # of accepted leases, as is the next
        self._things: dict[tuple[str, object], str] = {}
        self._before: dict[str, dict[IPNetwork, Peer | None]] = {}
        self._work: Iterator[None] = iter(())
        self.refused: dict[str, str] = {}
        self.mismatched: dict[str, str] = {}
        self.elders: dict[str, str] = {}
        self._own_born = own.born
        self._claims: dict[str, tuple[Born, str]] = {}  # of what is ours
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
        self.note(changed)
        return self.step(None)[1]

    def note(self, changed: Mapping[str, Lease | None]) -> None:
        """Take in leases that changed (None: gone), to be worked on by `step`."""
        for key, lease in changed.items():
            self._changed[key] = lease
            heappush(self._fresh, (lease.born if lease is not None else (-1.0, ""), key))

    def step(self, units: int | None) -> tuple[bool, dict[str, Change]]:
        """Do so many units of work (None: all), some 30 µs each.

        Returns:
            Whether all is done, and the change of each plan's peers that has one.
        """
        self.judged = set()
        self._before = {plan.name: {} for plan in self._plans}
        done = self._run(units)
        changes = {}
        for name, touched in self._before.items():
            observed = {prefix: peer for prefix, peer in touched.items() if peer is not None}
            if change := diff(observed, self.peers[name], touched):
                changes[name] = change
        return done, changes

    def _run(self, units: int | None) -> bool:
        while units is None or units > 0:
            for _ in self._work:
                if units is not None and (units := units - 1) <= 0:
                    return False
            if not self._fresh and not self._again:
                return True
            _, key = heappop(self._fresh or self._again)
            self._work = self._consider(key)
        return False

    def _consider(self, key: str) -> Iterator[None]:
        yield
        if key in self._changed:
            lease = self._changed.pop(key)
            reason = candidate = claim = None
            if lease is not None and key == self._own.key:
                self._grow_old(lease.born)
            elif lease is not None:
                try:
                    candidate = self._candidate(lease)
                except OursClaimed as error:
                    reason, claim = error.reason, (lease.born, error.reason)
                except BadLease as error:
                    reason = error.reason
            self._claim_ours(key, claim)
            if candidate is not None and candidate == self._candidates.get(key):
                return  # a renewal: whoever waits goes on waiting
            self._candidates.pop(key, None)
            self._refuse(key, reason)
            yield from self._leave(key)
            if candidate is None:
                return
            self._candidates[key] = candidate
        candidate = self._candidates.get(key)
        if candidate is None or key in self._accepted or key in self._waits:
            return
        younger: dict[str, str] = {}
        for number, (other, what) in enumerate(self._colliding(candidate)):
            if self._accepted[other].born <= candidate.born:
                self._wait(key, other, what)
                return
            younger[other] = what
            if number % _breath == _breath - 1:
                yield
        for other in younger:
            yield from self._leave(other)
            heappush(self._again, (self._candidates[other].born, other))
            yield
        self._accept(key, candidate)

    def _grow_old(self, born: Born) -> None:
        """Take in how old our own lease is."""
        if born != self._own_born:
            self._own_born = born
            for key, claim in list(self._claims.items()):
                self._claim_ours(key, claim)

    def _claim_ours(self, key: str, claim: tuple[Born, str] | None) -> None:
        self._claims.pop(key, None)
        self.elders.pop(key, None)
        if claim is not None:
            self._claims[key] = claim
            if claim[0] < self._own_born:
                self.elders[key] = claim[1]

    def _candidate(self, lease: Lease) -> _Candidate:
        peers = {plan.name: self._backend.peers(self._conf, lease, plan) for plan in self._plans}
        prefixes: dict[IPNetwork, None] = {}
        things: dict[tuple[str, object], None] = {}
        for plan in self._plans:
            for peer in peers[plan.name]:
                prefixes[peer.prefix] = None
                things["public address", peer.next_hop] = None
                if any(peer.vtep_mac):
                    things[f"IPv{plan.underlay_family} VTEP MAC", peer.vtep_mac] = None
        told = (self._backend.mismatch(lease, plan) for plan in self._plans if peers[plan.name])
        return _Candidate(lease.born, peers, tuple(prefixes), tuple(things), next(filter(None, told), ""))

    def _colliding(self, candidate: _Candidate) -> Iterator[tuple[str, str]]:
        """Yield the accepted leases that hold something of what the candidate claims, and what that is."""
        for thing in candidate.things:
            holder = self._things.get(thing)
            if holder is not None:
                what, value = thing
                yield holder, f"its {what} {value.hex(':') if isinstance(value, bytes) else value} is that of"
        for prefix in candidate.prefixes:
            for holder in self._prefixes.overlapping(prefix):
                yield holder, f"its subnet {prefix} overlaps"

    def _wait(self, key: str, other: str, what: str) -> None:
        self._waiting.setdefault(other, {})[key] = None
        self._waits[key] = other
        self._refuse(key, f"{what} lease {other}, which was there first")

    def _refuse(self, key: str, reason: str | None) -> None:
        self.judged.add(key)
        if reason is None:
            self.refused.pop(key, None)
        else:
            self.refused[key] = reason

    def _accept(self, key: str, candidate: _Candidate) -> None:
        self._refuse(key, None)
        self._accepted[key] = candidate
        if candidate.mismatch:
            self.mismatched[key] = candidate.mismatch
        for prefix in candidate.prefixes:
            self._prefixes.add(prefix, key)
        for thing in candidate.things:
            self._things[thing] = key
        self._place(candidate, leave=False)

    def _leave(self, key: str) -> Iterator[None]:
        """Take a lease out of use, if it is; whoever waited for it is to be judged again."""
        blocker = self._waits.pop(key, None)
        if blocker is not None:
            waiting = self._waiting[blocker]
            del waiting[key]
            if not waiting:
                del self._waiting[blocker]
        candidate = self._accepted.pop(key, None)
        if candidate is None:
            return
        self.mismatched.pop(key, None)
        self.judged.add(key)
        for prefix in candidate.prefixes:
            self._prefixes.drop(prefix, key)
        for thing in candidate.things:
            del self._things[thing]
        self._place(candidate, leave=True)
        for number, other in enumerate(self._waiting.pop(key, ())):
            del self._waits[other]
            heappush(self._again, (self._candidates[other].born, other))
            if number % _breath == _breath - 1:
                yield

    def _place(self, candidate: _Candidate, *, leave: bool) -> None:
        """Put the candidate's peers into the tables, or take them out, remembering what each prefix held before."""
        for name, peers in candidate.peers.items():
            table, before = self.peers[name], self._before[name]
            for peer in peers:
                before.setdefault(peer.prefix, table.get(peer.prefix))
                if leave:
                    table.pop(peer.prefix, None)
                else:
                    table[peer.prefix] = peer
