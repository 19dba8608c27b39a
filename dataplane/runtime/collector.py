"""Keeps Python's garbage collector away from what stays: the leases, and all that is made of them.

A full collection goes through every object that there is, in one go and with no other thread running: 0.2 s and more
for 100,000 leases. What is old enough to stay is therefore put where the collector does not look (gc.freeze); it is freed
as ever when nobody refers to it any more. What must stay true: a cycle that is put there and becomes garbage later is
never freed, so what is garbage already is collected first, and where there are few leases all is looked at again
before others come in; whoever makes many objects calls `settle` now and then, in pieces that are soon gone through.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from typing import TypeVar

Item = TypeVar("Item")

piece = 1000  # leases, decoded or worked on: 3 ms or so for the collector


def settle() -> None:
    """Collect what has become garbage since the last time, and have the collector never look at the rest again."""
    gc.collect()
    gc.freeze()


def settling(items: Iterable[Item]) -> Iterator[Item]:
    """Yield the items, and settle what was made of them after each piece."""
    for number, item in enumerate(items, 1):
        yield item
        if number % piece == 0:
            settle()


def settle_anew() -> None:
    """Do the same with all that there is, so that cycles that became garbage since are found; where that is not much."""
    gc.unfreeze()
    settle()
