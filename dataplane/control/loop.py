"""The control loop: leases come in, forwarding tables, devices and routes follow.

How it works: `slices` folds the store's events, which `watching` brings, and publishes what they change at once;
`program` does what of that takes the kernel's help; `resync` compares host and devices with the plan whenever the kernel
reports a change, when a worker failed, and on a timer. What must stay true: a single event's way from the store to the
core's table has no await in it, many are taken in slices so that everything else has its turn.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Protocol

from dataplane.backends.base import Plan
from dataplane.errors import CoreError, HostError, HostFault
from dataplane.keepers.base import Keeper
from dataplane.leases.desired import Desired, LeaseMeaning
from dataplane.leases.refusals import Refusals
from dataplane.leases.view import LeaseView
from dataplane.model import IPNetwork, Lease, NetConf, Peer, SecondWriter, Snapshot, WatchEvent
from dataplane.observe.state import NodeState
from dataplane.runtime import collector
from dataplane.runtime.clock import Clock
from dataplane.runtime.pieces import piece, pieces_of
from dataplane.runtime.say import Say

log = logging.getLogger(__name__)

look_s = 0.5  # how often failed workers are looked for; costs no system call
resync_s = 10.0
again_s = 1.0  # while a keeper could not do what it should
settle_s = 0.1  # between two looks at the host, so that a busy node's changes cost little
settle_share = 4  # or this many times what the last look took: with many routes one takes long
longest_settle_s = 2.0
few_leases = 10_000  # are gone through by the garbage collector in 20 ms or so
listen_again_s = 5.0


class Changes(Protocol):
    """The part of `host.netlink.Host` that tells of changes."""

    def changes(self) -> AsyncIterator[None]:
        """Yield at every change of links, addresses or routes."""
        ...


class Control:
    """Everything between the store and the devices of one node.

    Args:
        keep: makes the keepers of one plan, given the peers that are wanted there.
        doubt: called when the store no longer shows our lease as ours.
        contested: called with our lease as somebody else wrote it.
    """

    def __init__(
        self,
        conf: NetConf,
        own: Lease,
        backend: LeaseMeaning,
        plans: Sequence[Plan],
        *,
        keep: Callable[[Plan, Mapping[IPNetwork, Peer]], Sequence[Keeper]],
        state: NodeState,
        clock: Clock,
        doubt: Callable[[], None],
        contested: Callable[[Lease], None],
    ) -> None:
        self.view = LeaseView()
        self.synced = asyncio.Event()
        self._own = own
        self._desired = Desired(conf, own, backend, plans)
        self._state = state
        self._clock = clock
        self._doubt = doubt
        self._contested = contested
        self._unsettled = 0  # leases worked on since `collector.settle`
        self._never = asyncio.Event()
        self._touched = asyncio.Event()
        self._changed = asyncio.Event()
        self._standing = asyncio.Event()
        self._say = Say(log)
        self._refusals = Refusals(
            state, state.refused, what="is not used", many="are refused", over="is no longer refused"
        )
        self._mismatches = Refusals(
            state,
            state.mismatched,
            what="is of a node configured otherwise",
            many="are of nodes configured otherwise",
            over="is no longer that of a node configured otherwise",
        )
        self.keepers = {plan.name: keep(plan, self._desired.peers[plan.name]) for plan in plans}

    @property
    def _every(self) -> list[Keeper]:
        return [keeper for keepers in self.keepers.values() for keeper in keepers]

    async def open(self, *, first: bool = True) -> None:
        """Build every device. What does not succeed now is left to `resync`, which `stand` waits for.

        Args:
            first: no life of ours stood before.
        Raises:
            HostFault: on a first start, what a person must mend.
        """
        for name, keepers in self.keepers.items():
            for keeper in keepers:
                try:
                    await keeper.open()
                except (HostError, CoreError) as error:
                    if first and isinstance(error, HostFault):
                        raise
                    self._state.blockers[f"open {name}"] = f"{name}: {error}"
                    self._say.warn(f"open {name}", f"{name}: {error}; trying again", self._clock.now())

    async def stand(self) -> None:
        """Wait until every device and route was found in place, or put there, by `resync`."""
        self._standing.clear()
        self._touched.set()
        await self._standing.wait()

    async def close(self) -> None:
        """Let go of every device."""
        for keeper in self._every:
            await keeper.close()

    async def withdraw(self) -> None:
        """Take everything away: nothing may be forwarded any more for a lease that is lost."""
        for keeper in self._every:
            try:
                await keeper.withdraw()
            except HostError as error:
                log.warning("%s", error)

    def ends(self) -> dict[str, float]:
        """Unix times at which leases end, by prefix, of those that say so; our own among them."""
        leases = (self._state.lease or self._own, *self.view.leases.values())
        return {str(net): lease.expires for lease in leases if lease.expires is not None for net in lease.subnets}

    async def ensure(self) -> None:
        """Look at everything and put back what is missing."""
        for keeper in self._every:
            await keeper.ensure()
        self._state.drops()  # some can be told best at moments when nothing is under way: the more looks the better

    def take(self, *events: WatchEvent) -> None:
        """Take in events of the watch, to the forwarding tables, each of which changes once."""
        for _ in self.slices(events, None):
            pass

    def slices(self, events: Sequence[WatchEvent], units: int | None) -> Iterator[None]:
        """Do the same in slices of so many units of work, between which everything else may have its turn."""
        listed = [len(event.leases) for event in events if isinstance(event, Snapshot)]
        if listed and sum(listed) + len(self.view.leases) <= few_leases:
            collector.settle_anew()
            yield
        changed: set[str] = set()
        for event in events:
            if isinstance(event, SecondWriter):
                self._contested(event.lease)
            for folded in self.view.pieces(event):
                changed |= folded
                if len(folded) != 1:
                    self._unsettled += piece
                    yield
                    yield from self._settle()
        self._unsettled += len(events)
        for keys in pieces_of(changed):
            self._desired.note({key: self.view.leases.get(key) for key in keys})
            if len(keys) == piece:
                yield
        done = False
        while not done:
            done, changes = self._desired.step(units)
            for name, change in changes.items():
                for keeper in self.keepers[name]:
                    keeper.publish(change)
                self._changed.set()
            self._refusals.update(self._desired.judged, self.view.refused, self._desired.refused)
            self._mismatches.update(self._desired.judged, self._desired.mismatched)
            self._state.leases = self._desired.accepted
            self._unsettled += len(self._desired.judged)
            if not done:
                yield
            yield from self._settle()
        self._tell_elder()
        if self._own.key in changed or not self.synced.is_set():
            self._check_own()
        self.synced.set()

    def _tell_elder(self) -> None:
        elder = next(iter(self._desired.elders.items()), None)
        if elder is None:
            self._state.blockers.pop("elder", None)
        else:
            self._state.blockers["elder"] = (
                f"other nodes refuse our lease {self._own.key}: lease {elder[0]} was there first, and {elder[1]}"
            )

    def _settle(self) -> Iterator[None]:
        """Have the garbage collector never look again at what stays of many leases."""
        if self._unsettled >= collector.piece:
            self._unsettled = 0
            collector.settle()
            yield

    def _check_own(self) -> None:
        shown = self.view.leases.get(self._own.key)
        if shown is None or shown.attrs != self._own.attrs:
            self._state.blockers["lease"] = f"the store does not show lease {self._own.key} as ours"
            self._doubt()
        else:
            self._state.blockers.pop("lease", None)

    async def program(self) -> None:
        """Give the kernel its part of what `take` published, for ever."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            for keeper in self._every:
                await keeper.flush()

    async def listen(self, host: Changes) -> None:
        """Wake `resync` at every change that the kernel reports, for ever."""
        while True:
            try:
                async for _ in host.changes():
                    self._touched.set()
            except HostError as error:
                self._say.warn("listen", f"{error}; looking every {resync_s:.0f} s instead", self._clock.now())
            await self._clock.wait(self._never, listen_again_s)

    def _troubled(self) -> bool:
        """Whether a keeper has no device, or could not make all as it should be."""
        told = (f"{what} {name}" for what in ("device", "routes") for name in self.keepers)
        return any(keeper.failed for keeper in self._every) or any(what in self._state.blockers for what in told)

    async def resync(self) -> None:
        """Keep the devices as planned, for ever, once the peers are known: until then all that there is stays."""
        await self.synced.wait()
        due = self._clock.now() + resync_s
        while True:
            touched = await self._clock.wait(self._touched, look_s)
            # A rest longer than the interval means that the clock was set back.
            resting = 0 < due - self._clock.now() <= resync_s
            if not touched and resting and not any(keeper.failed for keeper in self._every):
                continue
            self._touched.clear()
            begun = self._clock.now()
            await self.ensure()
            troubled = self._troubled()
            if not troubled:
                self._standing.set()
                for name in self.keepers:
                    self._state.blockers.pop(f"open {name}", None)
            due = self._clock.now() + (again_s if troubled else resync_s)
            rest = settle_share * (self._clock.now() - begun)
            await self._clock.wait(self._never, min(max(settle_s, rest), longest_settle_s))
