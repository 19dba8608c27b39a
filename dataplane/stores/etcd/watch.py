"""Following the leases in etcd: everything at one revision, then every change after it.

What must stay true: no change is skipped silently. So a position is kept only while one connection lives: when that
breaks, `StoreError` ends the watch and its caller begins again with a Snapshot. To resume would mean to tell a restored
server from the old one, and one restored from a backup can have the same cluster id and, after some writes, a higher
revision. While a connection lives, a compaction, another cluster id or a revision before the Snapshot's (a proxy in
between may hide a restore) lead to a new Snapshot. A watch that stands may bring nothing all the same (a proxy that lost it), and a
quiet one looks no different: now and then etcd is asked whether it has a change that the watch has not brought.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from random import Random

from dataplane.errors import StoreError, printable
from dataplane.model import WatchEvent
from dataplane.stores.base import Watched
from dataplane.stores.etcd import etcd_pb2 as pb
from dataplane.stores.etcd.client import Client
from dataplane.stores.etcd.leases import delete_event, put_event, snapshot
from dataplane.stores.etcd.own_writes import Writers

shortest_rest_s = 60.0  # between two comparisons
leases_a_second = 50  # at most are read for them by one node
grace_s = 3.0


def prefix_end(key: bytes) -> bytes:
    """Return the end of the range of all keys that begin with `key`, whose last byte must not be 255."""
    return key[:-1] + bytes([key[-1] + 1])


async def listing(client: Client, prefix: bytes) -> pb.RangeResponse:
    """Return every key that begins with `prefix`, at one revision; raises `StoreError`."""
    request = pb.RangeRequest(key=prefix, range_end=prefix_end(prefix))
    return await client.read("KV/Range", request, pb.RangeResponse)


class Progress(Watched):
    """How far a watch has come.

    Attributes:
        revision: of the newest change that it has brought, or of the list that it began with.
        leases: in that list.
        overdue: a change that etcd has does not come.
    """

    __slots__ = ("leases", "overdue", "revision")

    def __init__(self) -> None:
        super().__init__()
        self.revision = 0
        self.leases = 0
        self.overdue = asyncio.Event()


class Comparison:
    """Looks now and then whether etcd has a change that the watch has not brought. The more leases the rarer: it reads them all."""

    def __init__(self, client: Client, prefix: bytes, watched: Progress, random: Random) -> None:
        self._client = client
        self._prefix = prefix
        self._watched = watched
        self._random = random
        self._at = 0.0
        self._missing = 0

    async def look(self, now: float) -> None:
        """Compare, if it is time to; raises `StoreError`."""
        if not self._watched.stands:
            self._at, self._missing = now + self._rest(), 0
            return
        if now < self._at:
            return
        if self._missing > self._watched.revision:
            self._watched.overdue.set()
        newer = pb.RangeRequest(
            key=self._prefix,
            range_end=prefix_end(self._prefix),
            min_mod_revision=self._watched.revision + 1,
            keys_only=True,
            limit=1,
        )
        found = await self._client.read("KV/Range", newer, pb.RangeResponse, self._client.timing.ping)
        self._missing = found.kvs[0].mod_revision if found.kvs else 0
        # What the watch has not brought may be on its way.
        self._at = now + (grace_s if self._missing else self._rest())

    def _rest(self) -> float:
        least = max(shortest_rest_s, self._watched.leases / leases_a_second)
        return self._random.uniform(least, 2 * least)


async def follow(
    client: Client, prefix: bytes, writers: Writers, watched: Progress
) -> AsyncGenerator[WatchEvent, None]:
    """Yield a Snapshot, then every change in order; ends only by cancellation or `StoreError`."""
    try:
        async for event in _follow(client, prefix, writers, watched):
            yield event
    finally:
        watched.stands = False


async def _follow(
    client: Client, prefix: bytes, writers: Writers, watched: Progress
) -> AsyncGenerator[WatchEvent, None]:
    while True:
        found = await listing(client, prefix)
        watched.revision, watched.leases = found.header.revision, len(found.kvs)
        watched.overdue.clear()
        # Ten thousand take half a second, in which the daemon has other things to do.
        yield await asyncio.to_thread(snapshot, found.kvs, prefix)
        for kv in found.kvs:
            if second := await writers.judge(kv, found.header):
                yield second
        create = pb.WatchCreateRequest(
            key=prefix, range_end=prefix_end(prefix), start_revision=found.header.revision + 1
        )
        async with client.watch(pb.WatchRequest(create_request=create)) as answers:
            while True:
                answer = await _next(answers, watched)
                watched.stands = watched.stands or answer.created
                if answer.canceled and not answer.compact_revision:
                    client.forget_token()  # a watch with an old token is refused like this
                    reason = printable(answer.cancel_reason) or "no reason given"
                    raise StoreError(f"etcd ended the watch of {prefix.decode()}: {reason}")
                if answer.compact_revision or _elsewhere(answer.header, found.header):
                    break
                for event in answer.events:
                    watched.revision = max(watched.revision, event.kv.mod_revision)
                    if event.type == pb.Event.DELETE:
                        yield delete_event(event.kv.key, prefix)
                    else:
                        yield put_event(event.kv, prefix)
                        if second := await writers.judge(event.kv):
                            yield second


async def _next(answers: AsyncGenerator[pb.WatchResponse, None], watched: Progress) -> pb.WatchResponse:
    """Return what the watch brings next; raises `StoreError` if that is overdue."""
    reading = asyncio.ensure_future(anext(answers))
    overdue = asyncio.ensure_future(watched.overdue.wait())
    try:
        await asyncio.wait((reading, overdue), return_when=asyncio.FIRST_COMPLETED)
        if not reading.done():
            raise StoreError(
                "etcd has changes of leases that its watch does not bring; something in between keeps them back"
            )
        return reading.result()
    finally:
        for task in (reading, overdue):
            task.cancel()
        await asyncio.gather(reading, overdue, return_exceptions=True)


def _elsewhere(header: pb.ResponseHeader, known: pb.ResponseHeader) -> bool:
    return header.cluster_id != known.cluster_id or header.revision < known.revision
