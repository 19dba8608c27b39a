"""Watches the external interface that was chosen at the start.

What must stay true: the interface that was chosen is kept for as long as it has our address, whatever else appears on
the host; only once it has not is the choice made anew, and a change that does not last is none, nor is a link-local
address that is left where there was another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from dataplane.errors import DataplaneError, HostError, Moved
from dataplane.host.interface import ExternalInterface
from dataplane.host.links import Address, Link
from dataplane.observe.state import NodeState
from dataplane.runtime.clock import Clock

log = logging.getLogger(__name__)

look_s = 10.0
again_s = 1.0  # while it is not fit for use, or about to be another
lasting_s = 0.3  # a change that is still there after this is meant: DHCP clients take an address away to put it back
subject = "interface"
Choose = Callable[[], Awaitable[ExternalInterface]]
Check = Callable[[ExternalInterface], None]  # raises `HostError` if it is not fit for use


class HostLinks(Protocol):
    """The part of `host.netlink.Host` that this needs."""

    async def link(self, name: str) -> Link | None:
        """The link of this name."""
        ...

    async def addresses(self, index: int | None = None) -> list[Address]:
        """Addresses of a link."""
        ...

    def changes(self) -> AsyncIterator[None]:
        """Yield at every change of links, addresses or routes."""
        ...


async def follow_interface(
    host: HostLinks, current: ExternalInterface, choose: Choose, check: Check, state: NodeState, clock: Clock
) -> None:
    """Raise `Moved` once the interface has lastingly become another that is fit for use; never returns otherwise.

    Until then what stands goes on, and `state.blockers` says what is missing.
    """
    never, news = asyncio.Event(), asyncio.Event()
    listening = asyncio.create_task(listen(host, news, clock), name="interface changes")
    rest = look_s
    try:
        while True:
            await clock.wait(news, rest)
            news.clear()
            moved = await _moved(host, current, choose, check, state)
            if moved is not None:
                await clock.wait(never, lasting_s)
                if await _moved(host, current, choose, check, state) == moved:
                    raise Moved(f"{moved.name} {moved.address or moved.address6} mtu {moved.mtu}", moved)
            # What was seen may have been the look's own failure, after which the kernel has nothing to tell.
            rest = again_s if moved is not None or subject in state.blockers else look_s
    finally:
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
        state.blockers.pop(subject, None)


async def listen(host: HostLinks, news: asyncio.Event, clock: Clock) -> None:
    """Set `news` at every change that the kernel reports, for ever."""
    never = asyncio.Event()
    while True:
        try:
            async for _ in host.changes():
                news.set()
        except HostError as error:
            log.debug("cannot hear of the external interface: %s", error)
        await clock.wait(never, look_s)


async def fit_interface(
    host: HostLinks, current: ExternalInterface | None, choose: Choose, check: Check
) -> ExternalInterface:
    """Return the external interface as it is now, fit for use; chosen anew if it has not our addresses any more.

    Raises:
        HostError: there is none (yet); a `HostFault` if none will come by itself.
    """
    found = None if current is None else await _kept(host, current)
    if found is None:
        found = await choose()
        _check_scope(found, current)
    link = await host.link(found.name)
    if link is None or link.index != found.index:
        raise HostError(f"interface {found.name} vanished while it was looked at")
    if not link.up:
        raise HostError(f"interface {found.name} is down")
    check(found)
    return found


def _check_scope(found: ExternalInterface, current: ExternalInterface | None) -> None:
    """Raise `HostError` if all that is left is a link-local address: what a link has by itself until the real one is back."""
    if current is None:
        return
    for before, now in ((current.address, found.address), (current.address6, found.address6)):
        if now is not None and now.is_link_local and not (before is not None and before.is_link_local):
            raise HostError(f"interface {found.name} has lost our address {before}, and has none but {now} of the link")


async def _kept(host: HostLinks, current: ExternalInterface) -> ExternalInterface | None:
    link = await host.link(current.name)
    if link is None:
        return None
    present = {address.interface.ip for address in await host.addresses(link.index)}
    if any(address is not None and address not in present for address in (current.address, current.address6)):
        return None
    return replace(current, index=link.index, mtu=link.mtu)


async def _moved(
    host: HostLinks, current: ExternalInterface, choose: Choose, check: Check, state: NodeState
) -> ExternalInterface | None:
    """What the external interface has become; None: nothing else, or nothing that is fit for use."""
    try:
        found = await fit_interface(host, current, choose, check)
    except DataplaneError as error:
        state.blockers[subject] = f"the external interface is not fit for use: {error}"
        return None
    state.blockers.pop(subject, None)
    same = (found.name, found.mtu, found.address, found.address6)
    return None if same == (current.name, current.mtu, current.address, current.address6) else found
