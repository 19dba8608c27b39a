"""Following the leases in etcd: everything at one revision, then every change after it.

What must stay true: no change is skipped silently. So a position is kept only while one connection lives: when that
breaks, `StoreError` ends the watch and its caller begins again with a Snapshot. To resume would mean to tell a restored
server from the old one, and one restored from a backup can have the same cluster id and, after some writes, a higher
revision. While a connection lives, a compaction, another cluster id or a revision before the Snapshot's (a proxy in
between may hide a restore) lead to a new Snapshot.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from dataplane.errors import StoreError, printable
from dataplane.model import WatchEvent
from dataplane.stores import etcd_pb2 as pb
from dataplane.stores.etcd_client import Client
from dataplane.stores.etcd_leases import delete_event, put_event, snapshot
from dataplane.stores.etcd_writers import Writers


def prefix_end(key: bytes) -> bytes:
    """Return the end of the range of all keys that begin with `key`, whose last byte must not be 255."""
    return key[:-1] + bytes([key[-1] + 1])


async def listing(client: Client, prefix: bytes) -> pb.RangeResponse:
    """Return every key that begins with `prefix`, at one revision; raises `StoreError`."""
    request = pb.RangeRequest(key=prefix, range_end=prefix_end(prefix))
    return await client.read("KV/Range", request, pb.RangeResponse)


async def follow(client: Client, prefix: bytes, writers: Writers) -> AsyncGenerator[WatchEvent, None]:
    """Yield a Snapshot, then every change in order; ends only by cancellation or `StoreError`."""
    while True:
        found = await listing(client, prefix)
        # Ten thousand take half a second, in which the daemon has other things to do.
        yield await asyncio.to_thread(snapshot, found.kvs, prefix)
        for kv in found.kvs:
            if second := await writers.judge(kv, found.header):
                yield second
        create = pb.WatchCreateRequest(
            key=prefix, range_end=prefix_end(prefix), start_revision=found.header.revision + 1
        )
        async with client.watch(pb.WatchRequest(create_request=create)) as answers:
            async for answer in answers:
                if answer.canceled and not answer.compact_revision:
                    client.forget_token()  # a watch with an old token is refused like this
                    reason = printable(answer.cancel_reason) or "no reason given"
                    raise StoreError(f"etcd ended the watch of {prefix.decode()}: {reason}")
                if answer.compact_revision or _elsewhere(answer.header, found.header):
                    break
                for event in answer.events:
                    if event.type == pb.Event.DELETE:
                        yield delete_event(event.kv.key, prefix)
                    else:
                        yield put_event(event.kv, prefix)
                        if second := await writers.judge(event.kv):
                            yield second


def _elsewhere(header: pb.ResponseHeader, known: pb.ResponseHeader) -> bool:
    return header.cluster_id != known.cluster_id or header.revision < known.revision
