"""A lease directory for tests: its daemons, its clocks, and a watch that cannot hang."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network, IPv6Network
from pathlib import Path
from random import Random
from typing import Any

from dataplane.model import Lease, LeaseAttrs, Snapshot, WatchEvent
from dataplane.stores.base import Store
from dataplane.stores.embedded.database import LeaseClock
from dataplane.stores.embedded.store import EmbeddedStore, file_name

ttl = 86400.0


class MachineClock(LeaseClock):
    """A machine's clocks, set by the test."""

    def __init__(self) -> None:
        self.boot_id = "first"
        self.boot_now = 1000.0
        self.wall_now = 1_700_000_000.0

    def awake(self) -> float:
        return self.boot_now

    def wall(self) -> float:
        return self.wall_now

    def pass_time(self, seconds: float) -> None:
        self.boot_now += seconds
        self.wall_now += seconds


class Machine:
    """A lease directory, its configuration and clock, and the daemons that use them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "leases"
        self.net_conf = directory / "net-conf.json"
        self.net_conf.write_text('{"Network":"10.3.0.0/16","Backend":{"Type":"vxlan"}}')
        self.clock = MachineClock()
        self.stores: list[EmbeddedStore] = []

    def store(self, **options: Any) -> EmbeddedStore:
        store = EmbeddedStore(
            self.directory, self.net_conf, **{"clock": self.clock, "random": Random(len(self.stores)), **options}
        )
        self.stores.append(store)
        return store

    @contextlib.contextmanager
    def sql(self) -> Iterator[sqlite3.Connection]:
        connection = sqlite3.connect(self.directory / file_name, isolation_level=None, timeout=5)
        try:
            yield connection
        finally:
            connection.close()

    async def close(self) -> None:
        for store in self.stores:
            await store.close()


@asynccontextmanager
async def watching(store: Store) -> AsyncIterator[Callable[[], Awaitable[WatchEvent]]]:
    """Give a function that returns the watch's next event, and fails after half a minute without one."""
    events = store.watch()

    async def following() -> WatchEvent:
        return await asyncio.wait_for(anext(events), 200)

    try:
        yield following
    finally:
        assert isinstance(events, AsyncGenerator)
        await events.aclose()


def run(directory: Path, test: Callable[[Machine], Awaitable[None]]) -> None:
    async def whole() -> None:
        machine = Machine(directory)
        try:
            await test(machine)
        finally:
            await machine.close()

    asyncio.run(whole())


def node(number: int) -> LeaseAttrs:
    return LeaseAttrs(IPv4Address("192.0.2.0") + number, None, "vxlan", {"VNI": 1, "VtepMAC": "0e:00:00:00:00:01"})


def previous(subnet: str, ipv6_subnet: str | None = None) -> Lease:
    return Lease(IPv4Network(subnet), IPv6Network(ipv6_subnet) if ipv6_subnet else None, LeaseAttrs())


async def leases(store: Store) -> dict[str, Lease]:
    async with watching(store) as following:
        snapshot = await following()
        assert isinstance(snapshot, Snapshot)
        return {lease.key: lease for lease in snapshot.leases}
