"""Measures peers: small packets, then one that fills the overlay's MTU, and if that is lost, the largest that passes.

What must stay true: at most `most_at_once` peers are asked at a time, and each takes a bounded number of packets.
"""

from __future__ import annotations

import asyncio
import errno
import os
import statistics
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from dataplane.reach.echo import smallest
from dataplane.reach.targets import Target

most_at_once = 64
between_s = 0.1  # small packets
wait_s = 1.0
tries = 3  # of a size, before it does not pass: a single loss says nothing of the MTU
least_wait_s = 0.25  # for a size, once it is known how long answers take


class Asks(Protocol):
    """What is used of `echo.Echo`."""

    async def ask(self, target: Target, size: int, wait_s: float) -> float | None:
        """Seconds until the answer, None without; raises `OSError` if it could not be sent."""
        ...


@dataclass(slots=True)
class Result:
    """What was measured.

    Attributes:
        sent: small packets.
        times: seconds, of those that were answered.
        error: why the last one that could not be sent was not; "" for none.
        full: whether one as large as the MTU was answered; None where small ones were not.
        largest: bytes of the largest that was.
    """

    target: Target
    sent: int = 0
    times: list[float] = field(default_factory=list)
    error: str = ""
    full: bool | None = None
    largest: int | None = None

    @property
    def well(self) -> bool:
        """Everything was answered."""
        return len(self.times) == self.sent and self.full is True


async def measure_all(
    echo: Asks, targets: Iterable[Target], count: int, done: Callable[[Result], None]
) -> list[Result]:
    """Measure all of them; `done` is called as each is finished. Raises `HostError`."""
    room = asyncio.Semaphore(most_at_once)

    async def one(target: Target) -> Result:
        async with room:
            result = await measure(echo, target, count)
        done(result)
        return result

    return await asyncio.gather(*(one(target) for target in targets))


async def measure(echo: Asks, target: Target, count: int) -> Result:
    """Measure one."""
    result, small = Result(target, count), smallest[target.ask.version]

    async def ask(size: int, wait: float) -> float | None:
        try:
            return await echo.ask(target, size, wait)
        except OSError as error:
            if error.errno != errno.EMSGSIZE:  # what that means is found out below
                result.error = os.strerror(error.errno) if error.errno else str(error)
            return None

    async def later(number: int) -> float | None:
        await asyncio.sleep(number * between_s)
        return await ask(small, wait_s)

    answers = await asyncio.gather(*(later(number) for number in range(count)))
    result.times = [seconds for seconds in answers if seconds is not None]
    if not result.times:
        return result
    wait = min(wait_s, max(least_wait_s, 10 * max(result.times)))

    async def passes(size: int) -> bool:
        for _ in range(tries):
            if await ask(size, wait) is not None:
                return True
        return False

    result.full = await passes(target.mtu)
    result.largest = target.mtu if result.full else await largest(passes, small, target.mtu)
    return result


async def largest(passes: Callable[[int], Awaitable[bool]], low: int, high: int) -> int:
    """Return the largest size that passes, where `low` does and `high` does not."""
    while high - low > 1:
        middle = (low + high) // 2
        if await passes(middle):
            low = middle
        else:
            high = middle
    return low


def milliseconds(times: list[float]) -> tuple[float, float, float]:
    """Least, median and most."""
    return round(1000 * min(times), 3), round(1000 * statistics.median(times), 3), round(1000 * max(times), 3)
