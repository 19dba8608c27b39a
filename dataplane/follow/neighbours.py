"""Has the machines on the link know our MAC, whenever it may be another: at each start, and when the interface is made anew.

A machine that comes back with another network card has its addresses as before, and whoever sent there goes on to send to
the old card for up to a minute. What must stay true: nothing is said of an address that the interface has not; it
costs some packets a change, and never the life.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from dataplane.errors import HostError
from dataplane.follow.interface import HostLinks, listen
from dataplane.host.interface import ExternalInterface
from dataplane.model import IPAddress
from dataplane.runtime.clock import Clock

log = logging.getLogger(__name__)

look_s = 10.0
rest_s = 1.0  # neighbours take no other MAC so soon after the last (Linux' locktime), and an interface may flap
Tell = Callable[[str, Sequence[IPAddress | None]], None]


async def keep_neighbours_told(host: HostLinks, external: ExternalInterface, tell: Tell, clock: Clock) -> None:
    """Call `tell` now and whenever index, MAC or state of the interface change, or it has our addresses again; for ever."""
    news, never = asyncio.Event(), asyncio.Event()
    listening = asyncio.create_task(listen(host, news, clock), name="neighbour changes")
    told: object = None
    try:
        while True:
            try:
                link = await host.link(external.name)
                if link is None or not link.up:
                    told = None
                else:
                    present = {address.interface.ip for address in await host.addresses(link.index)}
                    ours = [one for one in (external.address, external.address6) if one in present]
                    if told != (link.index, link.mac, ours):
                        await asyncio.to_thread(tell, external.name, ours)
                        told = link.index, link.mac, ours
            except HostError as error:
                log.debug("%s", error)
            await clock.wait(never, rest_s)
            await clock.wait(news, look_s)
            news.clear()
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
