"""Notices of changes to the firewall rules, from the kernel's netlink group of nf_tables.

iptables over nf_tables is reported here too; the legacy interface reports nothing. What must stay true: no change to
rules that concern us goes without a notice. A notice may come for nothing: messages are only searched for names.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence

from dataplane.host.notices import Subscription, notices

_netlink_netfilter = 12  # linux/netlink.h NETLINK_NETFILTER
_group = 1 << (7 - 1)  # linux/netfilter/nfnetlink.h NFNLGRP_NFTABLES
_longest = 1 << 16


def watch_rules(marks: Sequence[bytes]) -> AsyncIterator[None]:
    """Yield as `notices` does, for messages that hold one of `marks`."""

    def is_news(message: bytes) -> bool:
        return any(mark in message for mark in marks)

    return notices("the firewall rules", [Subscription(_netlink_netfilter, _group, _longest, is_news)])
