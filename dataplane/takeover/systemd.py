"""systemd's descriptor store: TUN queues and sockets stay open in PID 1 while the service is restarted, and what comes meanwhile
waits in them.

What must stay true: the store has each name once, and where systemd keeps nothing for us, nothing is lost but time.
Source: sd_notify(3) FDSTORE, FDNAME, FDPOLL; sd_listen_fds(3).
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Iterator, Mapping

from dataplane.takeover.descriptors import Kept, names_of

_first = 3  # sd-daemon.h SD_LISTEN_FDS_START
_patience_s = 2.0


def kept_by_systemd(environment: Mapping[str, str]) -> Kept:
    """What systemd kept for us of the process before, closed in children."""
    try:
        pid, count = int(environment.get("LISTEN_PID", "")), int(environment.get("LISTEN_FDS", ""))
    except ValueError:
        return Kept()
    if pid != os.getpid():
        return Kept()
    kept = Kept()
    for fd, name in zip(range(_first, _first + count), environment.get("LISTEN_FDNAMES", "").split(":"), strict=False):
        os.set_inheritable(fd, False)
        if (twice := kept.by_name.pop(name, None)) is not None:
            os.close(twice)
        kept.by_name[name] = fd
    return kept


def forgo(environment: Mapping[str, str]) -> set[str]:
    """Close what systemd kept for us, which another daemon has; returns the names under which systemd still has it."""
    kept = kept_by_systemd(environment)
    names = set(kept.by_name)
    kept.close()
    return names


class Store:
    """The store of our service.

    Args:
        address: NOTIFY_SOCKET; "": there is none, and nothing is done.

    Attributes:
        names: what it may have.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self.names: set[str] = set()

    def has(self, plan: str, descriptors: Mapping[str, tuple[int, ...]]) -> None:
        """It may have these, from the process before us."""
        self.names |= {name for name, _ in names_of(plan, descriptors)}

    def keep(self, plan: str, descriptors: Mapping[str, tuple[int, ...]]) -> None:
        """Have these kept for the next process, in place of what was kept for this plan; raises `OSError`.

        systemd is not to look at them itself (FDPOLL=0): an error that waits at a socket would be the end of it.
        """
        self.forget(plan)
        self.has(plan, descriptors)
        for notifier in self._notifier():
            for name, fd in names_of(plan, descriptors):
                socket.send_fds(notifier, [f"FDSTORE=1\nFDPOLL=0\nFDNAME={name}".encode()], [fd])

    def forget(self, plan: str) -> None:
        """Have all of a plan let go of, and wait until that is done; raises `OSError`."""
        gone = [name for name in self.names if name.startswith(f"{plan}/")]
        for notifier in self._notifier() if gone else ():
            for name in gone:
                notifier.send(f"FDSTOREREMOVE=1\nFDNAME={name}".encode())
                self.names.remove(name)
            _wait_until_heard(notifier)

    def _notifier(self) -> Iterator[socket.socket]:
        if not self._address:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
            notifier.settimeout(_patience_s)
            notifier.connect("\0" + self._address[1:] if self._address.startswith("@") else self._address)
            yield notifier


def _wait_until_heard(notifier: socket.socket) -> None:
    """Wait until systemd has read what was sent (from version 246 on; before, it closes the descriptor all the same)."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    try:
        try:
            socket.send_fds(notifier, [b"BARRIER=1"], [theirs])
        finally:
            os.close(theirs)
        waiting = select.poll()
        waiting.register(ours, 0)  # POLLHUP: nobody has the other end any more
        waiting.poll(_patience_s * 1000)
    finally:
        os.close(ours)
