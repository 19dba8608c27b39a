"""Tells systemd how the service fares (sd_notify(3)), where systemd asked for it by NOTIFY_SOCKET.

What must stay true: the watchdog is fed from the daemon's event loop, so that one that hangs is restarted.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping

from dataplane.errors import HostError

log = logging.getLogger(__name__)


def notify(*lines: str) -> None:
    """Send lines such as "READY=1"; does nothing without NOTIFY_SOCKET. Raises `HostError`: nobody listens there."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    # A leading @ names a socket in the abstract namespace (unix(7)).
    target = "\0" + address[1:] if address.startswith("@") else address
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
            notifier.setblocking(False)
            notifier.sendto("\n".join(lines).encode(), target)
    except OSError as error:
        raise HostError(f"cannot notify NOTIFY_SOCKET {address}: {error.strerror or error}") from error


def tell_systemd(*lines: str) -> None:
    """The same where it must not fail: what was not heard is logged."""
    try:
        notify(*lines)
    except HostError as error:
        log.warning("%s", error)


def watchdog_period(environment: Mapping[str, str]) -> float | None:
    """Seconds between two signs of life, half of what systemd allows (sd_watchdog_enabled(3)); None: it wants none."""
    try:
        allowed = int(environment.get("WATCHDOG_USEC", "0"))
        pid = int(environment.get("WATCHDOG_PID", "0"))
    except ValueError:
        return None
    if allowed <= 0 or pid not in (0, os.getpid()):
        return None
    return allowed / 2e6
