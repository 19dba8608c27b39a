"""A node's state for tests, as a running daemon has it, and its listeners."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

from aiohttp import ClientSession, UnixConnector

from dataplane.model import IPNetwork, Lease, LeaseAttrs, Peer, PeerCounters
from dataplane.observe.health import Server
from dataplane.observe.state import Datapath, DeviceState, InterfaceState, NodeState
from dataplane.observe.status import document

now_s = 1_000_000.0
subnet = IPv4Network("10.244.2.0/24")
mac = bytes.fromhex("020000ab0002")


class Forwarder:
    """One peer with counters, one reason with drops."""

    offloads = frozenset({"udp_gro"})

    def __init__(self) -> None:
        self.failures: tuple[str, ...] = ()
        self.peers: dict[IPNetwork, Peer] = {
            IPv4Network("10.244.1.0/24"): Peer(IPv4Network("10.244.1.0/24"), None),
            subnet: Peer(subnet, IPv4Address("192.0.2.2"), mac),
        }

    def counters(self) -> dict[str, int]:
        return {"tx_packets": 9, "table_changes": 2}

    def drops(self) -> dict[str, int]:
        return {"send_no_route": 5, "receive_vni": 0}

    def exchanged(self) -> dict[IPNetwork, tuple[int, int]]:
        return {}

    def peer_counters(self, prefixes: Iterable[IPNetwork] | None = None) -> dict[IPNetwork, PeerCounters]:
        return {subnet: PeerCounters(1, 20, 3, 40)}


class Clock:
    time = now_s

    def now(self) -> float:
        return self.time


def running() -> tuple[NodeState, Clock, Forwarder]:
    clock, forwarder = Clock(), Forwarder()
    state = NodeState(now=clock.now, backend="vxlan", network=("10.244.0.0/16",), vtep_mac="02:00:00:00:00:01")
    state.interface = InterfaceState("eth0", "192.0.2.1", 1500, "the first default route leaves by eth0")
    state.datapath = Datapath("userspace", "no other")
    attrs = LeaseAttrs(IPv4Address("192.0.2.1"), None, "vxlan")
    state.lease = Lease(IPv4Network("10.244.1.0/24"), None, attrs, now_s + 7200)
    state.devices["flannel.1"] = DeviceState("flannel.1", 1450, 8472, 2, 7, forwarder)
    state.leases = 1
    state.store_contact = now_s
    state.blockers.clear()
    return state, clock, forwarder


def read(state: NodeState) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(b"".join(document(state)))
    return found


def serve(state: NodeState, directory: Path, check: Callable[[ClientSession], Any], port: int = 0) -> None:
    async def scenario() -> None:
        server = Server(state, directory, "127.0.0.1", port)
        answering = None
        try:
            server.open()
            answering = asyncio.create_task(server.serve())
            connector = None if port else UnixConnector(str(directory / "status.sock"))
            async with ClientSession(connector=connector) as session:
                await check(session)
        finally:
            if answering is not None:
                answering.cancel()
            await server.close()

    asyncio.run(scenario())
