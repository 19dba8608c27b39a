"""Whether the machine is ours: the processors' use just before and just after a measurement.

On a machine with other users a figure may be theirs as much as ours. What must stay true: a measurement is repeated for
what the processors did around it, never for its value; one that stays disturbed is kept and marked.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Value = TypeVar("Value")

most_busy = 0.12  # of all processors; the idle contestants, timers and this process stay far below
window_s = 0.1
most_attempts = 4
_clock_ticks = 100  # USER_HZ, fixed for /proc (linux/include/asm-generic/param.h)
_busy_fields = (0, 1, 2, 5, 6, 7)  # of /proc/stat's cpu line: user, nice, system, irq, softirq, steal (proc(5))


def busy_seconds() -> float:
    """Return the seconds that the processors were at work, or taken away by a host, since boot."""
    return read_busy(Path("/proc/stat").read_text())


def read_busy(text: str) -> float:
    """Read the same out of /proc/stat's text."""
    values = text.split("\n", 1)[0].split()[1:]
    return sum(int(values[index]) for index in _busy_fields) / _clock_ticks


def busy_share() -> float:
    """Return the processors' use over the next `window_s`, 0 to 1."""
    before, start = busy_seconds(), time.monotonic()
    time.sleep(window_s)
    return (busy_seconds() - before) / (time.monotonic() - start) / (os.cpu_count() or 1)


class Quiet:
    """Measures while nobody else works, as long as patience lasts.

    Args:
        patience_s: seconds to spend on waiting and repeating, over the whole life of this object.
        share: tells the processors' use, 0 to 1.
        clock: tells the time, seconds.
    """

    def __init__(
        self,
        patience_s: float,
        share: Callable[[], float] = busy_share,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.left_s = patience_s
        self._share = share
        self._clock = clock

    def measure(self, run: Callable[[], Value]) -> tuple[Value, bool]:
        """Return what `run` returned, and whether nobody else was seen around it."""
        attempt = 1
        while True:
            begun = self._clock()
            quiet = self._wait()
            self.left_s -= self._clock() - begun
            begun = self._clock()
            value = run()
            quiet = quiet and self._share() < most_busy
            if quiet or self.left_s <= 0 or attempt == most_attempts:
                return value, quiet
            self.left_s -= self._clock() - begun
            attempt += 1

    def _wait(self) -> bool:
        until = self._clock() + max(self.left_s, 0)
        while self._share() >= most_busy:
            if self._clock() >= until:
                return False
        return True
