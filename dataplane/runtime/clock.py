"""Time, as everything that waits or dates sees it: in tests a day passes without waiting."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Time as the control loop sees it."""

    def now(self) -> float:
        """Return Unix time in seconds."""
        ...

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait for `event`, at most `seconds`; return whether it is set."""
        ...


class WallClock:
    """Real time."""

    def now(self) -> float:
        """Return Unix time in seconds."""
        return time.time()

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        """Wait for `event`, at most `seconds`; return whether it is set."""
        try:
            async with asyncio.timeout(max(0.0, seconds)):
                await event.wait()
        except TimeoutError:
            return False
        return True
