"""Notices of changes to the firewall rules, from the kernel's netlink group of nf_tables.

iptables over nf_tables is reported here too; the legacy interface reports nothing. What must stay true: no change to
rules that concern us goes without a notice, not even when the kernel's queue overflowed. A notice may come for
nothing: messages are not decoded, only searched for names.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import ExitStack

from dataplane.errors import HostError

settle_seconds = 0.05  # one command is several messages; wait this long for the rest
_netlink_netfilter = 12  # linux/netlink.h NETLINK_NETFILTER
_group = 1 << (7 - 1)  # linux/netfilter/nfnetlink.h NFNLGRP_NFTABLES
_longest = 1 << 16


async def watch_rules(marks: Sequence[bytes]) -> AsyncIterator[None]:
    """Yield once for any number of changes whose messages hold one of `marks`.

    The first notice comes at once, when the subscription stands. Ends by cancellation only.

    Raises:
        HostError: the kernel refuses the subscription.
    """
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    changed.set()
    with ExitStack() as undo:
        monitor = _open_monitor()
        undo.callback(monitor.close)
        loop.add_reader(monitor, _drain, monitor, marks, changed)
        undo.callback(loop.remove_reader, monitor)
        while True:
            await changed.wait()
            await asyncio.sleep(settle_seconds)
            changed.clear()
            yield


def _open_monitor() -> socket.socket:
    flags = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    try:
        monitor = socket.socket(socket.AF_NETLINK, flags, _netlink_netfilter)
    except OSError as error:
        raise HostError(f"cannot watch the firewall rules: {error.strerror}") from error
    try:
        monitor.bind((0, _group))
    except OSError as error:
        monitor.close()
        raise HostError(f"cannot watch the firewall rules: {error.strerror}") from error
    return monitor


def _drain(monitor: socket.socket, marks: Sequence[bytes], changed: asyncio.Event) -> None:
    while True:
        try:
            message = monitor.recv(_longest)
        except BlockingIOError:
            return
        except OSError as error:
            changed.set()  # messages were lost, and that too is a change
            if error.errno != errno.ENOBUFS:
                return
        else:
            if any(mark in message for mark in marks):
                changed.set()
