"""Keeps one vxlan device of the kernel, and what it knows of the peers, equal to what is desired.

For each peer: a permanent neighbour (the base address of its subnet), an FDB entry (its VTEP MAC at its underlay
address) and a route; a peer on our own link has a plain route instead, where DirectRouting says so. How it works:
`publish` notes which prefixes changed, `flush` programs those, `ensure` compares everything and makes a lost device
anew with all its peers. What must stay true: the device has the MAC that our lease tells; a VTEP MAC that two leases
claim stays with the one that had it; the device and all that it knows stay when the daemon ends, so that traffic goes
on over a restart, as under flannel.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import TypeVar

from dataplane.backends.base import DevicePlan
from dataplane.control.diff import Change
from dataplane.control.keeper import HostNet, find_external
from dataplane.control.peer_routes import Direct, PeerRoutes
from dataplane.control.say import Say
from dataplane.errors import HostError
from dataplane.host import vxlan
from dataplane.host.netlink import Host
from dataplane.host.vxlan import Entries
from dataplane.model import IPAddress, IPNetwork, Peer, VxlanLink
from dataplane.observe.kernel import KernelForwarding
from dataplane.observe.state import DeviceState, NodeState

log = logging.getLogger(__name__)

Key = TypeVar("Key")
Value = TypeVar("Value")


class KernelKeeper:
    """One vxlan device of the kernel, kept.

    Args:
        plan: what it should be; with a `link`.
        wanted: its peers, our own subnets (without a next hop) included; read at each call.
    """

    def __init__(
        self, plan: DevicePlan, link: VxlanLink, wanted: Mapping[IPNetwork, Peer], host: Host, state: NodeState
    ) -> None:
        self.plan = plan
        self._link = link
        self._wanted = wanted
        self._host = host
        self._state = state
        self._say = Say(log)
        self._index: int | None = None
        self._pending: set[IPNetwork] = set()
        self._lock = asyncio.Lock()
        self._holders: dict[bytes, IPNetwork] = {}  # who has a VTEP MAC
        self._refused: set[str] = set()
        self._seen = DeviceState(plan.name, plan.mtu, plan.port)
        direct = Direct.on_link if plan.direct_routing else Direct.never
        net: HostNet = host
        self._routes = PeerRoutes(plan, wanted, net, state, self._seen, direct)
        self._programmed = Entries({}, {})
        state.devices[plan.name] = self._seen

    @property
    def failed(self) -> bool:
        """Whether there is no device."""
        return self._index is None

    async def open(self) -> None:
        """Make the device or take it over, with address and MTU; raises `HostError`."""
        await self._open()

    async def _open(self) -> int:
        await find_external(self._host, self.plan.interface, self.plan.underlay_address)
        index, mac = await vxlan.ensure_device(self._host, self._link, self.plan.vtep_mac)
        if mac != self.plan.vtep_mac:
            await vxlan.remove_device(self._host, self.plan.name)
            index, mac = await vxlan.ensure_device(self._host, self._link, self.plan.vtep_mac)
        await self._set_up(index)
        self._index = index
        self._seen.index = index
        self._seen.forwarding = KernelForwarding({})
        self._routes.forget()
        self._programmed = Entries()
        return index

    async def close(self) -> None:
        """Leave everything as it is."""

    async def withdraw(self) -> None:
        """Delete the device; neighbours, FDB entries and its routes go with it."""
        async with self._lock:
            self._index = self._seen.index = self._seen.forwarding = None
            await self._routes.remove_all()
            await vxlan.remove_device(self._host, self.plan.name)

    def publish(self, change: Change) -> None:
        """Note what changed, for `flush`."""
        self._pending.update(change.remove, (peer.prefix for peer in change.put))

    async def flush(self) -> None:
        """Program what changed; a failure is left to `ensure`."""
        async with self._lock:
            if self._index is None or not self._pending:
                return
            try:
                await self._program(self._index, self._programmed)
            except HostError as error:
                self._state.blockers[f"device {self.plan.name}"] = f"{self.plan.name}: {error}"
                self._say.warn("ensure", f"{self.plan.name}: {error}", self._state.now())

    async def ensure(self) -> None:
        """Put back whatever is missing; failures end as `state.blockers` and are tried again at the next call."""
        name = self.plan.name
        async with self._lock:
            try:
                await self._ensure()
            except HostError as error:
                self._state.blockers[f"device {name}"] = f"{name}: {error}"
                self._say.warn("ensure", f"{name}: {error}", self._state.now())
            else:
                self._state.blockers.pop(f"device {name}", None)
                self._say.over("ensure", f"{name}: all is in place again")

    async def _ensure(self) -> None:
        interface = await find_external(self._host, self.plan.interface, self.plan.underlay_address)
        index, reason = self._index, "there is no device"
        if index is not None:
            reason = await vxlan.difference(self._host, self._link, index, self.plan.vtep_mac)
        if index is None or reason:
            self._say.warn("rebuild", f"{self.plan.name}: {reason}; making it again", self._state.now())
            self._index = self._seen.index = self._seen.forwarding = None
            index = await self._open()
            self._state.events["device_rebuilds"] += 1
        else:
            for what in await self._set_up(index):
                self._state.events["repairs"] += 1
                text = f"{self.plan.name}: put back what somebody removed: {what}"
                self._say.warn(what, text, self._state.now())
        await self._routes.ensure(interface.index, index)
        self._pending.update(self._wanted)
        await self._program(index, await vxlan.read_entries(self._host, index))

    async def _set_up(self, index: int) -> list[str]:
        """Make MTU, state and address equal to the plan; other addresses inside the overlay go, as flannel has it."""
        done = []
        link = await self._host.link(self.plan.name)
        if link is None:
            raise HostError(f"device {self.plan.name} vanished while it was set up")
        present = {address.interface for address in await self._host.addresses(index)}
        for old in present - set(self.plan.addresses):
            if any(old.version == net.version and old.ip in net for net in self.plan.networks):
                await self._host.remove_address(index, old)
        for address in self.plan.addresses:
            if address not in present:
                await self._host.add_address(index, address)
                done.append(f"address {address}")
        if not link.up or link.mtu != self.plan.mtu:
            await self._host.set_link(index, mtu=self.plan.mtu, up=True)
            done.append(f"link up with MTU {self.plan.mtu}")
        return done

    async def _program(self, index: int, before: Entries) -> None:
        """Bring pending prefixes up to date: neighbours, FDB, then the route, in flannel's order.

        Args:
            before: what the device knows; what is nobody's is removed.
        """
        interface = await find_external(self._host, self.plan.interface, self.plan.underlay_address)
        prefixes, self._pending = self._pending, set()
        await self._routes.judge(prefixes)
        wanted = self._entries()
        put = Entries(_changed(wanted.neighbours, before.neighbours), _changed(wanted.fdb, before.fdb))
        gone = Entries(_gone(wanted.neighbours, before.neighbours), _gone(wanted.fdb, before.fdb))
        refused = await vxlan.change_entries(self._host, index, put, gone)
        self._programmed = wanted
        await self._routes.apply(prefixes, interface.index, index)
        self._tell(refused)
        self._seen.forwarding = KernelForwarding(dict(self._wanted))
        self._state.events["table_updates"] += 1

    def _entries(self) -> Entries:
        neighbours: dict[IPAddress, bytes] = {}
        fdb: dict[bytes, IPAddress] = {}
        claims: dict[bytes, dict[IPNetwork, IPAddress]] = {}
        for prefix, peer in self._wanted.items():
            if peer.next_hop is not None and not self._routes.is_direct(peer):
                neighbours[prefix.network_address] = peer.vtep_mac
                claims.setdefault(peer.vtep_mac, {})[prefix] = peer.next_hop
        for mac, claim in claims.items():
            holder = self._holders.get(mac)
            if holder not in claim:
                holder = min(claim, key=lambda prefix: int(prefix.network_address))
            self._holders[mac], fdb[mac] = holder, claim[holder]
            if len(set(claim.values())) > 1:
                others = ", ".join(str(prefix) for prefix in claim if prefix != holder)
                text = f"{self.plan.name}: VTEP MAC {mac.hex(':')} of {holder} is claimed by {others} too"
                self._say.warn(f"mac {mac.hex()}", text, self._state.now())
        for mac in self._holders.keys() - claims.keys():
            del self._holders[mac]
        return Entries(neighbours, fdb)

    def _tell(self, refused: Mapping[IPAddress | bytes, str]) -> None:
        now = {f"{self.plan.name} entry {key!r}" for key in refused}
        for subject in self._refused - now:
            self._state.notes.pop(subject, None)
        self._refused = now
        for key, text in refused.items():
            self._state.notes[f"{self.plan.name} entry {key!r}"] = f"{self.plan.name}: {text}"
            self._say.warn("entries", f"{self.plan.name}: {text}", self._state.now())


def _changed(wanted: Mapping[Key, Value], before: Mapping[Key, Value]) -> dict[Key, Value]:
    return {key: value for key, value in wanted.items() if before.get(key) != value}


def _gone(wanted: Mapping[Key, Value], before: Mapping[Key, Value]) -> dict[Key, Value]:
    return {key: value for key, value in before.items() if key not in wanted}
