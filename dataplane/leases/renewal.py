"""Keeps our lease ours: renews it in time, checks it when the watch gives reason to, ends when it is lost.

What must stay true: a store that is down never ends the daemon (the lease may outlive the outage), a lease that
is somebody else's always does, and time comes from a `Clock` so that a day passes in a test without waiting.
Source: flannel pkg/subnet/etcd/local_manager.go, whose retry this makes quicker and whose theft check it adds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from dataplane.errors import LeaseLost, StoreError
from dataplane.model import Lease
from dataplane.runtime.clock import Clock
from dataplane.stores.base import Store

log = logging.getLogger(__name__)

retry_s = 15.0
# Between two renewals, whatever asks for them: each one is an event, which could raise the next doubt. Where doubts go
# on, because another node writes the same lease, rests double; a lease that was made anew is no such fight.
shortest_rest_s = 1.0
longest_rest_s = 10.0
# The wall clock may be set while we sleep, or the machine may: looking at it this often bounds how long a lease seems to
# have expired then.
longest_sleep_s = 2.0


class Renewer:
    """Renews one lease until cancelled.

    Args:
        margin: seconds before expiry at which to renew.
        renewed: called with each new value of the lease.
        failed: called with the text of each failure to reach the store, and with None once it works again.
    """

    def __init__(
        self,
        store: Store,
        lease: Lease,
        margin: float,
        clock: Clock,
        renewed: Callable[[Lease], None],
        failed: Callable[[str | None], None],
    ) -> None:
        self.lease = lease
        self._store = store
        self._margin = margin
        self._clock = clock
        self._renewed = renewed
        self._failed = failed
        self._doubted = asyncio.Event()
        self._rest_s = shortest_rest_s
        self._calm_at = 0.0
        self._never = asyncio.Event()

    def doubt(self) -> None:
        """Ask for a renewal now, or after the last one's rest: the watch showed our lease gone or in other hands."""
        self._doubted.set()

    async def run(self) -> None:
        """Renew in time, for ever; raises `LeaseLost` once the lease is no longer ours."""
        due = self._due()
        looked = self._clock.now()
        while True:
            now = self._clock.now()
            if due is not None and now < looked:
                due = now  # the clock was set back, and no store's time to live waits for that
            looked = now
            rest = longest_sleep_s if due is None else due - now
            if rest > 0 and not await self._clock.wait(self._doubted, min(rest, longest_sleep_s)):
                continue
            doubted = self._doubted.is_set()
            self._doubted.clear()
            rest = shortest_rest_s
            born = self.lease.born
            try:
                self.lease = await self._store.renew(self.lease)
            except LeaseLost:
                raise
            except StoreError as error:
                self._failed(str(error))
                due = self._clock.now() + retry_s
                if doubted:
                    self._doubted.set()  # the lease may be somebody else's, and we forward for it: soon again
            else:
                self._failed(None)
                self._renewed(self.lease)
                due = self._due()
                rest = self._rest(doubted and self.lease.born == born)
                log.log(logging.DEBUG if rest > shortest_rest_s else logging.INFO, "renewed lease %s", self.lease.key)
            await self._clock.wait(self._never, rest)

    def _rest(self, doubted: bool) -> float:
        """Return how long to rest after a renewal."""
        now = self._clock.now()
        going_on = doubted and now < self._calm_at
        self._rest_s = min(longest_rest_s, 2 * self._rest_s) if going_on else shortest_rest_s
        if doubted:
            self._calm_at = now + self._rest_s + 2 * longest_rest_s
        return self._rest_s

    def _due(self) -> float | None:
        """When to renew next; None for a reservation, which has no end."""
        if self.lease.expires is None:
            return None
        # A margin longer than the lease lives must not become a busy loop.
        return max(self.lease.expires - self._margin, self._clock.now() + 1.0)
