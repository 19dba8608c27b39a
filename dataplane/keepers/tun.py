"""Keeps one TUN device equal to its plan, and its forwarding table equal to what is desired.

How it works: a lease's change goes straight into the table (`publish`); everything else is `ensure`, which looks
at what is there, puts back what is missing, and builds the whole device again when it is gone, when a worker
failed, or when the external interface is not the one its sockets were bound to. A device may come with the table of the
process before: it forwards by it until the peers are known. What must stay true: `ensure` may be called at any time and any
number of times, a failure is told and tried again later, and a table that refuses one peer still takes the others.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Mapping

from dataplane.backends.base import DevicePlan
from dataplane.errors import CoreError, HostError
from dataplane.host.links import Link
from dataplane.host.routes import Route
from dataplane.keepers.base import HostNet, find_external
from dataplane.keepers.device import Device, Devices, Forwarder
from dataplane.leases.diff import Change, diff
from dataplane.model import IPNetwork, Peer
from dataplane.observe.state import DeviceState, NodeState
from dataplane.runtime.pieces import piece, pieces_of
from dataplane.runtime.say import Say

log = logging.getLogger(__name__)

# A packet that the core has not read yet waits here; about one burst of ours (the kernel's vxlan has no queue).
tx_queue_packets = 1000
longest_delay_s = 10.0
most_named = 20  # refused peers that the log names at one time
calm_s = 60.0


class TunKeeper:
    """One device, kept.

    Args:
        plan: what it should be.
        wanted: the table it should have; read whenever the whole is compared, so changes show.
    """

    def __init__(
        self,
        plan: DevicePlan,
        wanted: Mapping[IPNetwork, Peer],
        devices: Devices,
        host: HostNet,
        state: NodeState,
        workers: int,
    ) -> None:
        self.plan = plan
        self._wanted = wanted
        self._devices = devices
        self._host = host
        self._state = state
        self._say = Say(log)
        self._device: Device | None = None
        self._interface_index = 0
        self._tried_on: int | None = None
        self._rebuild_after = 0.0
        self._rebuild_delay_s = 1.0
        self._rejected: set[IPNetwork] = set()
        self._is_inherited = False  # the table may hold what nobody wants any more
        self._behind = False  # the core could not make the table that it was asked for
        self._seen = DeviceState(plan.name, plan.mtu, plan.port, workers)
        state.devices[plan.name] = self._seen

    @property
    def failed(self) -> bool:
        """Whether a worker has ended although nobody stopped it, or there is no device at all."""
        return self._device is None or bool(self._device.forwarder.failures)

    async def open(self) -> None:
        """Build the device, fill its table, start it, give it address and route; raises `HostError`, `CoreError`."""
        interface = await self._external()
        device = await asyncio.to_thread(self._devices.open, self.plan)
        try:
            reading = True
            while reading:
                reading = device.forwarder.read_loaded(piece)
                await asyncio.sleep(0)
            self._is_inherited = bool(device.forwarder.peers)
            if not self._is_inherited:
                self._state.forwarding_since = self._state.now()
            self._device = device
            self._interface_index = interface.index
            for warning in device.warnings:
                log.warning("%s", warning)
            await self._put_all(device, self._wanted)
            device.forwarder.start()
            link = await self._host.link(device.name)
            if link is None:
                raise HostError(f"device {device.name} vanished while it was set up")
            await self._set_up(device, link, None)
        except BaseException:
            self._device = device
            await self.withdraw()
            raise
        self._seen.name, self._seen.index, self._seen.forwarding = device.name, device.index, device.forwarder
        self._seen.kernel_drops, self._seen.host_drops = device.kernel_drops, device.host_drops

    async def close(self) -> None:
        """Let go of the device; one that is to stay does, with its addresses and routes."""
        if self._let_go():
            await asyncio.to_thread(self._devices.leave, self.plan)

    async def withdraw(self) -> None:
        """Take the device away, with its addresses and routes."""
        if self._let_go():
            await asyncio.to_thread(self._devices.close, self.plan)

    def _let_go(self) -> bool:
        had, self._device = self._device is not None, None
        self._seen.index, self._seen.forwarding = None, None
        self._seen.kernel_drops, self._seen.host_drops = None, None
        return had

    def publish(self, change: Change) -> None:
        """Bring one change into the table. Without a device there is nothing to do: opening it fills the table."""
        if self._device is None:
            return
        self._put(self._device.forwarder, change)
        self._state.events["table_updates"] += 1

    async def flush(self) -> None:
        """Nothing is left to do: `publish` does it all."""

    async def ensure(self) -> None:
        """Put back whatever is missing; failures end as `state.blockers` and are tried again at the next call."""
        name = self._seen.name
        try:
            reason = await self._why_rebuild()
            if reason is not None:
                await self._rebuild(reason)
            elif self._device is not None:
                link = await self._host.link(name)
                if link is not None:
                    await self._set_up(self._device, link, "put back")
                if self._behind:
                    self._put(self._device.forwarder, Change())
                if self._is_inherited:
                    self._is_inherited = False
                    await self._put_all(self._device, {**self._device.forwarder.peers, **self._wanted})
                await self._put_all(self._device, self._rejected)
                told = await asyncio.to_thread(self._device.recheck)
                if told:
                    log.warning("%s: %s", name, told)
        except (HostError, CoreError) as error:
            self._state.blockers[f"device {self.plan.name}"] = f"{name}: {error}"
            self._say.warn("ensure", f"{name}: {error}", self._state.now())
        else:
            self._state.blockers.pop(f"device {self.plan.name}", None)
            self._say.over("ensure", f"{self._seen.name}: all is in place again")

    async def _rebuild(self, reason: str) -> None:
        """Build the device again, at once the first time, at growing intervals while that does not last.

        What the interface does is no failure of ours: while it is away nothing is tried, and one that came back, or
        took the place of another, is tried at once.
        """
        interface = await self._external()
        now = self._state.now()
        # The upper bound holds when the clock was set back: nobody waits longer than the longest delay.
        again = interface.index == self._tried_on
        if again and 0 < self._rebuild_after - now <= longest_delay_s:
            raise HostError(f"{reason}; it is built again within {self._rebuild_delay_s:.0f} s")
        self._tried_on = interface.index
        lasted = now - self._rebuild_after > calm_s
        self._rebuild_delay_s = min(longest_delay_s, 2 * self._rebuild_delay_s) if again and not lasted else 1.0
        self._rebuild_after = now + self._rebuild_delay_s
        self._say.warn("rebuild", f"{self._seen.name}: {reason}; building it again", now)
        await self.withdraw()
        await self.open()
        self._state.events["device_rebuilds"] += 1

    async def _why_rebuild(self) -> str | None:
        if self._device is None:
            return "there is no device"
        if self._device.forwarder.failures:
            return f"the data plane failed ({', '.join(self._device.forwarder.failures)})"
        link = await self._host.link(self._device.name)
        if link is None or link.index != self._device.index:
            return "somebody deleted or renamed the device"
        interface = await self._external()
        if interface.index != self._interface_index:
            return f"interface {interface.name} was replaced by another of its name"
        return None

    async def _external(self) -> Link:
        """Return the external interface, fit for use; else raise `HostError` and forget what was tried on it."""
        try:
            return await find_external(self._host, self.plan.interface, self.plan.underlay_address)
        except HostError:
            self._tried_on = None
            raise

    async def _set_up(self, device: Device, link: Link, verb: str | None) -> None:
        """Make link, addresses and routes equal to the plan. `verb` None: first time, nothing to tell."""
        done = []
        if not link.up or link.mtu != self.plan.mtu:
            await self._host.set_link(device.index, mtu=self.plan.mtu, up=True, txqueuelen=tx_queue_packets)
            done.append(f"link up with MTU {self.plan.mtu}")
        present = {address.interface for address in await self._host.addresses(device.index)}
        for interface in self.plan.addresses:
            if interface not in present:
                await self._host.add_address(device.index, interface)
                done.append(f"address {interface}")
        routes = {route.prefix for route in await self._host.routes(device.index) if route.gateway is None}
        for prefix in self.plan.networks:
            if prefix not in routes:
                await self._host.add_route(Route(prefix, device.index))
                done.append(f"route {prefix}")
        for what in done if verb else ():
            self._state.events["repairs"] += 1
            self._say.warn(what, f"{device.name}: {verb} what somebody removed: {what}", self._state.now())

    async def _put_all(self, device: Device, prefixes: Collection[IPNetwork]) -> None:
        """Bring these prefixes up to date piece by piece; what is published meanwhile goes into the table as ever."""
        table = device.forwarder.peers
        for some in pieces_of(prefixes):
            if change := diff(table, self._wanted, some):
                self._put(device.forwarder, change)
            await asyncio.sleep(0)

    def _put(self, forwarder: Forwarder, change: Change) -> None:
        subject = f"table {self.plan.name}"
        try:
            refused = forwarder.update(change.put, change.remove)
        except CoreError as error:
            self._state.blockers[subject] = f"{self._seen.name}: {error}; trying again"
            self._say.warn(subject, self._state.blockers[subject], self._state.now())
            self._behind = True
            return
        if self._behind:
            self._behind = False
            self._state.blockers.pop(subject, None)
        for prefix in (*change.remove, *(peer.prefix for peer in change.put)) if self._rejected else ():
            if prefix in self._rejected and prefix not in refused:
                self._rejected.discard(prefix)
                self._state.notes.pop(f"table {prefix}", None)
        for prefix, reason in refused.items():
            self._reject(prefix, reason)

    def _reject(self, prefix: IPNetwork, reason: str) -> None:
        self._rejected.add(prefix)
        text = f"peer {prefix} is refused by the data plane: {reason}"
        self._state.notes[f"table {prefix}"] = text
        if len(self._rejected) <= most_named:
            self._say.warn(f"table {prefix}", text, self._state.now())
        else:
            self._say.warn(
                "table",
                "and more peers are refused by the data plane; `dataplane status` shows them",
                self._state.now(),
            )
