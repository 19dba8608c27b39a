"""Notices from the kernel's netlink multicast groups: one for any number of messages that are news.

Who hears a notice looks at the whole state; the messages are not decoded. What must stay true: no change goes without a
notice, not even when the kernel's queue overflowed. Works under uvloop, whose add_reader takes a netlink socket like any
other.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import ExitStack
from dataclasses import dataclass

from dataplane.errors import HostError

settle_seconds = 0.05  # one command or link flap is several messages; wait this long for the rest


@dataclass(frozen=True, slots=True)
class Subscription:
    """Groups of one netlink protocol.

    Attributes:
        groups: a bit each, as in struct sockaddr_nl (netlink(7)).
        size: how many bytes of a message `is_news` is shown; the rest is discarded.
        optional: a kernel that was built without the protocol has no news of it.
    """

    protocol: int
    groups: int
    size: int
    is_news: Callable[[bytes], bool]
    optional: bool = False


async def notices(what: str, subscriptions: Iterable[Subscription]) -> AsyncIterator[None]:
    """Yield once for any number of news since the last notice.

    The first notice comes at once, when the subscriptions stand: what happened before was not seen. Ends by cancellation
    only.

    Args:
        what: is watched, for the error.
    Raises:
        HostError: the kernel refuses a subscription.
    """
    loop = asyncio.get_running_loop()
    changed = asyncio.Event()
    changed.set()
    with ExitStack() as undo:
        for subscription in subscriptions:
            try:
                monitor = undo.enter_context(_subscribed(subscription))
            except OSError as error:
                if error.errno == errno.EPROTONOSUPPORT and subscription.optional:
                    continue
                raise HostError(f"cannot watch {what}: {error.strerror}") from error
            loop.add_reader(monitor, _drain, monitor, subscription, changed)
            undo.callback(loop.remove_reader, monitor)
        while True:
            await changed.wait()
            await asyncio.sleep(settle_seconds)
            changed.clear()
            yield


def _subscribed(subscription: Subscription) -> socket.socket:
    flags = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
    monitor = socket.socket(socket.AF_NETLINK, flags, subscription.protocol)
    try:
        monitor.bind((0, subscription.groups))
    except OSError:
        monitor.close()
        raise
    return monitor


def _drain(monitor: socket.socket, subscription: Subscription, changed: asyncio.Event) -> None:
    while True:
        try:
            message = monitor.recv(subscription.size)
        except BlockingIOError:
            return
        except OSError as error:
            changed.set()  # messages were lost, and that too is a change
            if error.errno != errno.ENOBUFS:
                return
        else:
            if subscription.is_news(message):
                changed.set()
