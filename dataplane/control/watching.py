"""The store's side of the control loop: its events are brought, and its silence is told.

What must stay true: no failure of the store stops the forwarding; a watch that does not stand is told, whatever else
the store answers; nobody asks again in step with the other nodes.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import aclosing

from dataplane.errors import StoreError
from dataplane.leases.batches import batches
from dataplane.model import WatchEvent
from dataplane.observe.state import NodeState
from dataplane.runtime.clock import Clock
from dataplane.runtime.say import Say
from dataplane.stores.base import Store

log = logging.getLogger(__name__)

ping_s = 1.0
ping_limit_s = 3.0
slice_units = 120  # of work on leases at a time: 10 ms or so
watch_limit_s = 3.0  # without a watch that stands, after which the node is not ready


class Watching:
    """Follows one store.

    Args:
        slices: takes events in, so many units of work at a time (`Control.slices`).
    """

    def __init__(
        self,
        store: Store,
        slices: Callable[[Sequence[WatchEvent], int], Iterator[None]],
        state: NodeState,
        clock: Clock,
    ) -> None:
        self._store = store
        self._slices = slices
        self._state = state
        self._clock = clock
        self._never = asyncio.Event()
        self._say = Say(log)
        self._random = random.SystemRandom()
        self._watched_at = clock.now()  # the store's watch stood then, or we began
        self._unwatched = ""  # what the last watch failed by
        self._delay_s = store.first_delay_s

    async def watch(self) -> None:
        """Follow the store for ever; what fails is begun again, with a fresh snapshot."""
        self._watched_at = self._clock.now()
        self._delay_s = self._store.first_delay_s
        while True:
            try:
                async with aclosing(self._store.watch()) as events, aclosing(batches(events)) as ready:
                    async for batch in ready:
                        for _ in self._slices(batch, slice_units):
                            await asyncio.sleep(0)
                        # Another batch may stand ready; everything else must get its turn too.
                        await asyncio.sleep(0)
                reason = "the watch ended"
            except StoreError as error:
                reason = str(error)
            self._unwatched = reason
            self._state.events["store_errors"] += 1
            self._say.warn("watch", f"cannot watch the lease store: {reason}; trying again", self._clock.now())
            await self._clock.wait(self._never, self._random.uniform(0, self._delay_s))
            self._delay_s = min(self._store.longest_delay_s, 2 * self._delay_s)

    async def ping(self) -> None:
        """Ask the store for a sign of life about once a second, and look whether its watch stands, for ever."""
        while True:
            self._look_at_watch()
            try:
                async with asyncio.timeout(ping_limit_s):
                    await self._store.ping()
            except (StoreError, TimeoutError) as error:
                self._state.events["store_errors"] += 1
                reason = str(error) or f"no answer within {ping_limit_s:.0f} s"
                self._state.notes["store"] = f"the lease store does not answer: {reason}"
                self._say.warn("ping", self._state.notes["store"], self._clock.now())
            else:
                self._state.store_contact = self._clock.now()
                self._state.notes.pop("store", None)
                self._say.over("ping", "the lease store answers again")
            await self._clock.wait(self._never, ping_s)

    def _look_at_watch(self) -> None:
        """Tell of a store whose watch does not stand, whatever else it answers: nothing new is heard from it."""
        now = self._clock.now()
        if self._store.stands:
            self._watched_at = now
            self._unwatched = ""
            self._delay_s = self._store.first_delay_s
            self._state.blockers.pop("watch", None)
            self._say.over("watch", "watching the lease store again")
        elif abs(now - self._watched_at) > watch_limit_s:  # abs: the clock may be set back
            why = self._unwatched or "it has not taken our watch"
            self._state.blockers["watch"] = f"no changes of leases arrive from the store: {why}"
