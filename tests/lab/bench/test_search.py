"""The search for the highest rate that arrives."""

from __future__ import annotations

import pytest

from dataplane.lab.bench.search import Step, most_steps, search


class Channel:
    """A path that carries up to `capacity`, and beyond it `collapse` of that; or one that holds its sender back."""

    def __init__(self, capacity: float, collapse: float = 1.0, holds_back: bool = False) -> None:
        self.capacity, self.collapse, self.holds_back = capacity, collapse, holds_back
        self.asked: list[float] = []

    def __call__(self, rate: float) -> Step:
        self.asked.append(rate)
        sent = min(rate, self.capacity) if self.holds_back else rate
        received = sent if sent <= self.capacity else self.capacity * self.collapse
        return Step(rate, sent, received, 1.0, int(received))


@pytest.mark.parametrize("capacity", [20e3, 90e3, 300e3, 310e3, 700e3])
@pytest.mark.parametrize("collapse", [1.0, 0.3])
def test_search_comes_close_to_the_capacity_in_bounded_steps(capacity: float, collapse: float) -> None:
    channel = Channel(capacity, collapse)
    best = search(channel, 300e3)
    assert best is not None
    assert capacity * 0.8 <= best.received <= capacity
    assert len(channel.asked) <= most_steps


def test_search_ends_where_the_sender_is_held_back() -> None:
    channel = Channel(100e3, holds_back=True)
    best = search(channel, 300e3)
    assert best is not None
    assert best.received == 100e3
    assert len(channel.asked) == 1


def test_search_finds_nothing_where_everything_is_lost() -> None:
    channel = Channel(0.0)
    assert search(channel, 300e3) is None
    assert len(channel.asked) == most_steps
