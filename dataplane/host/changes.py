"""Notices of changes to this namespace's links, addresses, routes and IPsec policies.

Of the messages only the header is read. What must stay true: no change by anybody else goes without a notice.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Callable

from dataplane.host.notices import Subscription, notices
from dataplane.host.xfrm import netlink_xfrm, policy_group

_groups = 0x1 | 0x10 | 0x40 | 0x100 | 0x400  # linux/rtnetlink.h RTMGRP_LINK, IPV4_{IFADDR,ROUTE}, IPV6_{IFADDR,ROUTE}

_header = struct.Struct("=IHHII")  # linux/netlink.h struct nlmsghdr: length, type, flags, sequence, port


def watch_changes(own_port: Callable[[], int]) -> AsyncIterator[None]:
    """Yield as `notices` does.

    Args:
        own_port: the netlink port by which we change routes ourselves, 0 for none yet: what comes of that is no news.
    """

    def is_news(header: bytes) -> bool:
        own = own_port()
        return len(header) < _header.size or not own or _header.unpack(header)[-1] != own

    return notices(
        "the kernel's changes",
        (
            Subscription(socket.NETLINK_ROUTE, _groups, _header.size, is_news),
            Subscription(netlink_xfrm, policy_group, _header.size, is_news, optional=True),
        ),
    )
