"""Keeps a blackhole route for our own subnet (--ip-blackhole-route): what is for a pod that is gone is not sent around.

As in flannel, whose users (Canal) route to each pod by a route of its own. What must stay true: a route that the host
itself has for the subnet, such as the bridge's, is never replaced.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Protocol

from dataplane.errors import HostError
from dataplane.model import IPNetwork
from dataplane.observe.state import NodeState
from dataplane.runtime.clock import Clock
from dataplane.runtime.say import Say

log = logging.getLogger(__name__)


class Blackholes(Protocol):
    """The part of `host.netlink.Host` that this needs."""

    async def add_blackhole(self, prefix: IPNetwork) -> bool:
        """Add a blackhole route unless the prefix has a route; return whether it has a blackhole route now."""
        ...


async def keep_blackholes(
    host: Blackholes, subnets: Sequence[IPNetwork], period_s: float, state: NodeState, clock: Clock
) -> None:
    """Look every `period_s` seconds whether the routes are there, and add them, for ever."""
    never = asyncio.Event()
    say = Say(log)
    while True:
        for subnet in subnets:
            subject = f"blackhole {subnet}"
            try:
                ours = await host.add_blackhole(subnet)
                text = "" if ours else f"no blackhole route for {subnet}: the host has another route for it"
            except HostError as error:
                text = str(error)
            if text:
                state.notes[subject] = text
                say.warn(subject, text, clock.now())
            else:
                state.notes.pop(subject, None)
                say.over(subject, f"the blackhole route for {subnet} is there")
        await clock.wait(never, period_s)
