"""What a process has of the one before it: devices that forward already, by a table that may be old.

What must stay true: a lease that has ended is not forwarded for, also while nobody can be asked about the others.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import TYPE_CHECKING

from dataplane.errors import CoreError, HostError
from dataplane.footprint.rundir import Held, run_directory
from dataplane.keepers.device import Before, Drops, TunDevice
from dataplane.takeover.form import Carried, CarriedDevice, boot_now, ended, is_outdated

if TYPE_CHECKING:
    import socket
    from pathlib import Path

    from dataplane.keepers.opening import Opener


@dataclass(slots=True)
class Inherited:
    """What there is.

    Attributes:
        hold: gives back the run directory.
        directory: the run directory, once it is held.
        carried: as it was written down or handed on; None: nothing.
        running: devices that forward, with what was carried of them.
        stayed: devices that do not.
        locks: descriptors of locks that the process before held, by what is locked.
        listeners: its listening sockets, by name.
        stored: names of what systemd keeps.
        notes: sentences for the log, which is not there yet.
    """

    hold: ExitStack = field(default_factory=ExitStack)
    directory: Held | None = None
    carried: Carried | None = None
    running: list[tuple[TunDevice, CarriedDevice]] = field(default_factory=list)
    stayed: list[CarriedDevice] = field(default_factory=list)
    locks: dict[str, int] = field(default_factory=dict)
    listeners: dict[str, socket.socket] = field(default_factory=dict)
    stored: set[str] = field(default_factory=set)
    notes: list[str] = field(default_factory=list)

    def hold_directory(self, run_dir: Path, given: int | None = None) -> None:
        """Hold the run directory; `given` and what is raised are those of `run_directory`."""
        self.directory = self.hold.enter_context(run_directory(run_dir, given))

    def give(self, opener: Opener) -> None:
        """Have the devices known where they are opened."""
        for device, _ in self.running:
            opener.inherit(device)
        for told in self.stayed:
            opener.found(told.plan, Before(told.name, told.index))

    def end_leases(self, opener: Opener) -> None:
        """Forward no more for leases that have ended, in devices that no keeper has taken."""
        now = boot_now()
        for device, told in self.running:
            if self.carried is None or not opener.is_waiting(device):
                continue
            if is_outdated(self.carried, told, now):
                opener.leave(device.plan)
                continue
            with opener.open_ones() as running:
                if device in running:
                    _end(device, ended(told, now))


def _end(device: TunDevice, prefixes: frozenset[str]) -> None:
    while prefixes and device.forwarder.read_loaded(1 << 20):
        pass
    gone = [prefix for text in prefixes if (prefix := ip_network(text)) in device.forwarder.peers]
    if gone:
        device.forwarder.update((), gone)


def resume(carried: Carried, told: CarriedDevice, before: Mapping[str, tuple[int, ...]] | None) -> TunDevice | str:
    """Open a device as it was and forward by its table; returns why not where that cannot be.

    Args:
        before: its descriptors by role, ours from now on; None: the device is attached to.
    """
    device = reopen(carried, told, before)
    if isinstance(device, str):
        return device
    try:
        go_on(device, told)
        device.complete()
    except (HostError, CoreError, OSError) as error:
        device.leave()
        return f"{told.name}: {error}"
    return device


def reopen(carried: Carried, told: CarriedDevice, before: Mapping[str, tuple[int, ...]] | None) -> TunDevice | str:
    """The same, but that nothing is forwarded yet, and the table is empty."""
    if is_outdated(carried, told, boot_now()):
        for fd in () if before is None else [fd for fds in before.values() for fd in fds]:
            os.close(fd)  # or we had the port that is to be opened next
        return f"{told.name}: what was known of the leases is too old"
    given = (
        {} if before is None else {"tuns": before["tun"], "receives": before["receive"], "sources": before["source"]}
    )
    try:
        return TunDevice(
            told.plan,
            told.workers,
            told.spin_us,
            before=Before(told.name, told.index, **given),
            drops=Drops(told.kernel_drops, told.host_drops),
        )
    except (HostError, CoreError) as error:
        return f"{told.name}: {error}"


def go_on(device: TunDevice, told: CarriedDevice) -> None:
    """Forward by the table that was carried, and count on; raises `CoreError`."""
    device.forwarder.load(told.table, ended(told, boot_now()))
    device.forwarder.count_on(told.counters, told.peers)
    device.forwarder.start()
