"""The side that takes over: the next daemon asks the one that runs.

What must stay true: everything is opened and set up before the other one is to stop, and whatever goes wrong until we forward
leaves it as it was.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from pathlib import Path
from typing import Any

from dataplane.core import table_layout
from dataplane.errors import BadInput, CoreError, HostError
from dataplane.keepers.device import TunDevice
from dataplane.takeover.conversation import Broken, hear, peer_of, read_blob, say, socket_name
from dataplane.takeover.descriptors import Kept
from dataplane.takeover.form import Carried, CarriedDevice, decode, form, most_bytes
from dataplane.takeover.inherited import Inherited, go_on, reopen

patience_s = 20.0
run_dir_lock = "lock run-dir"


class CannotTakeOver(HostError):
    """The daemon that runs cannot hand over to us; the message says why. It goes on."""


class OtherVersion(CannotTakeOver):
    """It never can: it is of a version that knows no takeover, or another form. `pid`: whose, 0 where that is not known."""

    def __init__(self, text: str, pid: int = 0) -> None:
        super().__init__(text)
        self.pid = pid


def take_over(run_dir: Path) -> Inherited:
    """Take over from the daemon that has this run directory; it has stopped forwarding, and we do.

    Raises:
        CannotTakeOver: it cannot be asked, or one of us cannot do what the other wants.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC) as connection:
        connection.settimeout(patience_s)
        try:
            connection.connect(str(run_dir / socket_name))
        except OSError as error:
            raise OtherVersion(f"the daemon that has {run_dir} cannot be asked: {error.strerror}") from error
        pid, uid = peer_of(connection)
        if uid not in (0, os.geteuid()):
            raise CannotTakeOver(f"{run_dir / socket_name} is user {uid}'s, neither root's nor ours")
        try:
            return _converse(connection, run_dir)
        except OtherVersion as error:
            error.pid = pid
            raise
        except Broken as error:
            raise CannotTakeOver(str(error)) from error


def _converse(connection: socket.socket, run_dir: Path) -> Inherited:
    say(connection, "take over", form=form, layout=table_layout)
    kept = Kept()
    inherited = Inherited()
    try:
        carried = _state(connection, kept)
        opened = _reopen(carried, kept)
    except (HostError, BadInput) as error:
        kept.close()
        with suppress(Broken):  # it has gone already where it refused, or where it is what is wrong
            say(connection, "cannot", reason=str(error))
        if isinstance(error, CannotTakeOver):
            raise
        raise CannotTakeOver(str(error)) from error
    try:
        say(connection, "ready")
        inherited.carried = decode(_blob(*hear(connection, "stopped")))
        for device, told in zip(opened, inherited.carried.devices, strict=True):
            go_on(device, told)
            inherited.running.append((device, told))
        inherited.hold_directory(run_dir, kept.by_name.get(run_dir_lock))
        say(connection, "forwarding")
        hear(connection, "yours")
    except (HostError, BadInput, CoreError, ValueError) as error:
        for device in opened:
            device.leave()
        inherited.hold.close()
        kept.close()
        raise CannotTakeOver(f"what the other daemon handed over cannot be used: {error}") from error
    _sort(kept, inherited)
    return inherited


def _state(connection: socket.socket, kept: Kept) -> Carried:
    """Receive every descriptor, then the state."""
    while True:
        message, fds = hear(connection, "descriptors", "state", "refused")
        if message["word"] == "refused":
            raise OtherVersion(f"the other daemon refuses: {message.get('reason')!s:.400}")
        if message["word"] == "state":
            return decode(_blob(message, fds))
        names = message.get("names")
        if not isinstance(names, list) or len(names) != len(fds):
            _close(fds)
            raise Broken("the other daemon says no names of what it hands over")
        kept.by_name.update(zip(map(str, names), fds, strict=True))


def _blob(message: dict[str, Any], fds: list[int]) -> bytes:
    if len(fds) != 1:
        _close(fds)
        raise Broken(f"the other daemon says {message['word']!r} without what belongs to it")
    return read_blob(fds[0], most_bytes)


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


def _reopen(carried: Carried, kept: Kept) -> list[TunDevice]:
    opened: list[TunDevice] = []
    for told in carried.devices:
        device = _reopen_one(carried, told, kept)
        if isinstance(device, str):
            for each in opened:
                each.leave()
            raise CannotTakeOver(device)
        opened.append(device)
    return opened


def _reopen_one(carried: Carried, told: CarriedDevice, kept: Kept) -> TunDevice | str:
    before = kept.of(told.plan.name)
    if before is None:
        return f"{told.name} came without its descriptors"
    device = reopen(carried, told, before)
    if isinstance(device, str):
        return device
    try:
        device.complete()
    except (HostError, CoreError, OSError) as error:
        device.leave()
        return f"{told.name}: {error}"
    return device


def _sort(kept: Kept, inherited: Inherited) -> None:
    """Hand locks and listeners on to those that will want them."""
    for name, fd in list(kept.by_name.items()):
        kind, _, what = name.partition(" ")
        if kind == "listen":
            inherited.listeners[what] = socket.socket(fileno=fd)
        elif kind in ("lock", "alone") and name != run_dir_lock:
            inherited.locks[name] = fd
        else:
            os.close(fd)
    kept.by_name.clear()
