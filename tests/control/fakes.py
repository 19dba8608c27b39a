"""Fakes for the control loop's tests, at both of its edges: no root, no core, no store, no waiting.

`Net` is a host with links, addresses and routes in dicts; `FakeDevice` a device whose forwarder counts what it is
asked; `VirtualClock` a clock that moves when somebody waits. Kernel behaviour itself is tested in tests/netns.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Coroutine, Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, ip_interface, ip_network
from typing import Any

from dataplane.backends.base import DevicePlan, Plan
from dataplane.backends.vxlan import VxlanBackend
from dataplane.control.loop import Control
from dataplane.control.watching import Watching
from dataplane.errors import CoreError, HostError, StoreError
from dataplane.host.links import Address, Link
from dataplane.host.routes import Route
from dataplane.keepers.tun import TunKeeper
from dataplane.leases.desired import LeaseMeaning
from dataplane.model import IPAddress, IPNetwork, Lease, LeaseAttrs, NetConf, Peer, PeerCounters, Snapshot, WatchEvent
from dataplane.observe.state import NodeState

conf = NetConf(network=IPv4Network("10.244.0.0/16"), subnet_len=24, backend_type="vxlan")
backend = VxlanBackend.from_conf(conf)
start_s = 1_000_000.0


def lease(number: int, *, mac: str | None = None, expires: float = start_s + 86400) -> Lease:
    text = mac or f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"
    attrs = LeaseAttrs(IPv4Address("192.0.0.0") + number, None, "vxlan", {"VNI": 1, "VtepMAC": text})
    return Lease(IPv4Network((int(IPv4Address("10.244.0.0")) + (number << 8), 24)), None, attrs, expires)


own = lease(1)


class VirtualClock:
    """A clock on which waiting costs no time; other tasks get their turn at each wait."""

    def __init__(self) -> None:
        self.time = start_s

    def now(self) -> float:
        return self.time

    async def wait(self, event: asyncio.Event, seconds: float) -> bool:
        await asyncio.sleep(0)
        if not event.is_set():
            self.time += max(0.0, seconds)
        return event.is_set()


class FakeForwarder:
    """Counts calls and keeps a table, as the core's does."""

    offloads: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.peers: dict[IPNetwork, Peer] = {}
        self.failures: tuple[str, ...] = ()
        self.refuses: set[IPNetwork] = set()
        self.out_of_memory = False
        self.started = 0
        self.commits = 0
        self.touched = 0

    def start(self) -> None:
        self.started += 1

    def read_loaded(self, most: int) -> bool:
        return False

    def update(self, put: Iterable[Peer], remove: Iterable[IPNetwork] = ()) -> dict[IPNetwork, str]:
        refused = {}
        for prefix in remove:
            self.touched += 1
            self.peers.pop(prefix, None)
        for peer in put:
            self.touched += 1
            if peer.prefix in self.refuses:
                refused[peer.prefix] = "Invalid argument"
                self.peers.pop(peer.prefix, None)
            else:
                self.peers[peer.prefix] = peer
        if self.out_of_memory:
            raise CoreError("dp_commit", 12, "Cannot allocate memory")
        self.commits += 1
        return refused

    def forbid(self, offload: str) -> None:
        self.offloads -= {offload}

    def counters(self) -> dict[str, int]:
        return {}

    def drops(self) -> dict[str, int]:
        return {}

    def exchanged(self) -> dict[IPNetwork, tuple[int, int]]:
        return {}

    def peer_counters(self, prefixes: Iterable[IPNetwork] | None = None) -> dict[IPNetwork, PeerCounters]:
        return {}


class Net:
    """A host: one external interface and what control makes of it; `open` is its TUN driver."""

    def __init__(self) -> None:
        self.links: dict[str, Link] = {"eth0": Link(2, "eth0", 1500, True, "veth")}
        self.addrs: dict[int, set[IPv4Interface | IPv6Interface]] = {2: {ip_interface(f"{own.attrs.public_ip}/8")}}
        self.routed: dict[int, set[Route]] = {}
        self.devices: list[FakeDevice] = []
        self.next_index = 10
        self.calls = 0
        self.refuse_open = ""
        self.changed = asyncio.Event()

    def open(self, plan: DevicePlan) -> FakeDevice:
        if self.refuse_open:
            raise HostError(self.refuse_open)
        assert plan.name not in self.links
        self.next_index += 1
        self.links[plan.name] = Link(self.next_index, plan.name, 1500, False, "tun")
        self.devices.append(FakeDevice(self, plan.name, self.next_index))
        return self.devices[-1]

    def close(self, plan: DevicePlan) -> None:
        self.devices[-1].close()

    def leave(self, plan: DevicePlan) -> None:
        self.close(plan)

    def delete(self, name: str) -> None:
        link = self.links.pop(name)
        self.addrs.pop(link.index, None)
        self.routed.pop(link.index, None)
        self.changed.set()

    async def link(self, name: str) -> Link | None:
        self.calls += 1
        return self.links.get(name)

    async def addresses(self, index: int | None = None) -> list[Address]:
        assert index is not None
        return [Address(index, interface) for interface in self.addrs.get(index, ())]

    async def routes(self, index: int) -> list[Route]:
        return list(self.routed.get(index, ()))

    async def set_link(self, index: int, *, mtu: int, up: bool, txqueuelen: int | None = None) -> None:
        (name,) = (link.name for link in self.links.values() if link.index == index)
        self.links[name] = replace(self.links[name], mtu=mtu, up=up)

    async def add_address(self, index: int, interface: IPv4Interface | IPv6Interface) -> None:
        self.addrs.setdefault(index, set()).add(interface)

    async def add_route(self, route: Route) -> None:
        self.routed.setdefault(route.index, set()).add(route)

    async def remove_address(self, index: int, interface: IPv4Interface | IPv6Interface) -> None:
        self.addrs[index].discard(interface)

    async def main_routes(self, version: int) -> list[Route]:
        return [route for routes in self.routed.values() for route in routes if route.prefix.version == version]

    async def on_link(self, addresses: Sequence[IPAddress]) -> dict[IPAddress, int]:
        return {}

    async def change_routes(self, put: Sequence[Route], remove: Sequence[Route] = ()) -> dict[Route, str]:
        for route in remove:
            self.routed[route.index].discard(route)
        for route in put:
            await self.add_route(route)
        return {}

    async def changes(self) -> AsyncIterator[None]:
        while True:
            await self.changed.wait()
            self.changed.clear()
            yield


class FakeDevice:
    """A TUN with its forwarder; closing it takes the link away, as the kernel does."""

    warnings: tuple[str, ...] = ()

    def __init__(self, net: Net, name: str, index: int) -> None:
        self.net = net
        self.name = name
        self.index = index
        self.forwarder = FakeForwarder()
        self.closed = False

    def recheck(self) -> str | None:
        return None

    def kernel_drops(self) -> dict[str, int]:
        return {}

    def host_drops(self) -> dict[str, int]:
        return {}

    def close(self) -> None:
        self.closed = True
        link = self.net.links.get(self.name)
        if link is not None and link.index == self.index:
            self.net.delete(self.name)


class FakeStore:
    """A store that says what the test tells it to. `takes_watches`: no more than a first list comes of them otherwise."""

    first_delay_s = 0.1
    longest_delay_s = 5.0

    def __init__(self) -> None:
        self.takes_watches = True
        self.stands = True
        self.snapshot = Snapshot((own,))
        self.events: asyncio.Queue[WatchEvent | StoreError] = asyncio.Queue()
        self.renewals: list[float] = []
        self.answer: list[Lease | StoreError] = []
        self.silent = ""
        self.watches = 0
        self.clock: VirtualClock | None = None

    async def watch(self) -> AsyncGenerator[WatchEvent, None]:
        self.watches += 1
        self.stands = self.takes_watches
        try:
            yield self.snapshot
            while True:
                event = await self.events.get()
                if isinstance(event, StoreError):
                    raise event
                yield event
        finally:
            self.stands = False

    async def renew(self, current: Lease, attrs: LeaseAttrs | None = None) -> Lease:
        assert self.clock is not None
        self.renewals.append(self.clock.now())
        answer = self.answer.pop(0)
        if isinstance(answer, StoreError):
            raise answer
        return answer

    async def ping(self) -> None:
        if self.silent:
            raise StoreError(self.silent)

    async def read_config(self) -> NetConf:
        return conf

    async def acquire(self, attrs: LeaseAttrs, previous: Lease | None) -> Lease:
        return own

    async def close(self) -> None:
        pass


class Node:
    """Everything of one node, wired as daemon/life.py wires it."""

    def __init__(self, conf: NetConf = conf, meaning: LeaseMeaning = backend) -> None:
        self.net = Net()
        self.clock = VirtualClock()
        self.state = NodeState(now=self.clock.now)
        self.state.blockers.pop("start")
        self.state.store_contact = start_s
        self.store = FakeStore()
        self.doubts = 0
        self.contested: list[Lease] = []
        address = own.attrs.public_ip
        plans = backend.plans(conf, own, interface="eth0", interface_mtu=1500, address=address, address6=None)
        self.control = Control(
            conf,
            own,
            meaning,
            plans,
            keep=self.keep,
            state=self.state,
            clock=self.clock,
            doubt=self.doubt,
            contested=self.contested.append,
        )
        self.watching = Watching(self.store, self.control.slices, self.state, self.clock)

    def keep(self, plan: Plan, wanted: Mapping[IPNetwork, Peer]) -> tuple[TunKeeper]:
        assert isinstance(plan, DevicePlan)
        self.keeper = TunKeeper(plan, wanted, self.net, self.net, self.state, 1)
        return (self.keeper,)

    def doubt(self) -> None:
        self.doubts += 1

    @property
    def device(self) -> FakeDevice:
        return self.net.devices[-1]

    @property
    def table(self) -> Mapping[IPNetwork, Peer]:
        return self.device.forwarder.peers

    def in_place(self) -> bool:
        link = self.net.links.get("flannel.1")
        return (
            link is not None
            and link.up
            and link.mtu == 1450
            and ip_interface("10.244.1.0/32") in self.net.addrs[link.index]
            and Route(ip_network("10.244.0.0/16"), link.index) in self.net.routed.get(link.index, ())
        )


def go(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


async def opened(*leases: Lease) -> Node:
    node = Node()
    await node.control.open()
    node.control.take(Snapshot((own, *leases)))
    return node


async def run_until(condition: Callable[[], bool], *work: Coroutine[Any, Any, None]) -> None:
    """Run endless tasks until `condition()` holds."""
    tasks = [asyncio.create_task(item) for item in work]
    async with asyncio.timeout(200):
        while not condition():
            for task in tasks:
                if task.done():
                    task.result()
            await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
