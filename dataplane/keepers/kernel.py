"""Keeps one vxlan device of the kernel, and what it knows of the peers, equal to what is desired.

For each peer: a permanent neighbour (the base address of its subnet), an FDB entry (its VTEP MAC at its underlay
address), a route, and what the filter in front of the device lets in; a peer on our own link has a plain route instead, where DirectRouting says so. How it works:
`publish` notes which prefixes changed, `flush` programs those, `ensure` compares everything and makes a lost device
anew with all its peers. What must stay true: the device has the MAC that our lease tells; a VTEP MAC that two leases
claim stays with the one that had it; the device and all that it knows stay when the daemon ends, so that traffic goes
on over a restart, as under flannel.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping
from contextlib import ExitStack
from ipaddress import IPv4Address
from typing import TypeVar

from dataplane.backends.base import DevicePlan
from dataplane.errors import HostError
from dataplane.host import vxlan
from dataplane.host.admission.checks import Guarded
from dataplane.host.netlink import Host
from dataplane.host.vxlan import Entries
from dataplane.keepers.admission import AdmissionKeeper
from dataplane.keepers.base import HostNet, find_external
from dataplane.keepers.losses import of_kernel
from dataplane.keepers.peer_routes import Direct, PeerRoutes
from dataplane.leases.diff import Change
from dataplane.model import IPAddress, IPNetwork, Peer, VxlanLink
from dataplane.observe.kernel import KernelForwarding
from dataplane.observe.state import DeviceState, NodeState
from dataplane.runtime.pieces import paced, piece, pieces_of
from dataplane.runtime.say import Say

log = logging.getLogger(__name__)

most_named = 10  # of what the kernel refuses, in the log at one time
_nowhere = IPv4Address("0.0.0.0")  # an FDB entry is removed by its MAC alone
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
        self._tunnelled: dict[IPNetwork, Peer] = {}
        self._claims: dict[bytes, dict[IPNetwork, IPAddress]] = {}  # who says to have a VTEP MAC, and where
        self._holders: dict[bytes, IPNetwork] = {}  # who of them has it
        self._refused: set[str] = set()
        self._losses = ExitStack()
        self._seen = DeviceState(plan.name, plan.mtu, plan.port)
        direct = Direct.on_link if plan.direct_routing else Direct.never
        net: HostNet = host
        self._routes = PeerRoutes(plan, wanted, net, state, self._seen, direct)
        guarded = Guarded(link, plan.vtep_mac, plan.subnets[0])
        self._admission = AdmissionKeeper(guarded, wanted, host, state, self._seen)
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
        self._seen.forwarding = KernelForwarding(self._wanted, self._admission.drops)
        losses = of_kernel(self._losses, self.plan, index)
        self._seen.kernel_drops, self._seen.host_drops = losses.drops, losses.underlay.count
        self._routes.forget()
        return index

    async def watch(self) -> None:
        """Put back what somebody changes of the filter in front, where the kernel tells of that; for ever."""
        await self._admission.watch()

    async def close(self) -> None:
        """Leave everything as it is."""
        self._forget_losses()
        self._admission.close()

    async def withdraw(self) -> None:
        """Delete the device; neighbours, FDB entries and its routes go with it."""
        async with self._lock:
            self._index = self._seen.index = self._seen.forwarding = None
            self._forget_losses()
            await self._routes.remove_all()
            await vxlan.remove_device(self._host, self.plan.name)
            await self._admission.remove()

    def publish(self, change: Change) -> None:
        """Note what changed, for `flush`."""
        self._pending.update(change.remove, (peer.prefix for peer in change.put))

    async def flush(self) -> None:
        """Program what changed; a failure is left to `ensure`."""
        async with self._lock:
            if self._index is None or not self._pending:
                return
            try:
                await self._program(self._index)
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
            self._forget_losses()
            index = await self._open()
            self._state.events["device_rebuilds"] += 1
        else:
            for what in await self._set_up(index):
                self._state.events["repairs"] += 1
                text = f"{self.plan.name}: put back what somebody removed: {what}"
                self._say.warn(what, text, self._state.now())
        looked = await self._routes.look(interface.index, index)
        self._pending |= {*looked, *self._wanted, *self._tunnelled}
        await self._program(index, looked, await vxlan.read_entries(self._host, index))

    def _forget_losses(self) -> None:
        self._seen.kernel_drops = self._seen.host_drops = None
        self._losses.close()

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
            await vxlan.bring_up(self._host, self._link, index)
            done.append(f"link up with MTU {self.plan.mtu}")
        return done

    async def _program(self, index: int, looked: Collection[IPNetwork] = (), found: Entries | None = None) -> None:
        """Bring pending prefixes up to date: neighbours, FDB, then the route, in flannel's order.

        What is not needed any more goes last, so that no packet finds a route before its neighbour, or after it.

        Args:
            looked: prefixes whose routes were looked at just now.
            found: all that the device knows, where that was looked at; what is nobody's is removed then.
        """
        interface = await find_external(self._host, self.plan.interface, self.plan.underlay_address)
        prefixes, self._pending = self._pending, set()
        await self._routes.judge(prefixes.difference(looked))
        put, gone = await self._take(prefixes)
        if found is not None:
            put, gone = await self._compare(found)
            await self._admission.ensure(interface.index)
        else:
            await self._admission.change(prefixes)
        refused = await vxlan.put_entries(self._host, index, put)
        for some in pieces_of(prefixes):
            await self._routes.apply(some, interface.index, index)
        if found is not None:
            await self._routes.sweep()
        refused |= await vxlan.remove_entries(self._host, index, gone)
        await self._tell(refused)
        self._state.events["table_updates"] += 1

    async def _take(self, prefixes: Collection[IPNetwork]) -> tuple[Entries, Entries]:
        """Note who of these is reached through the tunnel now; return the entries to put and to remove for that."""
        put, gone = Entries({}, {}), Entries({}, {})
        macs: set[bytes] = set()
        # Of one moment, or two that have one MAC after each other might seem to have it both.
        wanted = self._wanted if len(prefixes) <= piece else dict(self._wanted)
        async for prefix in paced(prefixes):
            old, new = self._tunnelled.pop(prefix, None), wanted.get(prefix)
            if old is not None:
                self._claims[old.vtep_mac].pop(prefix)
                macs.add(old.vtep_mac)
            if new is not None and new.next_hop is not None and not self._routes.is_direct(new):
                self._tunnelled[prefix] = new
                self._claims.setdefault(new.vtep_mac, {})[prefix] = new.next_hop
                macs.add(new.vtep_mac)
                put.neighbours[prefix.network_address] = new.vtep_mac
            elif old is not None:
                gone.neighbours[prefix.network_address] = old.vtep_mac
        async for mac in paced(macs):
            holder = self._holder(mac)
            if holder is not None:
                put.fdb[mac] = self._claims[mac][holder]
            else:
                gone.fdb[mac] = _nowhere
        return put, gone

    def _holder(self, mac: bytes) -> IPNetwork | None:
        """Who has this MAC now; None, and nothing remembered of it, if nobody claims it any more."""
        claim = self._claims[mac]
        if not claim:
            del self._claims[mac]
            self._holders.pop(mac, None)
            return None
        holder = self._holders.get(mac)
        if holder not in claim:
            holder = min(claim, key=lambda prefix: int(prefix.network_address))
            self._holders[mac] = holder
        if len(set(claim.values())) > 1:
            others = ", ".join(str(prefix) for prefix in claim if prefix != holder)
            text = f"{self.plan.name}: VTEP MAC {mac.hex(':')} of {holder} is claimed by {others} too"
            self._say.warn(f"mac {mac.hex()}", text, self._state.now())
        return holder

    async def _compare(self, found: Entries) -> tuple[Entries, Entries]:
        """Return what the device lacks, and what it has for nobody."""
        neighbours = {prefix.network_address: peer.vtep_mac async for prefix, peer in paced(self._tunnelled.items())}
        fdb = {mac: self._claims[mac][holder] async for mac, holder in paced(self._holders.items())}
        return (
            Entries(await _changed(neighbours, found.neighbours), await _changed(fdb, found.fdb)),
            Entries(await _gone(neighbours, found.neighbours), await _gone(fdb, found.fdb)),
        )

    async def _tell(self, refused: Mapping[IPAddress | bytes, str]) -> None:
        now = {f"{self.plan.name} entry {key!r}" async for key in paced(refused)}
        async for subject in paced(self._refused - now):
            self._state.notes.pop(subject, None)
        self._refused = now
        async for key, text in paced(refused.items()):
            self._state.notes[f"{self.plan.name} entry {key!r}"] = f"{self.plan.name}: {text}"
        for key, text in list(refused.items())[:most_named]:
            self._say.warn(f"entry {key!r}", f"{self.plan.name}: {text}", self._state.now())
        if len(refused) > most_named:
            text = f"{self.plan.name}: and the kernel refuses more entries; `dataplane status` shows them"
            self._say.warn("entries", text, self._state.now())


async def _changed(wanted: Mapping[Key, Value], before: Mapping[Key, Value]) -> dict[Key, Value]:
    return {key: value async for key, value in paced(wanted.items()) if before.get(key) != value}


async def _gone(wanted: Mapping[Key, Value], before: Mapping[Key, Value]) -> dict[Key, Value]:
    return {key: value async for key, value in paced(before.items()) if key not in wanted}
