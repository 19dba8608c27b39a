"""The etcd lease store: the keys and values of flannel's etcd mode, beside flanneld nodes.

What must stay true: a lease is written only by a transaction that fails if the subnet was given away, our own key
was changed, or the configuration was replaced since we looked; a reservation, a key without an etcd lease, stays one.
An etcd lease (TTL) of ours is revoked when etcd has said that nothing hangs on it: the write did not happen, or the
key hangs on a newer one. When no answer comes it may have happened, and revoking would delete our own key, so the etcd
lease is left to run out. Which writes of our key are not ours: see own_writes.

Sources: flannel pkg/subnet/etcd/local_manager.go, registry.go; flannel.md section 2. What flannel means and does not do
(tries again after a lost race, compares before it renews, keeps reservations) is done here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import suppress
from dataclasses import replace
from math import inf
from random import Random, SystemRandom

from dataplane.errors import BadConfig, BadInput, BadLease, LeaseLost, NoConfig, StoreError
from dataplane.flannel import net_conf
from dataplane.flannel.lease_format import decode_value, encode_value, format_key
from dataplane.model import Lease, LeaseAttrs, NetConf, WatchEvent
from dataplane.stores.base import Store
from dataplane.stores.etcd import etcd_pb2 as pb
from dataplane.stores.etcd.access import EtcdAccess
from dataplane.stores.etcd.client import Client, Timing, Unanswered
from dataplane.stores.etcd.held import Held, choose_among, contested, decoded, same_subnets
from dataplane.stores.etcd.leases import text_of
from dataplane.stores.etcd.own_writes import Writers
from dataplane.stores.etcd.watch import Comparison, Progress, follow, listing

tries = 10
ttl_s = 86400
most_leaving = 100  # keys that one transaction deletes; etcd takes 128 operations


class EtcdStore(Store):
    """A `Store` (see stores.base) in an etcd cluster.

    Args:
        access: where it is; TLS files are read now.
        timing, random: for tests.
    Raises:
        BadInput: a TLS file cannot be read.
    """

    def __init__(self, access: EtcdAccess, *, timing: Timing | None = None, random: Random | None = None) -> None:
        self._client = Client(access, timing or Timing())
        self._config_key = f"{access.prefix}/config".encode()
        self._subnets = f"{access.prefix}/subnets"
        self._random = random or SystemRandom()
        self._writers = Writers(self._subnets.encode())
        self._watched = Progress()
        self._comparison = Comparison(self._client, self._subnets.encode(), self._watched, self._random)

    async def read_config(self) -> NetConf:
        """Return the validated configuration.

        Raises:
            BadConfig: it cannot be used, or has no IPv4, for which flannel has no form of key.
            NoConfig: there is none yet.
            StoreError: etcd does not answer.
        """
        return (await self._config())[0]

    async def acquire(self, attrs: LeaseAttrs, previous: Lease | None) -> Lease:
        """Return our lease: the one we hold, else the previous subnets, else free ones (see stores.choice).

        Raises:
            OutOfSubnets: nothing is free.
            StoreError: etcd does not answer, or others were quicker ten times.
            BadConfig, BadInput: see `read_config`; no public IPv4 address.
        """
        for attempt in range(tries):
            # What keeps us from the previous subnet may be nothing that we can read: then do without.
            lease = await self._try_acquire(attrs, previous if attempt < tries // 2 else None)
            if lease is not None:
                return lease
        raise StoreError(
            f"no lease: other nodes changed {self._subnets} or the configuration {tries} times as we chose"
        )

    async def renew(self, lease: Lease, attrs: LeaseAttrs | None = None) -> Lease:
        """Write the lease's attributes, or new ones, under a new etcd lease unless it is a reservation, and return it.

        Raises:
            LeaseLost: the key is gone or shows another public address.
            StoreError: etcd does not answer.
        """
        key = self._key_of(lease)
        for _ in range(tries):
            found = await self._client.read("KV/Range", pb.RangeRequest(key=key), pb.RangeResponse)
            if not found.kvs:
                raise LeaseLost(f"lease {lease.key} is gone: it expired or was deleted")
            kv = found.kvs[0]
            try:
                holder = decode_value(lease.key, kv.value).public_ip
            except BadLease as error:
                raise LeaseLost(f"lease {lease.key} was overwritten: {error.reason}") from None
            if holder != lease.attrs.public_ip:
                raise LeaseLost(f"lease {lease.key} is held by {holder}, not by {lease.attrs.public_ip}")
            ours = lease if attrs is None else replace(lease, attrs=attrs)
            renewed = await self._write(ours, (_unchanged(kv),), (), reserved=kv.lease == 0)
            if renewed is not None:
                return renewed
        raise StoreError(f"lease {lease.key} was changed {tries} times while we renewed it")

    def watch(self) -> AsyncGenerator[WatchEvent, None]:
        """Yield a Snapshot, then every change in order; ends only by cancellation or `StoreError`."""
        return follow(self._client, self._subnets.encode(), self._writers, self._watched)

    @property
    def stands(self) -> bool:
        """Whether etcd has taken our watch."""
        return self._watched.stands

    async def ping(self) -> None:
        """Read, with the cluster's agreement, whether there is a configuration; raises `StoreError`."""
        request = pb.RangeRequest(key=self._config_key, count_only=True)
        await self._client.read("KV/Range", request, pb.RangeResponse, self._client.timing.ping)
        await self._comparison.look(time.monotonic())

    async def close(self) -> None:
        """Close the connections. Leases stay."""
        await self._client.close()

    async def _config(self) -> tuple[NetConf, int]:
        """Return the configuration and its key's mod_revision."""
        found = await self._client.read("KV/Range", pb.RangeRequest(key=self._config_key), pb.RangeResponse)
        key = text_of(self._config_key)
        if not found.kvs:
            raise NoConfig(
                "flannel config not found in etcd store. Did you create your config using etcdv3 API? "
                f"(there is no key {key})"
            )
        try:
            conf = net_conf.validate(net_conf.parse(found.kvs[0].value))
        except BadConfig as error:
            raise BadConfig(f"etcd key {key}: {error}") from error
        if not conf.enable_ipv4:
            raise BadConfig(
                f"etcd key {key}: EnableIPv4 is false, and flannel's etcd store has no form for a lease without IPv4; "
                "allowed are IPv4 alone and IPv4 with IPv6"
            )
        return conf, found.kvs[0].mod_revision

    async def _held(self) -> list[Held]:
        found = await listing(self._client, self._subnets.encode())
        return await asyncio.to_thread(decoded, found, self._subnets.encode())  # 100,000 take seconds

    async def _try_acquire(self, attrs: LeaseAttrs, previous: Lease | None) -> Lease | None:
        if attrs.public_ip is None:
            raise BadInput("a lease in etcd needs a public IPv4 address, by which the node is known")
        conf, config_revision = await self._config()
        held = await self._held()
        own, others, kept, choice = await asyncio.to_thread(choose_among, conf, held, attrs, previous, self._random)
        lease = Lease(choice.subnet, choice.ipv6_subnet, attrs)
        if kept is not None and any(other.key == lease.key for other in others):
            lease = replace(lease, spelled=kept.lease.spelled)  # somebody younger has the plain key
        compares = [pb.Compare(key=self._config_key, target=pb.Compare.MOD, mod_revision=config_revision)]
        key = self._key_of(lease)
        present = next((entry.kv for entry in own if entry.kv.key == key), None)
        # Ours, but not wanted any more, or peers would use it in place of what we keep: goes in the same transaction.
        oldest = kept.lease.born if kept is not None and kept.kv is present else (inf, "")
        leaving = [
            entry.kv
            for entry in own
            if entry.kv is not present and (entry.lease.born < oldest or same_subnets(entry.lease, lease))
        ][:most_leaving]
        compares += [_unchanged(kv) for kv in leaving]
        if present is not None:
            compares.append(_unchanged(present))
        else:
            compares += self._free(lease, leaving)
        written = await self._write(lease, compares, leaving, reserved=kept is not None and kept.kv.lease == 0)
        if written is not None and written.ipv6_subnet is not None and kept is None:
            return await self._unless_contested(written)
        return written

    def _key_of(self, lease: Lease) -> bytes:
        return (lease.spelled or f"{self._subnets}/{_key(lease)}").encode()

    def _free(self, lease: Lease, leaving: Sequence[pb.KeyValue]) -> list[pb.Compare]:
        """Return what must hold for the lease's IPv4 subnet to be free: no key with it, alone or with an IPv6 subnet."""
        if lease.subnet is None:
            return []
        alone = f"{self._subnets}/{format_key(lease.subnet)}".encode()
        compares = [
            pb.Compare(key=key, target=pb.Compare.VERSION, version=0)
            for key in dict.fromkeys((alone, self._key_of(lease)))
        ]
        if not any(kv.key.startswith(alone) for kv in leaving):
            compares.append(pb.Compare(key=alone + b"&", range_end=alone + b"'", target=pb.Compare.VERSION, version=0))
        return compares

    async def _write(
        self, lease: Lease, compares: Sequence[pb.Compare], leaving: Sequence[pb.KeyValue], *, reserved: bool
    ) -> Lease | None:
        """Put the lease's key and delete the leaving ones if the comparisons hold; None if they do not."""
        # The end is counted from before etcd does, so we are never late.
        expires = None if reserved else time.time() + ttl_s
        ttl_id = 0
        if not reserved:
            granted = await self._client.write(
                "Lease/LeaseGrant", pb.LeaseGrantRequest(TTL=ttl_s), pb.LeaseGrantResponse
            )
            ttl_id = granted.ID
        put = pb.PutRequest(key=self._key_of(lease), value=encode_value(lease.attrs), lease=ttl_id)
        operations = [pb.RequestOp(request_delete_range=pb.DeleteRangeRequest(key=kv.key)) for kv in leaving]
        operations.append(pb.RequestOp(request_put=put))
        request = pb.TxnRequest(compare=compares, success=operations)
        try:
            with self._writers.writing(ttl_id):
                answer = await self._client.write("KV/Txn", request, pb.TxnResponse)
                former = self._writers.written(put, lease, answer.header) if answer.succeeded else ttl_id
        except Unanswered:
            raise
        except StoreError:
            await self._revoke(ttl_id)
            raise
        await self._revoke(former)
        return replace(lease, expires=expires) if answer.succeeded else None

    async def _revoke(self, ttl_id: int) -> None:
        """Give an unused etcd lease back; one that cannot be given back runs out in a day."""
        if ttl_id:
            with suppress(StoreError):
                await self._client.write("Lease/LeaseRevoke", pb.LeaseRevokeRequest(ID=ttl_id), pb.LeaseRevokeResponse)

    async def _unless_contested(self, lease: Lease) -> Lease | None:
        """Return a dual-stack lease just made, or give it back and return None if an older one overlaps it.

        Two nodes may have drawn the same IPv6 subnet with different IPv4 ones, so under different keys, which no
        comparison of keys notices. Each looks again after writing; the younger sees the older and gives way.
        """
        held = await self._held()
        key = self._key_of(lease)
        mine = next((entry.kv for entry in held if entry.kv.key == key), None)
        if mine is None:
            return None
        if not await asyncio.to_thread(contested, held, mine, lease):
            return lease
        await self._revoke(mine.lease)
        return None


def _key(lease: Lease) -> str:
    if lease.subnet is None:
        raise BadInput(f"lease {lease.key} has no IPv4 subnet, and etcd has no form for it")
    return format_key(lease.subnet, lease.ipv6_subnet)


def _unchanged(kv: pb.KeyValue) -> pb.Compare:
    return pb.Compare(key=kv.key, target=pb.Compare.MOD, mod_revision=kv.mod_revision)
