"""One daemon for each device and overlay of a network namespace.

What must stay true: the locks go with the process, however it ends, and another user cannot take them from us: a name
in the abstract namespace (unix(7)), which is one for each network namespace, counts only where it is held by our own
user or root.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from dataplane.errors import HostError

log = logging.getLogger(__name__)

_prefix = "dataplane "
_credentials = struct.Struct("=iII")  # struct ucred


@contextmanager
def alone(
    names: Iterable[str],
    advice: str = "a second one needs another network and device (VNI)",
    given: Mapping[str, int] | None = None,
) -> Iterator[dict[str, int]]:
    """Hold devices and overlays of this network namespace; gives the descriptors that hold them, by name.

    Args:
        advice: what to do where another daemon has one.
        given: descriptors by name, as the daemon before us had them; ours from now on.
    Raises:
        HostError: another daemon has one.
    """
    left = dict(given or {})
    holding: dict[str, int] = {}
    with ExitStack() as held:
        for name in names:
            address = f"\0{_prefix}{name}"
            if name in left:
                holder = held.enter_context(socket.socket(fileno=left.pop(name)))
                holder.listen()  # from now on it shows our process id (net/unix/af_unix.c, unix_listen)
                holding[name] = holder.fileno()
                continue
            try:
                holder = held.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))
                try:
                    holder.bind(address)
                    holder.listen()
                except OSError:
                    _refuse(name, address, advice)
                holding[name] = holder.fileno()
            except OSError as error:
                log.warning("it cannot be told whether another daemon has %s: %s", name, error.strerror or error)
        for fd in left.values():  # of what the daemon before us had, and we do not
            os.close(fd)
        yield holding


def _refuse(name: str, address: str, advice: str) -> None:
    """Raise `HostError` if one of ours, or of root's, has the name; `OSError` if that cannot be told."""
    pid, uid = _holder(address)
    if uid not in (0, os.geteuid()):
        log.warning("user %d (pid %d) has taken the name of %s, as if it were a daemon", uid, pid, name)
        return
    raise HostError(f"{name} is in use by another daemon (pid {pid}) in this network namespace; {advice}")


def _holder(address: str) -> tuple[int, int]:
    """Return process and user id of who listens there; raises `OSError`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as asking:
        asking.setblocking(False)
        asking.connect(address)
        pid, uid, _ = _credentials.unpack(asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _credentials.size))
    return pid, uid


def others(names: Collection[str]) -> dict[str, int]:
    """Return devices and overlays of this network namespace that a daemon has, with its process id, but for these names.

    What cannot be told is left out.
    """
    try:
        lines = Path("/proc/self/net/unix").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    found = {}
    for name in {line.partition(f" @{_prefix}")[2] for line in lines} - {"", *names}:
        with suppress(OSError):
            pid, uid = _holder(f"\0{_prefix}{name}")
            if uid in (0, os.geteuid()):
                found[name] = pid
    return found
