"""The wait after a start that failed.

What must stay true: what passes is waited for, told, and tried again when the host changes, or after a bounded while;
what a person must mend ends a first start, and nothing that once stood.
"""

from __future__ import annotations

import asyncio
import logging

from dataplane.control.loop import Changes
from dataplane.errors import DataplaneError, HostError, HostFault, printable
from dataplane.observe.state import NodeState
from dataplane.runtime.clock import Clock
from dataplane.runtime.say import Say

log = logging.getLogger(__name__)

subject = "host"
rest_s = 0.1  # what a failed start took away again is a change of the host too
first_delay_s = 0.5  # doubles
longest_delay_s = 10.0


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
