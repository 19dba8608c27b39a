"""The life loop's two helpers: what carries the packets from one life to the next, and the wait after a start that failed.

What must stay true: what an earlier life built is let go of only when the next one is about to build; what passes is
waited for, told, and tried again when the host changes, or after a bounded while; what a person must mend ends a first
start, and nothing that once stood.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Protocol

from dataplane.daemon.control import Control
from dataplane.errors import DataplaneError, HostError, HostFault, printable
from dataplane.leases.renewal import Clock
from dataplane.observe.state import NodeState
from dataplane.runtime.say import Say

log = logging.getLogger(__name__)

subject = "host"
rest_s = 0.1  # what a failed start took away again is a change of the host too
first_delay_s = 0.5  # doubles
longest_delay_s = 10.0


class Standing:
    """The devices and routes that forward now: of the life that goes on, or of the last one that did."""

    def __init__(self) -> None:
        self._control: Control | None = None

    async def replace(self, control: Control) -> None:
        """Let go of what stood; `control` is opened next, under the same names and ports."""
        await self.close()
        self._control = control

    async def close(self) -> None:
        """Let go of it. What flannel leaves behind for a restart stays."""
        control, self._control = self._control, None
        if control is not None:
            await control.close()

    async def withdraw(self) -> None:
        """Take all of it away: the lease is lost."""
        control, self._control = self._control, None
        if control is not None:
            await control.withdraw()
            await control.close()


class Changes(Protocol):
    """The part of `host.netlink.Host` that tells of changes."""

    def changes(self) -> AsyncIterator[None]:
        """Yield at every change of links, addresses or routes."""
        ...


class Patience:
    """Waits between two attempts to start."""

    def __init__(self, host: Changes, state: NodeState, clock: Clock) -> None:
        self._host = host
        self._state = state
        self._clock = clock
        self._say = Say(log)
        self._delay_s = first_delay_s
        self._never = asyncio.Event()

    async def after(self, error: BaseException, *, stood: bool) -> None:
        """Tell of a trouble and wait for a change of the host, or for a while.

        Args:
            stood: whether this process has been ready before.
        Raises:
            BaseException: `error` itself, if a person must mend what it names and nothing stood.
        """
        if isinstance(error, HostFault) and not stood:
            raise error
        known = isinstance(error, DataplaneError)
        text = str(error) if known else printable(f"{type(error).__name__}: {error}")
        self._state.blockers[subject] = f"waiting for the host: {text}"
        self._say.warn(subject, self._state.blockers[subject], self._clock.now())
        await self._clock.wait(self._never, rest_s)
        news = asyncio.Event()
        listening = asyncio.create_task(self._listen(news))
        try:
            await self._clock.wait(news, self._delay_s)
        finally:
            listening.cancel()
            await asyncio.gather(listening, return_exceptions=True)
        self._delay_s = min(longest_delay_s, 2 * self._delay_s)

    def over(self) -> None:
        """The host was fit for what was tried."""
        self._delay_s = first_delay_s
        self._state.blockers.pop(subject, None)
        self._say.over(subject, "the host is fit for use")

    async def _listen(self, news: asyncio.Event) -> None:
        subscribed = False
        try:
            async for _ in self._host.changes():
                if subscribed:
                    news.set()
                subscribed = True
        except HostError as error:
            log.debug("cannot hear of the host's changes: %s", error)
