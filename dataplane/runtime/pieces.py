"""Cuts what may be long into pieces, between which everything else has its turn."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Collection, Iterator, Sequence
from itertools import islice
from typing import TypeVar

Item = TypeVar("Item")

piece = 500  # leases, or what is made of them: some milliseconds


def pieces_of(items: Collection[Item], size: int = piece) -> Iterator[Sequence[Item]]:
    """Cut into pieces; what there is now counts, whatever becomes of `items` meanwhile."""
    held = list(items)
    return (held[at : at + size] for at in range(0, len(held), size))


def batched(items: Iterator[Item], size: int = piece) -> Iterator[list[Item]]:
    """Take so many at a time out of what is made as it is asked for."""
    while taken := list(islice(items, size)):
        yield taken


async def paced(items: Collection[Item]) -> AsyncGenerator[Item, None]:
    """Yield the items that there are now, and let everything else have its turn after each piece."""
    for some in pieces_of(items):
        for item in some:
            yield item
        await asyncio.sleep(0)


async def in_turns(parts: Iterator[bytes]) -> bytes:
    """Put together what is made part by part, and let everything else have its turn after each."""
    made = []
    for part in parts:
        made.append(part)
        await asyncio.sleep(0)
    return b"".join(made)
