"""Tells systemd that the service is ready (sd_notify(3)), where systemd asked for it by NOTIFY_SOCKET."""

from __future__ import annotations

import os
import socket

from dataplane.errors import HostError


def notify_ready() -> None:
    """Send READY=1 once; does nothing without NOTIFY_SOCKET. Raises `HostError`: nobody listens there."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    # A leading @ names a socket in the abstract namespace (unix(7)).
    target = "\0" + address[1:] if address.startswith("@") else address
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as notifier:
        try:
            notifier.sendto(b"READY=1", target)
        except OSError as error:
            raise HostError(f"cannot notify NOTIFY_SOCKET {address}: {error.strerror or error}") from error
