"""The embedded lease store: a SQLite file in a directory that all daemons of one machine share.

What must stay true: everything that decides over a subnet happens in one write transaction (look, choose, put), so
a subnet is never given twice, whatever is killed and when; a lease that was returned to a caller is on the disk.
A node is known by its public IPv4 address (IPv6 where the overlay has no IPv4). A reservation, a lease without an
end, stays one however often it is reused or renewed. Time: see database.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncGenerator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from random import Random, SystemRandom
from typing import TypeVar

from dataplane.errors import BadInput, BadLease, LeaseLost, OutOfSubnets, StoreError, printable
from dataplane.flannel.lease_format import encode_value
from dataplane.model import Lease, LeaseAttrs, NetConf, WatchEvent
from dataplane.stores import net_conf_file
from dataplane.stores.base import Store, Watched
from dataplane.stores.choice import choose, compatible, overlaps
from dataplane.stores.embedded import rows
from dataplane.stores.embedded.database import Database, LeaseClock
from dataplane.stores.embedded.own_writes import Writers
from dataplane.stores.embedded.watch import Follower, follow

Result = TypeVar("Result")

file_name = "leases.sqlite3"


class EmbeddedStore(Store):
    """A `Store` (see stores.base) over `directory`/leases.sqlite3; both are made when missing.

    Args:
        directory: shared by the daemons of one machine; on a local file system.
        net_conf_path: the network configuration's file, read anew by every `read_config` and `acquire`.
        ttl: seconds that a lease lives after acquire and renew.
        history: events kept for watchers; one that missed more is given a Snapshot.
        clock, random: for tests.
    """

    def __init__(
        self,
        directory: Path,
        net_conf_path: Path,
        *,
        ttl: float = 86400.0,
        history: int = 10_000,
        clock: LeaseClock | None = None,
        random: Random | None = None,
    ) -> None:
        self._path = directory / file_name
        self._net_conf_path = net_conf_path
        self._ttl = ttl
        self._history = history
        self._clock = clock or LeaseClock()
        self._random = random or SystemRandom()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="lease-store")
        self._database: Database | None = None
        self._writers = Writers()
        self._watched = Watched()
        self._found = False  # then one that is gone is not made anew: to whoever watches, all leases would be gone

    async def read_config(self) -> NetConf:
        """Return the validated configuration; raises `BadConfig`, or `StoreError` if there is no such file."""
        return await self._in_thread(lambda: net_conf_file.load(self._net_conf_path))

    async def acquire(self, attrs: LeaseAttrs, previous: Lease | None) -> Lease:
        """Return our lease: the one we hold, else the previous subnets, else free ones (see stores.choice).

        Raises:
            OutOfSubnets, StoreError, BadConfig.
        """
        node = _node(attrs)
        return await self._in_thread(lambda: self._acquire(self._open(create=True), node, attrs, previous))

    async def renew(self, lease: Lease, attrs: LeaseAttrs | None = None) -> Lease:
        """Write the lease's attributes, or new ones, with a new end unless it is a reservation, and return it.

        Raises:
            LeaseLost: it expired, was deleted, or is held by another node.
            StoreError: the file cannot be used (now).
        """
        node = _node(lease.attrs)
        return await self._in_thread(lambda: self._renew(self._open(), node, lease, attrs or lease.attrs))

    async def reserve(
        self, subnet: IPv4Network, public_ip: IPv4Address, ipv6_subnet: IPv6Network | None = None
    ) -> Lease:
        """Keep the subnet for the node with this public address, without end; for administrators.

        A lease that the node already has on it becomes a reservation.

        Raises:
            BadInput: the configuration does not allow this subnet.
            StoreError: it overlaps another node's lease, or the node holds another subnet.
        """
        lease = Lease(subnet, ipv6_subnet, LeaseAttrs(public_ip))
        return await self._in_thread(lambda: self._reserve(self._open(create=True), lease))

    def watch(self) -> AsyncGenerator[WatchEvent, None]:
        """Yield a Snapshot, then every change in order; ends only by cancellation or `StoreError`."""
        follower = Follower(self._path, self._ttl, self._history, self._clock, self._writers, not self._found)
        return follow(follower, self._watched)

    @property
    def stands(self) -> bool:
        """Whether the file is followed."""
        return self._watched.stands

    async def ping(self) -> None:
        """Look at the file once; raises `StoreError` when it cannot be used (now)."""

        def look(database: Database) -> None:
            database.check_identity()
            database.data_version()

        await self._in_thread(lambda: look(self._open()))

    async def close(self) -> None:
        """Let go of the file; watches are ended by cancelling them. Leases stay."""
        await self._in_thread(self._close)
        self._thread.shutdown(wait=False)

    async def _in_thread(self, work: Callable[[], Result]) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, work)

    def _guarded(self, work: Callable[[], Result]) -> Result:
        try:
            return work()
        except (OutOfSubnets, LeaseLost):
            raise
        except StoreError:
            self._close()  # a replaced or repaired file is then opened afresh by the next call
            raise

    def _open(self, create: bool = False) -> Database:
        if self._database is None:
            self._database = Database(self._path, self._ttl, self._clock, create or not self._found)
            self._found = True
        return self._database

    def _close(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    def _acquire(self, database: Database, node: str, attrs: LeaseAttrs, previous: Lease | None) -> Lease:
        conf = net_conf_file.load(self._net_conf_path)
        with database.write() as connection:
            rows.expire(connection, self._clock.awake())
            own = _own(connection, node)
            kept = own is not None and compatible(conf, own)
            # A node that keeps its lease need not read ten thousand others.
            others = [] if kept else rows.taken(connection, node)
            ipv6_others = [] if kept else rows.ipv6_taken(connection, node)
            choice = choose(conf, own, previous, others, ipv6_others, self._random)
            if own is not None and choice.own:
                lease = self._put(connection, node, replace(own, attrs=attrs))
            else:
                connection.execute("DELETE FROM lease WHERE node = ?", (node,))
                lease = self._put(connection, node, Lease(choice.subnet, choice.ipv6_subnet, attrs, self._expiry()))
            rows.trim(connection, self._history)
        return lease

    def _renew(self, database: Database, node: str, lease: Lease, attrs: LeaseAttrs) -> Lease:
        with database.write() as connection:
            rows.expire(connection, self._clock.awake())
            row = connection.execute(
                "SELECT node = ?, substr(node, 1, 128), expires FROM lease WHERE subnet IS ? AND ipv6_subnet IS ?",
                (node, *_columns(lease)),
            ).fetchone()
            if row is None:
                raise LeaseLost(f"lease {lease.key} is gone: it expired or was deleted")
            ours, holder, expires = row
            if not ours:
                raise LeaseLost(f"lease {lease.key} is held by {printable(holder)}, not by {node}")
            if _node(attrs) != node:
                # Whatever stands under the new address is ours too, from the time when we had it before.
                connection.execute("DELETE FROM lease WHERE node = ?", (_node(attrs),))
                connection.execute("UPDATE lease SET node = ? WHERE node = ?", (_node(attrs), node))
            renewed = self._put(connection, _node(attrs), replace(lease, attrs=attrs, expires=expires))
            rows.trim(connection, self._history)
        return renewed

    def _reserve(self, database: Database, lease: Lease) -> Lease:
        conf = net_conf_file.load(self._net_conf_path)
        if not compatible(conf, lease):
            raise BadInput(f"cannot reserve {lease.key}: {_allowed(conf)}")
        node = _node(lease.attrs)
        with database.write() as connection:
            rows.expire(connection, self._clock.awake())
            own = _own(connection, node)
            if own is not None and own.key != lease.key:
                raise StoreError(f"cannot reserve {lease.key} for {node}: it holds {own.key}")
            for network, others in (
                (lease.subnet, rows.taken(connection, node)),
                (lease.ipv6_subnet, rows.ipv6_taken(connection, node)),
            ):
                if network is not None and overlaps(others, network):
                    raise StoreError(f"cannot reserve {network} for {node}: it overlaps the lease of another node")
            if own is not None:
                connection.execute("UPDATE lease SET expires = NULL, deadline = NULL WHERE node = ?", (node,))
                lease = replace(own, expires=None)
            else:
                lease = self._put(connection, node, lease)
            rows.trim(connection, self._history)
        return lease

    def _put(self, connection: sqlite3.Connection, node: str, lease: Lease) -> Lease:
        """Write the node's row and return the lease with its new end; one without an end keeps having none."""
        if lease.expires is not None:
            lease = replace(lease, expires=self._expiry())
        deadline = None if lease.expires is None else self._clock.awake() + self._ttl
        (number,) = connection.execute(
            "INSERT INTO lease (subnet, ipv6_subnet, node, value, expires, deadline) VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (node) DO UPDATE SET value = excluded.value, expires = excluded.expires, "
            "deadline = excluded.deadline RETURNING rowid",
            (*_columns(lease), node, encode_value(lease.attrs).decode(), lease.expires, deadline),
        ).fetchone()
        self._writers.written(connection, *_columns(lease), lease)
        return replace(lease, born=rows.born_of(number))

    def _expiry(self) -> float:
        return self._clock.wall() + self._ttl


def _node(attrs: LeaseAttrs) -> str:
    address = attrs.public_ip if attrs.public_ip is not None else attrs.public_ipv6
    if address is None:
        raise BadInput("a lease needs a public address, by which the node is known")
    return str(address)


def _own(connection: sqlite3.Connection, node: str) -> Lease | None:
    """Return the node's lease; attributes that cannot be decoded do not matter, they are about to be replaced."""
    row: rows.Row | None
    row = connection.execute(f"SELECT {rows.lease_columns} FROM lease WHERE node = ?", (node,)).fetchone()  # noqa: S608 (constants)
    if row is None:
        return None
    subnet, ipv6_subnet, _, expires, _, number = row
    try:
        ipv4, ipv6 = rows.decode_subnets(subnet, ipv6_subnet)
    except BadLease:
        return None
    try:
        return rows.decode(row)
    except BadLease:
        return Lease(ipv4, ipv6, LeaseAttrs(), expires, rows.born_of(number))


def _columns(lease: Lease) -> tuple[str | None, str | None]:
    return (
        None if lease.subnet is None else str(lease.subnet),
        None if lease.ipv6_subnet is None else str(lease.ipv6_subnet),
    )


def _allowed(conf: NetConf) -> str:
    families = []
    if conf.enable_ipv4:
        families.append(f"one /{conf.subnet_len} from {conf.subnet_min} to {conf.subnet_max}")
    if conf.enable_ipv6:
        families.append(f"one /{conf.ipv6_subnet_len} from {conf.ipv6_subnet_min} to {conf.ipv6_subnet_max}")
    return f"allowed is {' with '.join(families)}"
