"""Asking the store for what a start cannot do without: how long, how often, and what is told meanwhile.

What must stay true: not all nodes ask in step, where many start, or lose their lease, at once.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from dataplane.errors import BadInput, LeaseLost, NoLease, OutOfSubnets, StoreBusy, StoreError
from dataplane.observe.state import NodeState
from dataplane.runtime.clock import Clock

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")
Ask = Callable[[], Awaitable[Answer]]

config_retry_s = 1.0
acquire_retry_s = 3.0
acquire_s = 30.0
regain_first_s = 0.25  # of waiting for a lease in place of one that was withdrawn; doubles
regain_longest_s = 3.0  # so that status does not say that the store is silent


async def until_answered(state: NodeState, blocker: str, what: str, ask: Ask[Answer]) -> Answer:
    """Ask until the store answers, for ever, as flannel does; a wrong answer is raised as `BadInput`."""
    said = ""
    while True:
        try:
            answer = await ask()
        except StoreError as error:
            if str(error) != said:
                said = str(error)
                log.warning("waiting for %s: %s", what, said)
            state.blockers[blocker] = f"waiting for {what}: {error}"
            await asyncio.sleep(config_retry_s * random.uniform(0.5, 1.5))
        else:
            state.blockers.pop(blocker, None)
            return answer


async def patiently(state: NodeState, ask: Ask[Answer]) -> Answer:
    """Ask on the way to our lease: for half a minute, and for ever while the store is only busy; raises `StoreError`."""
    end = time.monotonic() + acquire_s
    while True:
        try:
            answer = await ask()
        except StoreError as error:
            late = time.monotonic() + acquire_retry_s > end and not isinstance(error, StoreBusy)
            if late or isinstance(error, OutOfSubnets):
                raise
            state.blockers["acquire"] = f"no lease yet: {error}"
            log.warning("no lease yet, trying again: %s", error)
            await asyncio.sleep(acquire_retry_s * random.uniform(0.5, 1.5))
        else:
            state.blockers.pop("acquire", None)
            return answer


async def until_moved(state: NodeState, renew: Ask[Answer]) -> Answer:
    """Tell the peers where we are now, for as long as it takes; raises `LeaseLost`."""
    while True:
        try:
            return await renew()
        except LeaseLost:
            raise
        except StoreError as error:
            state.blockers["moved"] = f"our new address cannot be told to the peers: {error}"
            log.warning("%s", state.blockers["moved"])
            await asyncio.sleep(config_retry_s)
        finally:
            state.blockers.pop("moved", None)


async def until_regained(state: NodeState, clock: Clock, ask: Ask[Answer]) -> Answer:
    """Ask the store, which has withdrawn our lease, until it has one for us again, for ever."""
    delay, said = regain_first_s, ""
    while True:
        try:
            answer = await ask()
        except (StoreError, BadInput) as error:
            if isinstance(error, NoLease | BadInput):
                state.store_contact = clock.now()
            text = f"no lease yet: {error}"
            if text != said:
                log.warning("%s", text)
            state.blockers["acquire"] = said = text
            await asyncio.sleep(delay * random.uniform(0.75, 1.25))
            delay = min(regain_longest_s, 2 * delay)
        else:
            state.blockers.pop("acquire", None)
            return answer
