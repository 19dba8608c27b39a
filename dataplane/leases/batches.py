"""Takes a watch's events as many at a time as stand ready, so that ten thousand cost one change of the table.

How it works: a task reads the watch for as long as it gives without waiting, and then whoever waits for the batch
gets its turn. What must stay true: no event is lost, reordered or held back for others to come; the watch's end and
its failure are told after the last event; nothing is read ahead of a consumer that does not wait between batches.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from dataplane.model import WatchEvent

largest_batch = 500  # the daemon does nothing else meanwhile: 30 ms or so


async def batches(events: AsyncIterator[WatchEvent]) -> AsyncGenerator[list[WatchEvent], None]:
    """Yield what stands ready, in order; ends and fails as `events` does."""
    ready: list[WatchEvent] = []
    news = asyncio.Event()

    async def collect() -> None:
        try:
            async for event in events:
                ready.append(event)
                news.set()
        finally:
            news.set()

    collecting = asyncio.create_task(collect(), name="watch-collect")
    try:
        while True:
            await news.wait()
            news.clear()
            while ready:
                batch = ready[:largest_batch]
                del ready[:largest_batch]
                yield batch
            if collecting.done():
                await collecting
                return
    finally:
        collecting.cancel()
        await asyncio.gather(collecting, return_exceptions=True)
