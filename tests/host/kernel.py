"""The host package against the real kernel: each test's body has namespaces of its own, under uvloop as the daemon does.

What a body makes there goes with its process, see `bodies`.
"""

from __future__ import annotations

import asyncio
import os
import struct
import subprocess
import sys
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Address, ip_interface, ip_network

import pytest
import uvloop

from dataplane.errors import HostError
from dataplane.host.devconf import prepare_tun
from dataplane.host.edges.tun import Tun, open_tun
from dataplane.host.netlink import Host
from dataplane.host.routes import Route
from tests.host.bodies import run_in_namespaces

Body = Callable[[Host], Awaitable[None]]
_bodies: dict[str, Body] = {}
deadline_s = 30
vnet_hdr_bytes = 10  # sizeof(struct virtio_net_hdr)


def isolated(body: Body) -> Callable[[], None]:
    """Make a test out of a body: run its file again, in namespaces of its own, with the body's name."""
    name = body.__name__
    _bodies[name] = body

    def test() -> None:
        run_in_namespaces(body)

    test.__name__, test.__doc__ = name, body.__doc__
    return test


needs_tun = pytest.mark.skipif(
    not os.access("/dev/net/tun", os.R_OK | os.W_OK), reason="this user cannot read and write /dev/net/tun"
)


async def run(body: Body) -> None:
    ip("link set lo up")
    failures: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(repr(context)))
    host = Host()
    try:
        await body(host)
    finally:
        await host.close()
    assert failures == []


def sh(command: str, given: str = "") -> None:
    subprocess.run(command.split(), input=given, text=True, check=True)


def ip(command: str) -> None:
    sh(f"ip {command}")


def veth(*addresses: str) -> None:
    """eth0 with these addresses and a peer, eth0-peer, in the same namespace; both up."""
    ip("link add eth0 type veth peer name eth0-peer")
    for address in addresses:
        ip(f"address add {address} dev eth0" + (" nodad" if ":" in address else ""))
    ip("link set eth0-peer up")
    ip("link set eth0 up")


async def configured_tun(host: Host, queues: int = 1) -> Tun:
    tun = open_tun("flannel.1", queues)
    assert prepare_tun(tun.name) == []
    await host.set_link(tun.index, mtu=1450, up=True, txqueuelen=1000)
    await host.add_address(tun.index, ip_interface("10.5.34.0/32"))
    await host.add_route(Route(ip_network("10.5.0.0/16"), tun.index))
    return tun


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(HostError) as caught:
        call()
    return str(caught.value)


def udp_packet(source: str, destination: str, port: int, payload: bytes) -> bytes:
    """An IPv4 UDP packet (no UDP checksum) behind an empty virtio header."""
    udp = struct.pack("!HHHH", port, port, 8 + len(payload), 0) + payload
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    header += IPv4Address(source).packed + IPv4Address(destination).packed
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return bytes(vnet_hdr_bytes) + header[:10] + struct.pack("!H", 0xFFFF ^ total) + header[12:] + udp


def run_body() -> None:
    """What a test's file does when `isolated` runs it: the body that it was told."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(_bodies[sys.argv[1]]))
