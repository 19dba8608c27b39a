"""Opens TUN devices, each in the way that loses the least: one that runs already is taken as it is, one that has stayed is
attached to, and only else there is a new one.

What must stay true: nothing that stayed is attached to that differs from what is planned, and whatever stayed and is not
wanted any more goes.
"""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Protocol

from dataplane.errors import HostError, HostFault
from dataplane.keepers.device import Before, Drops, TunDevice

if TYPE_CHECKING:
    from dataplane.backends.base import DevicePlan

log = logging.getLogger(__name__)


class Store(Protocol):
    """Who keeps descriptors while no process of ours is there."""

    def keep(self, plan: str, descriptors: Mapping[str, tuple[int, ...]]) -> None:
        """Have these kept, in place of what was kept for this plan; raises `OSError`."""
        ...

    def has(self, plan: str, descriptors: Mapping[str, tuple[int, ...]]) -> None:
        """They may be kept already."""
        ...

    def forget(self, plan: str) -> None:
        """Have all of a plan let go of; raises `OSError`."""
        ...


class Opener:
    """Every device of this daemon, by the name in its plan.

    Args:
        workers, spin_us: of what is opened from now on.
        stays: whether what is opened stays when it is left.
        store: who keeps descriptors of what stays.
        write_down: called with name and index of what is about to stay; raises `HostError`.

    Attributes:
        is_ending: the daemon ends; what is left forwards until `leave_all`, its last step.
        running: opened or inherited, and not left yet.
        stayed: left, or found; with the plan that it was opened for.
    """

    def __init__(
        self, workers: int, spin_us: int, *, stays: bool, store: Store, write_down: Callable[[str, int], None]
    ) -> None:
        self._workers = workers
        self._spin_us = spin_us
        self._stays = stays
        self._store = store
        self._write_down = write_down
        self._taken: set[str] = set()
        self.is_ending = False
        self._closing = threading.Lock()
        self.running: dict[str, TunDevice] = {}
        self.stayed: dict[str, tuple[DevicePlan, Before]] = {}

    @contextmanager
    def open_ones(self) -> Iterator[tuple[TunDevice, ...]]:
        """Every device that runs. Keepers close theirs in threads of their own: none is closed while the block runs."""
        with self._closing:
            yield tuple(self.running.values())

    def inherit(self, device: TunDevice) -> None:
        """Take over a running device that an earlier process opened."""
        self.running[device.plan.name] = device
        self._store.has(device.plan.name, device.descriptors)

    def found(self, plan: DevicePlan, before: Before) -> None:
        """Know of a device that has stayed and does not run."""
        self.stayed[plan.name] = plan, before

    def is_ours(self, index: int) -> bool:
        """Whether the device of this index is one that stayed for us, or runs."""
        indexes = {device.index for device in self.running.values()} | {one.index for _, one in self.stayed.values()}
        return index in indexes

    def open(self, plan: DevicePlan) -> TunDevice:
        """Return a device for the plan; raises `HostError`, `CoreError` with nothing left open.

        One that runs already has its table, and its forwarder is started.
        """
        running = self.running.get(plan.name)
        if running is not None and plan.name not in self._taken and self._fits(running, plan):
            self._taken.add(plan.name)
            self._keep(running)
            return running
        before = None if running is None else _Told(running)
        for device in [device for device in self.running.values() if _collides(device.plan, plan)]:
            self.leave(device.plan)
            self._keep_no_more(device.plan.name)
        for name in [name for name, (planned, _) in self.stayed.items() if _collides(planned, plan)]:
            self._keep_no_more(name)  # whoever keeps its sockets has the port
        device = self._open_new(plan, Drops() if before is None else before.drops)
        try:
            device.complete()
            if before is not None:
                before.hand_on(device)
        except BaseException:
            device.close()
            raise
        self.running[plan.name] = device
        self._taken.add(plan.name)
        self._keep(device)
        return device

    def _open_new(self, plan: DevicePlan, drops: Drops) -> TunDevice:
        device = self._attach(plan, drops)
        if device is None:
            if plan.name in self.stayed:
                _remove(self.stayed[plan.name][1])
            device = TunDevice(plan, self._workers, self._spin_us, drops=drops)
        self.stayed.pop(plan.name, None)  # not before: what fails is tried again
        return device

    def _attach(self, plan: DevicePlan, drops: Drops) -> TunDevice | None:
        """Open the device that stayed, None where there is none that fits; raises `HostError`, `CoreError`: not now."""
        planned, before = self.stayed.get(plan.name, (None, None))
        if planned is None or before is None or not _same_tun(planned, plan) or not _is_there(before):
            return None
        try:
            return TunDevice(plan, self._workers, self._spin_us, before=before, drops=drops)
        except HostFault as error:
            log.warning("%s is made anew: %s", before.name, error)
            return None

    def _fits(self, device: TunDevice, plan: DevicePlan) -> bool:
        asked, same = (self._workers, self._spin_us), _same_tun(device.plan, plan) and _same_underlay(device.plan, plan)
        stands = not device.forwarder.failures and device.interface_index == _index_of(plan.interface)
        return same and stands and (device.workers, device.spin_us) == asked

    def leave(self, plan: DevicePlan) -> None:
        """Let go of the plan's device; where it stays, `open` attaches to it."""
        if not self.is_ending:
            self._leave(plan)

    def _leave(self, plan: DevicePlan) -> None:
        with self._closing:
            device = self._forget(plan)
            device.leave()
        if self._stays:
            self.stayed[plan.name] = device.plan, Before(device.name, device.index)

    def close(self, plan: DevicePlan) -> None:
        """Take the plan's device away."""
        with self._closing:
            device = self._forget(plan)
            self._keep_no_more(plan.name)
            device.close()

    def _keep_no_more(self, name: str) -> None:
        try:
            self._store.forget(name)
        except OSError as error:
            log.warning("systemd still has descriptors of %s: %s", name, error)

    def _forget(self, plan: DevicePlan) -> TunDevice:
        self._taken.discard(plan.name)
        return self.running.pop(plan.name)

    def _keep(self, device: TunDevice) -> None:
        """Have the device stay, or not."""
        try:
            if self._stays:
                self._write_down(device.name, device.index)
            device.stay(self._stays)
        except HostError as error:
            log.warning("%s vanishes when the daemon ends: %s", device.name, error)
        try:
            if self._stays:
                self._store.keep(device.plan.name, device.descriptors)
            else:
                self._store.forget(device.plan.name)
        except OSError as error:
            log.warning("systemd does not keep the descriptors of %s over a restart: %s", device.name, error)

    def remove_unwanted(self, wanted: Collection[str]) -> list[str]:
        """Take away what earlier lives and processes left but for these plans; returns the devices' names."""
        gone = []
        for name, device in list(self.running.items()):
            if name not in wanted:
                self.close(device.plan)
                gone.append(device.name)
        for name, (_, before) in list(self.stayed.items()):
            if name not in wanted:
                self._keep_no_more(name)
                if _remove(before):
                    gone.append(before.name)
                del self.stayed[name]
        return gone

    def is_waiting(self, device: TunDevice) -> bool:
        """Whether a device runs that nobody has opened yet."""
        name = device.plan.name
        return self.running.get(name) is device and name not in self._taken

    def leave_all(self) -> None:
        """Let go of every device."""
        for device in list(self.running.values()):
            self._leave(device.plan)


class _Told:
    """What a device knows, for the one that takes its place."""

    def __init__(self, device: TunDevice) -> None:
        self._plan = device.plan
        self._table = device.forwarder.table()
        self._counters, self._peers = device.forwarder.told()
        self.drops = Drops()
        with suppress(HostError, OSError):  # the host does not tell now: they begin anew
            self.drops = Drops(device.kernel_drops(), device.host_drops())

    def hand_on(self, device: TunDevice) -> None:
        """Have the other one go on by it; raises `CoreError`."""
        same = (self._plan.wire, self._plan.vni, self._plan.underlay_family)
        if same == (device.plan.wire, device.plan.vni, device.plan.underlay_family):
            device.forwarder.load(self._table)
            device.forwarder.count_on(self._counters, self._peers)
        else:
            device.forwarder.count_on(self._counters, b"")


def remove_all(left: Iterable[tuple[str, int]]) -> list[str]:
    """Take away TUN devices that stayed, by name and index; returns the names of those that were there."""
    return [name for name, index in left if _remove(Before(name, index))]


def _is_there(before: Before) -> bool:
    from dataplane.host.edges.tun import is_there

    return is_there(before.name, before.index)


def _remove(before: Before) -> bool:
    """Take away a device that stayed; returns whether there was one. Raises `HostError`: not now."""
    from dataplane.host.edges.tun import attach_tun

    if not _is_there(before):
        return False
    tun = attach_tun(before.name, before.index, 1)
    try:
        tun.stay(False)
    finally:
        tun.close()
    return True


def _index_of(interface: str) -> int:
    try:
        return socket.if_nametoindex(interface)
    except OSError:
        return 0


def _same_tun(one: DevicePlan, other: DevicePlan) -> bool:
    """Whether a TUN of one plan is right for the other as it is."""
    asked = [(plan.name, plan.mtu, plan.addresses, plan.networks) for plan in (one, other)]
    return asked[0] == asked[1]


def _same_underlay(one: DevicePlan, other: DevicePlan) -> bool:
    asked = [
        (plan.interface, plan.underlay_address, plan.port, plan.wire, plan.vni, plan.vtep_mac) for plan in (one, other)
    ]
    return asked[0] == asked[1]


def _collides(one: DevicePlan, other: DevicePlan) -> bool:
    """Whether both cannot be open at one time: they have a name, or a port at one address, in common."""
    return one.name == other.name or (one.underlay_address, one.port) == (other.underlay_address, other.port)
