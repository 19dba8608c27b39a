"""Keeps a set of leased senders in front of a kernel vxlan device, for hosts that refuse the BPF filter.

What must stay true: the set holds the underlay addresses of the wanted peers and no other; what somebody changed is put
back and counted; no count is lost when the rules are written anew.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import Protocol

from dataplane.errors import HostError
from dataplane.host.admission import senders_iptables, senders_nft
from dataplane.host.admission.senders_iptables import IptablesSenders
from dataplane.host.admission.senders_nft import NftSenders
from dataplane.host.firewall import iptables
from dataplane.model import IPAddress, IPNetwork, Peer, VxlanLink
from dataplane.observe.state import NodeState
from dataplane.runtime.say import Say

log = logging.getLogger(__name__)


class Mechanism(Protocol):
    """What holds the set: `NftSenders` or `IptablesSenders`; every method raises `HostError`."""

    name: str

    async def apply(self, senders: Collection[str]) -> None:
        """Let in these alone, whatever was there before; counts begin anew."""
        ...

    async def change(self, put: Collection[str], remove: Collection[str]) -> None:
        """Let in `put` too, and `remove` no more; all of these are news."""
        ...

    async def look(self, senders: Collection[str]) -> tuple[bool, int]:
        """Return whether all is as we left it with these senders, and how many packets were dropped since `apply`."""
        ...


class Senders:
    """The set of one device, kept. Every coroutine raises `HostError`.

    Args:
        wanted: the device's peers, our own subnets (without a next hop) included; read at each call.
    """

    def __init__(self, link: VxlanLink, wanted: Mapping[IPNetwork, Peer], state: NodeState) -> None:
        self._link = link
        self._wanted = wanted
        self._state = state
        self._say = Say(log)
        self._mechanism: Mechanism | None = None
        self._address_of: dict[IPNetwork, IPAddress] = {}
        self._leases: Counter[IPAddress] = Counter()  # how many prefixes are at an address
        self._senders: set[str] = set()
        self._counted = 0  # of `dropped`, by the rules that are there now
        self.dropped = 0

    @property
    def means(self) -> str:
        """By which tool the set stands; "": it does not."""
        return "" if self._mechanism is None else self._mechanism.name

    async def ensure(self) -> None:
        """Make the set, or compare it with what is wanted, and put back what somebody changed."""
        await asyncio.to_thread(self._take, (*self._wanted, *self._address_of))
        if self._mechanism is None:
            await self._make()
        elif not await self._look(self._mechanism):
            await self._put_back(self._mechanism)

    async def change(self, prefixes: Collection[IPNetwork]) -> None:
        """Make the set say of these prefixes what is wanted; nothing if there is no set."""
        mechanism = self._mechanism
        put, remove = await asyncio.to_thread(self._take, prefixes)
        if mechanism is None or not put | remove:
            return
        try:
            await mechanism.change(put, remove)
        except HostError:
            await self._put_back(mechanism)

    async def heal(self) -> bool:
        """Put back what somebody changed; return whether that was needed and done."""
        if self._mechanism is None or await self._look(self._mechanism):
            return False
        await self._put_back(self._mechanism)
        return True

    async def count(self) -> None:
        """Bring `dropped` up to date."""
        if self._mechanism is not None:
            await self._look(self._mechanism)

    async def remove(self) -> bool:
        """Take the set away, one of an earlier life too; returns whether there was one."""
        await self.count()
        self._mechanism = None
        return await remove(self._link.name, (self._link.local.version,))

    async def _make(self) -> None:
        """By nft, else by iptables, and what an earlier life left by the other goes."""
        version = self._link.local.version
        try:
            made: Mechanism = NftSenders(self._link)
            await made.apply(self._senders)
        except HostError as error:
            if not iptables.available((version,)):
                raise
            made = IptablesSenders(self._link)
            try:
                await made.apply(self._senders)
            except HostError as second:
                raise HostError(f"{error}; {second}") from second
            await senders_iptables.remove(self._link.name, (version,), others_alone=True)
        else:
            await senders_iptables.remove(self._link.name, (version,))
        self._mechanism, self._counted = made, 0

    async def _look(self, mechanism: Mechanism) -> bool:
        intact, dropped = await mechanism.look(self._senders)
        # Less than before: rules went, and with them their counts; what is left was added already.
        self.dropped += max(0, dropped - self._counted)
        self._counted = dropped
        return intact

    async def _put_back(self, mechanism: Mechanism) -> None:
        self._mechanism = None
        await mechanism.apply(self._senders)
        self._mechanism, self._counted = mechanism, 0
        self._state.events["repairs"] += 1
        text = f"{self._link.name}: somebody removed or changed the set of senders; it is back ({mechanism.name})"
        self._say.warn("repair", text, self._state.now())

    def _take(self, prefixes: Iterable[IPNetwork]) -> tuple[set[str], set[str]]:
        """Note what is wanted of these prefixes; return the addresses that are news, and those that are nobody's."""
        touched: set[IPAddress] = set()
        for prefix in prefixes:
            peer = self._wanted.get(prefix)
            old, new = self._address_of.get(prefix), peer.next_hop if peer is not None else None
            if old == new:
                continue
            if old is not None:
                self._leases[old] -= 1
                del self._address_of[prefix]
                touched.add(old)
            if new is not None:
                self._leases[new] += 1
                self._address_of[prefix] = new
                touched.add(new)
        put = {_text(address) for address in touched if self._leases[address] > 0}
        remove = {_text(address) for address in touched if self._leases[address] == 0}
        for address in touched:
            if self._leases[address] == 0:
                del self._leases[address]
        put, remove = put - self._senders, remove & self._senders
        self._senders = (self._senders | put) - remove
        return put, remove


async def remove(device: str, versions: Iterable[int] = (4, 6)) -> bool:
    """Take away the device's set, by whichever tool; returns whether there was one. Raises `HostError`."""
    by_nft = await senders_nft.remove(device, versions)
    return await senders_iptables.remove(device, versions) or by_nft


def _text(address: IPAddress) -> str:
    """As the tools show it: libc's form, which is not Python's for IPv4 inside IPv6."""
    return socket.inet_ntop(socket.AF_INET if address.version == 4 else socket.AF_INET6, address.packed)
