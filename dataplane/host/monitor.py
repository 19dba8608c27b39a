"""Notices of changes to this namespace's links, addresses, routes and IPsec policies, from the kernel's netlink multicast groups.

Of the messages only the header is read: whoever hears a notice looks at the whole state. What must stay true: no change
by anybody else goes without a notice, not even when the kernel's queue overflowed.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack

from dataplane.errors import HostError
from dataplane.host.xfrm import netlink_xfrm, policy_group

settle_seconds = 0.05  # one `ip` command or link flap is several messages; wait this long for the rest
_groups = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # linux/rtnetlink.h RTMGRP_LINK, IPV4_{IFADDR,ROUTE}, IPV6_{IFADDR,ROUTE}

_header = struct.Struct("=IHHII")  # linux/netlink.h struct nlmsghdr: length, type, flags, sequence, port


async def watch_changes(own_port: Callable[[], int]) -> AsyncIterator[None]:
    """Yield once for any number of changes since the last notice.

    Args:
        own_port: the netlink port by which we change routes ourselves, 0 for none yet: what comes of that is no news.

    The first notice comes at once, when the subscription stands: what happened before was not seen. Ends by
    cancellation only. Works under uvloop, whose add_reader takes a netlink socket like any other.

    Raises:
        HostError: the kernel refuses the subscription.
    """
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    changed.set()
    with ExitStack() as undo:
        for protocol, groups in ((socket.NETLINK_ROUTE, _groups), (netlink_xfrm, policy_group)):
            monitor = _open_monitor(protocol, groups)
            if monitor is None:
                continue
            undo.callback(monitor.close)
            loop.add_reader(monitor, _drain, monitor, changed, own_port)
            undo.callback(loop.remove_reader, monitor)
        while True:
            await changed.wait()
            await asyncio.sleep(settle_seconds)
            changed.clear()
            yield


def _open_monitor(protocol: int, groups: int) -> socket.socket | None:
    """A subscribed socket; None where the kernel was built without the protocol (xfrm)."""
    flags = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        monitor = socket.socket(socket.AF_NETLINK, flags, protocol)
    except OSError as error:
        if error.errno == errno.EPROTONOSUPPORT and protocol == netlink_xfrm:
            return None
        raise HostError(f"cannot watch the kernel's changes: {error.strerror}") from error
    try:
        monitor.bind((0, groups))
    except OSError as error:
        monitor.close()
        raise HostError(f"cannot watch the kernel's changes: {error.strerror}") from error
    return monitor


def _drain(monitor: socket.socket, changed: asyncio.Event, own_port: Callable[[], int]) -> None:
    own = own_port()
    while True:
        try:
            header = monitor.recv(_header.size)  # the rest of the message is discarded
        except BlockingIOError:
            return
        except OSError as error:
            changed.set()  # messages were lost, and that too is a change
            if error.errno != errno.ENOBUFS:
                return
        else:
            if len(header) < _header.size or not own or _header.unpack(header)[-1] != own:
                changed.set()
