"""The search for the highest rate that arrives with next to no loss, in a bounded number of steps.

What must stay true: what is returned was measured, never interpolated; a path that pushes back on the sender (the
kernel's vxlan works in the sender's own context) is recognised by a sender that falls short of what it was asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf, sqrt

most_loss = 0.005
most_steps = 8
close_enough = 1.05
_short_of = 0.97  # a sender below this share of the asked rate is being held back
_growth = 1.3


@dataclass(frozen=True, slots=True)
class Step:
    """One step: rates in packets per second, and the processors' seconds over its time."""

    asked: float
    sent: float
    received: float
    cpu_s: float
    packets: int

    @property
    def loss(self) -> float:
        """Share of the sent packets that did not arrive, 0 to 1."""
        return 1 - self.received / self.sent if self.sent else 1.0


def search(measure: Callable[[float], Step], start: float, steps: int = most_steps) -> Step | None:
    """Return the step that received most at less than `most_loss`; None if none did.

    Args:
        measure: run one step at a rate in packets per second.
        start: the first rate to ask for.
    """
    low, high, best = 0.0, inf, None
    rate = start
    for _ in range(steps):
        step = measure(rate)
        if step.loss < most_loss:
            low = max(low, rate)
            if best is None or step.received > best.received:
                best = step
            if step.sent < rate * _short_of:
                break
        else:
            high = min(high, rate, step.sent)
        if low and high / low <= close_enough:
            break
        rate = max(_next_rate(low, high, step), 1000.0)
    return best


def _next_rate(low: float, high: float, step: Step) -> float:
    if high == inf:
        return low * _growth
    # Nothing was carried yet: under overload less may arrive than could, so what did arrive is a guess from below.
    return sqrt(low * high) if low else min(step.received * 0.95, high * 0.85)
