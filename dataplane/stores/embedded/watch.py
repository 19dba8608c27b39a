"""Following the embedded store's changes: a thread that polls, and the asynchronous iterator on top of it.

Polling is one `PRAGMA data_version` on a connection of the watch's own: a look into shared memory. What must stay
true: the first thing told is a Snapshot; a change is told within a few poll intervals, whoever made it; a watcher
that was away longer than the event log reaches is told a Snapshot; a lease that ends is deleted by whichever
watcher comes first, and told by all as gone.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from dataplane.model import WatchEvent
from dataplane.stores.base import Watched
from dataplane.stores.embedded import rows
from dataplane.stores.embedded.database import Database, LeaseClock
from dataplane.stores.embedded.own_writes import Writers

poll_seconds = 0.02
"""A change is told after 10 ms on average; waking up is nearly all of what an idle watch costs."""


class Follower:
    """One watcher's position. `next` and `close` are for one thread, `stop` is for any.

    Args:
        path, ttl, clock: as for `Database`.
        history: how many events the log keeps, needed where this watcher writes (expiry).
        writers: knows which writes are our own.
        create: as for `Database`.
    """

    def __init__(self, path: Path, ttl: float, history: int, clock: LeaseClock, writers: Writers, create: bool) -> None:
        self._path = path
        self._ttl = ttl
        self._history = history
        self._clock = clock
        self._writers = writers
        self._create = create
        self._stopped = False
        self._database: Database | None = None
        self._seen = 0
        self._revision: int | None = None
        self._deadline: float | None = None

    def next(self) -> list[WatchEvent]:
        """Wait for changes and return them in order; returns none only when stopped.

        Raises:
            StoreError: the file cannot be used any more.
        """
        if self._database is None:
            self._database = Database(self._path, self._ttl, self._clock, self._create)
        while not self._stopped:
            events = self._look(self._database)
            if events:
                return events
            time.sleep(poll_seconds)  # half the processor time of an Event's wait
        return []

    def stop(self) -> None:
        """Make `next` return soon."""
        self._stopped = True

    def close(self) -> None:
        """Let go of the file."""
        if self._database is not None:
            self._database.close()

    def _look(self, database: Database) -> list[WatchEvent]:
        database.check_identity()
        # Noted before reading: what is committed in between is looked at once more, never missed.
        seen = database.data_version()
        due = self._deadline is not None and self._clock.awake() >= self._deadline
        if seen == self._seen and not due and self._revision is not None:
            return []
        if due:
            with database.write() as connection:
                rows.expire(connection, self._clock.awake())
                rows.trim(connection, self._history)
        with database.read() as connection:
            changes = rows.changes(connection, self._revision)
            second = self._writers.judge(connection, self._revision) if changes.events else None
            self._deadline = rows.next_deadline(connection)
        self._seen, self._revision = seen, changes.revision
        return [*changes.events, second] if second else changes.events


async def follow(follower: Follower, watched: Watched) -> AsyncGenerator[WatchEvent, None]:
    """Yield the follower's changes; raises `StoreError`, and otherwise ends only by cancellation.

    The next changes are read when the last have been taken, so a slow reader costs no memory.
    """
    thread = ThreadPoolExecutor(1, thread_name_prefix="lease-watch")
    loop = asyncio.get_running_loop()
    try:
        while True:
            events = await loop.run_in_executor(thread, follower.next)
            watched.stands = True
            for event in events:
                yield event
    finally:
        watched.stands = False
        follower.stop()
        thread.submit(follower.close)  # after `next` has returned, in the thread that the connection belongs to
        thread.shutdown(wait=False)
