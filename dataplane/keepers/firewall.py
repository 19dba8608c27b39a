"""Keeps the masquerade, forward and encapsulation rules: puts them in at start, looks whether they are there, puts them back.

nftables where the configuration says EnableNFTables, otherwise iptables, or nftables where iptables is not installed.
What must stay true: with --ip-masq there is no start without the rules; a failure later never ends the daemon; the
rules stay when it stops, as flannel's do; what we change ourselves is looked at once more and then left in peace.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, Protocol

from dataplane.errors import HostError, HostFault
from dataplane.flannel.subnet_env import SubnetEnv
from dataplane.host.firewall import iptables, nftables
from dataplane.host.firewall.netfilter import watch_rules
from dataplane.host.firewall.rules import Encap, Wanted, overlays
from dataplane.model import Lease, NetConf
from dataplane.observe.state import NodeState
from dataplane.runtime.clock import Clock
from dataplane.runtime.say import Say
from dataplane.runtime.tasks import spawn

log = logging.getLogger(__name__)

settle_s = 0.2  # between two looks
prompt_repairs = 8  # in a row; then somebody fights us, and the rest doubles with each, up to the interval
listen_again_s = 5.0
count_rest_s = 0.5  # whoever may scrape must not have tools run at will
both_versions = (4, 6)

Remove = Callable[[Iterable[int]], Coroutine[Any, Any, None]]


class Mechanism(Protocol):
    """What makes the rules: `host.nftables.Nftables` or `host.iptables.Iptables`."""

    name: str

    async def apply(self) -> None:
        """Put every rule in, at once; raises `HostError`."""
        ...

    async def intact(self) -> bool:
        """Say whether they are still there as put in; raises `HostError`."""
        ...

    async def dropped(self) -> int:
        """Return how many packets they dropped since they were put in; raises `HostError`."""
        ...


class Firewall:
    """The rules of one node.

    Args:
        random_fully: whether masqueraded connections get random source ports.
        resync_s: seconds between two looks at the rules where the kernel reports no change.
        previous: what subnet.env said of an earlier life.
        encap: where encapsulation may arrive; None: no rules about it.
    """

    def __init__(
        self,
        conf: NetConf,
        own: Lease,
        *,
        masquerade: bool,
        forward: bool,
        random_fully: bool,
        resync_s: float,
        previous: SubnetEnv,
        state: NodeState,
        clock: Clock,
        encap: Encap | None = None,
    ) -> None:
        self._wanted = Wanted(masquerade, forward, random_fully, overlays(conf, own), encap)
        self._enable_nftables = conf.enable_nftables
        self._resync_s = resync_s
        self._previous = previous
        self._state = state
        self._clock = clock
        self._mechanism: Mechanism | None = None
        self._touched = asyncio.Event()
        self._never = asyncio.Event()
        self._say = Say(log)
        self._dropped = 0  # at the last look, by the rules that are there now
        self._counted_at = -count_rest_s
        self._busy = asyncio.Lock()
        state.recounts["firewall"] = self.count

    async def open(self, *, first: bool = True) -> None:
        """Put the rules in and take away what an earlier life left.

        Raises:
            HostFault: on a first start, if a person must mend something, and masquerade rules are wanted. All else
                `ensure` tries again.
        """
        try:
            await self._start()
        except HostError as error:
            if self._wanted.masquerade and isinstance(error, HostFault) and first:
                raise
            self._failed(error)

    async def ensure(self) -> bool:
        """Put the rules back if they are not as they should be; return whether that was needed and done."""
        if not self._wanted:
            return False
        repaired = False
        try:
            if self._mechanism is None:
                await self._start()
            elif not await self._mechanism.intact():
                async with self._busy:
                    await self._count()
                    await self._mechanism.apply()
                    self._dropped = 0
                repaired = True
                self._state.events["repairs"] += 1
                text = f"somebody removed or changed the firewall rules; they are back ({self._mechanism.name})"
                self._say.warn("repair", text, self._clock.now())
        except HostError as error:
            self._failed(error)
        else:
            self._problems().pop("firewall", None)
            self._say.over("failure", "the firewall rules are in place again")
        return repaired

    async def run(self) -> None:
        """Look at the rules at every change that the kernel reports, and on a timer, for ever."""
        async with asyncio.TaskGroup() as group:
            spawn(group, "firewall resync", self._state, self._resync)
            spawn(group, "firewall listen", self._state, self._listen)

    async def _resync(self) -> None:
        row = 0
        while True:
            await self._clock.wait(self._touched, self._resync_s)
            self._touched.clear()
            await self.count()
            row = min(row + 1, 30) if await self.ensure() else 0
            rest = settle_s * 2 ** max(0, row - prompt_repairs)
            await self._clock.wait(self._never, min(rest, self._resync_s))

    async def _count(self) -> None:
        """Add to the node's drops what the rules dropped since the last look."""
        if self._mechanism is None or self._wanted.encap is None:
            return
        self._counted_at = self._clock.now()
        now = await self._mechanism.dropped()
        # Less than before: rules went, and with them their counts; what is left was added already.
        self._state.firewall_drops += max(0, now - self._dropped)
        self._dropped = now

    async def count(self) -> None:
        """Bring the count of dropped packets up to date, for who asks now."""
        if abs(self._clock.now() - self._counted_at) < count_rest_s:
            return
        try:
            async with self._busy:
                await self._count()
        except HostError as error:
            self._say.warn("count", f"dropped packets cannot be counted: {error}", self._clock.now())

    async def _listen(self) -> None:
        while True:
            try:
                async for _ in watch_rules((*nftables.marks, *iptables.marks)):
                    self._touched.set()
            except HostError as error:
                self._say.warn("listen", f"{error}; looking every {self._resync_s:.0f} s", self._clock.now())
            await self._clock.wait(self._never, listen_again_s)

    async def _start(self) -> None:
        if not self._wanted:
            if self._outdated():
                await _remove_quietly(nftables.remove, self._known_versions())
                await _remove_quietly(iptables.remove, self._known_versions())
            return
        mechanism, ours, other = self._choose()
        await mechanism.apply()
        self._mechanism = mechanism
        log.info("firewall rules are in place (%s)", mechanism.name)
        # Only now, so that no packet finds neither the old rules nor the new.
        await _remove_quietly(other, self._known_versions())
        await _remove_quietly(ours, self._known_versions() - self._enabled_versions())

    def _choose(self) -> tuple[Mechanism, Remove, Remove]:
        """Return the mechanism, how to remove its rules, and how to remove the other's."""
        if not self._enable_nftables:
            if iptables.available(self._enabled_versions()):
                return iptables.Iptables(self._wanted), iptables.remove, _remove_all_but_iptables
            if nftables.available():
                log.info("iptables is not installed: the firewall rules are made by nftables")
            else:
                raise HostFault("neither iptables nor nft is installed: install the package iptables or nftables")
        return nftables.Nftables(self._wanted), nftables.remove, iptables.remove

    def _outdated(self) -> bool:
        """Say whether rules of an earlier life would be wrong now, though none are wanted."""
        previous = self._previous
        now = {(overlay.network, overlay.subnet) for overlay in self._wanted.overlays}
        before = {(previous.network, previous.subnet), (previous.ipv6_network, previous.ipv6_subnet)} - {(None, None)}
        return previous.ip_masq or not before <= now

    def _enabled_versions(self) -> set[int]:
        return {overlay.version for overlay in self._wanted.overlays}

    def _known_versions(self) -> set[int]:
        """Return the IP versions that are enabled or were in an earlier life; nothing of another is touched."""
        pairs = ((4, self._previous.network), (6, self._previous.ipv6_network))
        return self._enabled_versions() | {version for version, network in pairs if network is not None}

    def _problems(self) -> dict[str, str]:
        # Without the forward rules most hosts work: forwarding is refused only by a policy that somebody set.
        return self._state.blockers if self._wanted.masquerade else self._state.notes

    def _failed(self, error: HostError) -> None:
        text = f"the firewall rules cannot be put in: {error}"
        self._problems()["firewall"] = text
        self._say.warn("failure", text, self._clock.now())


async def remove() -> None:
    """Remove the rules of both mechanisms and IP versions, ours and flannel's; what is not there is no failure.

    Raises:
        HostError: something is there and could not be removed; everything else is.
    """
    errors = []
    for version in both_versions:
        for remove_rules in (nftables.remove, iptables.remove):
            try:
                await remove_rules((version,))
            except HostError as error:
                errors.append(str(error))
    if errors:
        raise HostError("; ".join(errors))


async def _remove_all_but_iptables(versions: Iterable[int]) -> None:
    """Remove what iptables, in the form in use, does not see; raises `HostError`."""
    versions = tuple(versions)
    await nftables.remove(versions)
    await iptables.remove_others(versions)


async def _remove_quietly(remove_rules: Remove, versions: Iterable[int]) -> None:
    """Remove rules of an earlier life; a failure is no reason not to start."""
    for version in sorted(versions):
        try:
            await remove_rules((version,))
        except HostError as error:
            log.warning("firewall rules of an earlier life are left: %s", error)
