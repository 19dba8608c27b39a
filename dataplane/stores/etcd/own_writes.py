"""Which writes of our own lease's key are ours: how a second node with our public address is noticed in etcd.

etcd knows a node by its public address, so that a node takes the lease of its earlier life for its own. A second node
with that address takes it too, and writes the same key, often the same bytes (its VTEP MAC comes from the lease). But
each daemon grants the etcd leases that its writes hang on, and knows their ids. What must stay true: nothing of ours is
taken for another's. So only what comes after this process's first write counts; an id is known before it is used; what
a restored server has again is older than what we wrote last; and who takes the end away from a lease is an administrator
who reserves it, since no daemon does. A reservation has no id: there the revision tells, which is known once etcd has
answered, so a write under way is waited for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from dataplane.errors import BadLease
from dataplane.model import IPAddress, Lease, SecondWriter
from dataplane.stores.etcd import etcd_pb2 as pb
from dataplane.stores.etcd.client import Unanswered
from dataplane.stores.etcd.leases import decode

remembered = 100  # writes; a watch that lags behind more of ours begins anew


class Writers:
    """What this process wrote under its lease's key."""

    def __init__(self, folder: bytes) -> None:
        self._folder = folder
        self._key = b""
        self._public_ip: IPAddress | None = None
        self._held = 0  # the etcd lease of the last write that etcd has confirmed
        self._last = pb.ResponseHeader()  # of that write
        self._reserved = False
        self._lost = 0  # writes of a reservation whose answer did not come
        self._ids: deque[int] = deque(maxlen=remembered)
        self._revisions: deque[int] = deque(maxlen=remembered)
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def writing(self, ttl_id: int) -> Iterator[None]:
        """Stands around a write that hangs on this etcd lease; 0: on none."""
        if ttl_id:
            self._ids.append(ttl_id)
        self._idle.clear()
        try:
            yield
        except Unanswered:
            self._lost += not ttl_id
            raise
        finally:
            self._idle.set()

    def written(self, put: pb.PutRequest, lease: Lease, header: pb.ResponseHeader) -> int:
        """Take in that etcd has confirmed this write; return the etcd lease that nothing hangs on any more, 0 for none."""
        former, self._held = self._held, put.lease
        self._key, self._public_ip = put.key, lease.attrs.public_ip
        self._last, self._reserved = header, not put.lease
        self._revisions.append(header.revision)
        return former

    async def judge(self, kv: pb.KeyValue, listed: pb.ResponseHeader | None = None) -> SecondWriter | None:
        """Return what to tell of a key as it is now, if somebody else wrote it and it is our lease.

        Args:
            listed: of the listing that it comes from; None if it is a change just told.
        """
        if kv.key != self._key or kv.lease in self._ids:
            return None
        await self._idle.wait()
        if not kv.lease and self._is_known(kv):
            return None
        if listed is not None and (
            listed.cluster_id != self._last.cluster_id or kv.mod_revision <= self._last.revision
        ):
            return None
        try:
            lease = decode(kv, self._folder)
        except BadLease:
            return None
        # One with another address has taken the lease away, which is noticed elsewhere.
        return SecondWriter(lease) if lease.attrs.public_ip == self._public_ip else None

    def _is_known(self, kv: pb.KeyValue) -> bool:
        """Tell whether a write without an etcd lease is ours, or an administrator's."""
        if kv.mod_revision in self._revisions:
            return True
        if not self._reserved:
            self._reserved = True
        elif self._lost:
            self._lost -= 1
        else:
            return False
        self._revisions.append(kv.mod_revision)
        return True
