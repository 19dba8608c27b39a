"""Keeps the filter in front of a kernel vxlan device equal to the leases, and says what it does.

The BPF filter where the kernel takes one; else a set of leased senders, which checks who sends and not what. What must
stay true: where neither stands the node works on, but status and log say so; a filter of an earlier life is replaced only
by one that knows all the leases, and stays no longer than something that follows them can take its place.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import suppress

from pyroute2 import IPRoute

from dataplane.errors import HostError
from dataplane.host.admission import device_filter, senders_iptables, senders_nft
from dataplane.host.admission.checks import Guarded
from dataplane.host.admission.device_filter import Admission
from dataplane.host.firewall.netfilter import watch_rules
from dataplane.host.netlink import Host
from dataplane.keepers import senders
from dataplane.keepers.senders import Senders
from dataplane.model import IPNetwork, Peer
from dataplane.observe.state import DeviceState, NodeState
from dataplane.runtime.pieces import paced
from dataplane.runtime.say import Say

log = logging.getLogger(__name__)

full, sender_only, none = "full", "sender only", "none"
count_rest_s = 0.5  # whoever may scrape must not have tools run at will
settle_s = 0.2  # between two looks at the set of senders; doubles while somebody fights us
longest_settle_s = 10.0


class AdmissionKeeper:
    """The filter of one device, kept.

    Args:
        wanted: the device's peers, our own subnets (without a next hop) included; read at each call.
        seen: where it says what stands.
    """

    def __init__(
        self, guarded: Guarded, wanted: Mapping[IPNetwork, Peer], host: Host, state: NodeState, seen: DeviceState
    ) -> None:
        self._guarded = guarded
        self._wanted = wanted
        self._host = host
        self._state = state
        self._seen = seen
        self._say = Say(log)
        self._admission: Admission | None = None
        self._means = ""
        self._before: Counter[str] = Counter()  # dropped by filters that are no more
        self._senders = Senders(guarded.link, wanted, state)
        self._senders_may_be = True  # of an earlier life
        self._fallen = asyncio.Event()
        self._counted_at = -count_rest_s
        self._busy = asyncio.Lock()
        state.recounts[guarded.link.name] = self._count

    async def change(self, prefixes: Collection[IPNetwork]) -> None:
        """Let in what is wanted of these prefixes, and nothing else of them."""
        async with self._busy:
            current = self._admission
            if current is None:
                try:
                    await self._senders.change(prefixes)
                except HostError as error:
                    self._tell(none, f"the kernel does not check senders (none): {error}")
                return
            # A copy, as in `ensure`: the work is done in a thread, while leases go on changing.
            wanted = {prefix: self._wanted[prefix] async for prefix in paced(prefixes) if prefix in self._wanted}
            try:
                await self._host.ask(self._what, lambda _: current.change(prefixes, wanted))
            except HostError as error:
                await self._fall_back(error)

    async def ensure(self, interface: int) -> None:
        """Attach the filter at the interface if it is not there, with all that is wanted.

        Raises:
            HostError: the kernel does not say which addresses are ours.
        """
        local = await self._host.local_destinations(self._guarded.link.local.version)
        async with self._busy:
            wanted = dict(self._wanted)
            try:
                await self._host.ask(self._what, lambda netlink: self._ensure(netlink, interface, local, wanted))
            except HostError as error:
                await self._fall_back(error)
            else:
                await self._stand()

    async def remove(self) -> None:
        """Take the filter away, wherever it is; raises `HostError`."""
        async with self._busy:
            self.close()
            await self._senders.remove()
            await device_filter.remove(self._host, self._guarded.link.name)

    def close(self) -> None:
        """Leave the filter as it is."""
        if self._admission is not None:
            with suppress(HostError):
                self._before.update(self._admission.drops())
            self._admission.close()
            self._admission = None

    def drops(self) -> dict[str, int]:
        """Packets dropped by reason; by the set of senders, as of the last look."""
        now = Counter({} if self._admission is None else self._admission.drops())
        now.update(self._before)
        now["receive_unknown_sender"] += self._senders.dropped
        return dict(now)

    async def watch(self) -> None:
        """Look at the set of senders whenever the kernel reports that somebody changed it, for ever."""
        await self._fallen.wait()
        name = self._guarded.link.name
        rest = settle_s
        async for _ in watch_rules((senders_nft.mark(name), *senders_iptables.marks(name))):
            async with self._busy:
                try:
                    healed = await self._senders.heal()
                except HostError as error:
                    healed = True
                    self._tell(none, f"the kernel does not check senders (none): {error}")
            await asyncio.sleep(rest)
            rest = min(longest_settle_s, 2 * rest) if healed else settle_s

    @property
    def _what(self) -> str:
        return f"filter what comes to {self._guarded.link.name}"

    def _ensure(
        self, netlink: IPRoute, interface: int, local: frozenset[IPNetwork], wanted: Mapping[IPNetwork, Peer]
    ) -> None:
        if self._admission is not None:
            self._admission.listen_at(local)
            self._admission.change({*wanted, *self._admission.held}, wanted)
            if self._admission.is_attached(netlink, interface):
                return
            self._means = self._admission.attach(netlink, interface)
            self._state.events["repairs"] += 1
            return
        made = Admission(self._guarded)
        try:
            made.listen_at(local)
            made.change(wanted, wanted)
            self._means = made.attach(netlink, interface)
        except HostError:
            made.close()
            raise
        self._admission = made

    async def _stand(self) -> None:
        """The BPF filter stands: the set of senders is not needed any more."""
        if self._senders_may_be:
            try:
                await self._senders.remove()
            except HostError as error:
                self._tell(full, f"the set of senders of before cannot be removed: {error}")
                return
            self._senders_may_be = False
        self._tell(full)

    async def _fall_back(self, refusal: HostError) -> None:
        """The BPF filter cannot be had, or cannot follow the leases: the set of senders takes its place."""
        self.close()
        self._senders_may_be = True
        try:
            await self._senders.ensure()
            # Only now, so that no stranger gets in between.
            await device_filter.remove(self._host, self._guarded.link.name)
        except HostError as error:
            self._tell(none, f"the kernel does not check senders (none): {refusal}; {error}")
        else:
            means = f"senders are checked against the leases ({sender_only}, {self._senders.means})"
            self._tell(sender_only, f"{means}, but not what they send: {refusal}")
        self._fallen.set()

    async def _count(self) -> None:
        """For who asks now."""
        now = self._state.now()
        if not self._senders.means or self._busy.locked() or abs(now - self._counted_at) < count_rest_s:
            return  # a look counts too
        self._counted_at = now
        async with self._busy:
            try:
                await self._senders.count()
            except HostError as error:
                self._say.warn("count", f"dropped packets cannot be counted: {error}", now)

    def _tell(self, stands: str, problem: str = "") -> None:
        name = self._guarded.link.name
        subject = f"admission {name}"
        if problem:
            self._state.notes[subject] = f"{name}: {problem}"
            self._say.warn(subject, f"{name}: {problem}", self._state.now())
        else:
            self._state.notes.pop(subject, None)
            self._say.over(subject, f"{name}: senders are checked again, and what they send")
        if stands == full and self._seen.admission != full:
            log.info("%s: senders are checked against the leases (BPF, %s)", name, self._means)
        self._seen.admission = stands


async def remove(host: Host, device: str) -> list[str]:
    """Take away what stands in front of a device, whoever's life left it; returns what it was. Raises `HostError`."""
    done = [f"filter of {device} at {interface}" for interface in await device_filter.remove(host, device)]
    if await senders.remove(device):
        done.append(f"set of senders of {device}")
    return done
