"""Watches what we were told at the start: the external interface, and the network configuration.

What must stay true: the interface that was chosen is kept for as long as it has our address, whatever else appears on
the host; only once it has not is the choice made anew, and a change that does not last is none.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Protocol

from dataplane.backends import from_conf
from dataplane.control.renew import Clock
from dataplane.control.say import Say
from dataplane.errors import DataplaneError, HostError, NoConfig, StoreError
from dataplane.host.interface import ExternalInterface
from dataplane.host.netlink import Address, Link
from dataplane.model import NetConf
from dataplane.observe.state import NodeState
from dataplane.stores.base import Store

log = logging.getLogger(__name__)

look_s = 10.0
lasting_s = 0.3  # a change that is still there after this is meant: DHCP clients take an address away to put it back
config_s = 30.0


class Moved(DataplaneError):
    """The node's external interface is another one, or has another address or MTU."""

    def __init__(self, external: ExternalInterface) -> None:
        super().__init__(f"{external.name} {external.address or external.address6} mtu {external.mtu}")
        self.external = external


class Links(Protocol):
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
    host: Links, current: ExternalInterface, choose: Callable[[], Awaitable[ExternalInterface]], clock: Clock
) -> None:
    """Raise `Moved` once the interface has lastingly become another; never returns otherwise."""
    never = asyncio.Event()
    while True:
        try:
            async for _ in host.changes():
                moved = await _moved(host, current, choose)
                if moved is None:
                    continue
                await clock.wait(never, lasting_s)
                if await _moved(host, current, choose) == moved:
                    raise Moved(moved)
        except HostError as error:
            log.debug("cannot look at the external interface: %s", error)
        await clock.wait(never, look_s)


async def _moved(
    host: Links, current: ExternalInterface, choose: Callable[[], Awaitable[ExternalInterface]]
) -> ExternalInterface | None:
    """What the external interface has become; None: nothing else, or nothing that is fit for use."""
    link = await host.link(current.name)
    if link is not None:
        present = {address.interface.ip for address in await host.addresses(link.index)}
        if all(address is None or address in present for address in (current.address, current.address6)):
            return None if link.mtu == current.mtu else replace(current, index=link.index, mtu=link.mtu)
    try:
        chosen = await choose()
    except DataplaneError:
        return None
    same = (chosen.name, chosen.address, chosen.address6) == (current.name, current.address, current.address6)
    return None if same else chosen


async def follow_config(store: Store, conf: NetConf, state: NodeState, clock: Clock) -> None:
    """Say when the store's network configuration is no longer the one in use, for ever. It is read at start only."""
    never = asyncio.Event()
    say = Say(log)
    while True:
        await clock.wait(never, config_s)
        news = ""
        try:
            found = await store.read_config()
            if found != conf:
                from_conf(found)
                news = "it has changed; restart the daemon to take it up"
        except NoConfig as error:
            news = f"it was deleted ({error}); put it back: a daemon that starts without it waits"
        except StoreError:
            continue  # `ping` tells
        except DataplaneError as error:
            news = f"it has changed, to one that cannot be used ({error}); mend it: a daemon that starts with it ends"
        if news:
            text = f"the network configuration in use is not the store's: {news}"
            state.notes["config"] = text
            say.warn("config", text, clock.now())
        else:
            state.notes.pop("config", None)
            say.over("config", "the network configuration in use is the store's again")
