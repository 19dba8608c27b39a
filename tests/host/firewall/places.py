"""A node's surroundings for tests of the firewall rules, and bodies of tests that run in namespaces of their own.

    pod 10.244.7.2 ── pod0 (10.244.7.1) node eth0 (192.0.2.1) ── outside 192.0.2.9
                                        node over (10.244.7.0) ── peer 10.244.8.2, the rest of the overlay

Each body runs in a process and namespaces of its own, which is the node; the kernel takes everything away when it ends.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path

import pytest
import uvloop

from dataplane.flannel.subnet_env import SubnetEnv
from dataplane.host import command
from dataplane.host.firewall.rules import Encap, Overlay, Wanted
from dataplane.keepers.firewall import Firewall
from dataplane.lab.commands import batch, run
from dataplane.lab.topology import Place
from dataplane.model import Lease, LeaseAttrs, NetConf
from dataplane.observe.state import NodeState
from dataplane.runtime.clock import WallClock
from tests.host.bodies import run_in_namespaces

Body = Callable[[str], Awaitable[None]]

kinds = ("nftables", "iptables-nft", "iptables-legacy")
_bodies: dict[str, Body] = {}
deadline_s = 30.0

overlay4 = Overlay(IPv4Network("10.244.0.0/16"), IPv4Network("10.244.7.0/24"))
overlay6 = Overlay(IPv6Network("fd00:10::/56"), IPv6Network("fd00:10:0:7::/64"))

_echo = """
import socket
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("0.0.0.0", 7000))
print("ready", flush=True)
while True:
    _, source = server.recvfrom(64)
    server.sendto(source[0].encode(), source)
"""
_ask = """
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(float(sys.argv[2]))
client.sendto(b"who am I?", (sys.argv[1], 7000))
try:
    print(client.recv(64).decode())
except TimeoutError:
    print("nothing came back")
"""


def isolated(*of: str) -> Callable[[Body], Callable[[str], None]]:
    """Make a test out of a body for each kind of mechanism: run its file again, in namespaces of its own."""

    def decorate(body: Body) -> Callable[[str], None]:
        name = body.__name__
        _bodies[name] = body

        @pytest.mark.parametrize("kind", of)
        def test(kind: str) -> None:
            if kind != "nftables" and shutil.which(kind, path="/usr/sbin") is None:
                pytest.skip(f"{kind} is not installed")
            run_in_namespaces(body, kind)

        test.__name__, test.__doc__ = name, body.__doc__
        return test

    return decorate


async def in_body(body: Body, kind: str) -> None:
    run(None, "mount", "-t", "tmpfs", "tmpfs", "/run")
    run(None, "ip", "link", "set", "lo", "up")
    if kind != "nftables":
        # Debian's alternatives, of this process alone: what `iptables` means is decided by PATH.
        tools = Path("/run/tools")
        run(None, "mkdir", str(tools))
        for family in ("iptables", "ip6tables"):
            for suffix in ("", "-restore", "-save"):
                (tools / f"{family}{suffix}").symlink_to(f"/usr/sbin/{kind.replace('iptables', family)}{suffix}")
        os.environ["PATH"] = f"{tools}:{os.environ['PATH']}"
        command._path = os.environ["PATH"]
    failures: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(repr(context)))
    await body(kind)
    assert failures == []


def make_firewall(
    kind: str,
    *,
    masquerade: bool = True,
    forward: bool = True,
    ipv6: bool = False,
    resync_s: float = 60.0,
    previous: SubnetEnv | None = None,
    overlay: Overlay = overlay4,
    encap: Encap | None = None,
) -> tuple[Firewall, NodeState]:
    network, subnet = overlay.network, overlay.subnet
    assert isinstance(network, IPv4Network) and isinstance(subnet, IPv4Network)
    assert isinstance(overlay6.network, IPv6Network) and isinstance(overlay6.subnet, IPv6Network)
    state = NodeState()
    made = Firewall(
        NetConf(network=network, ipv6_network=overlay6.network, enable_ipv6=ipv6, enable_nftables=kind == "nftables"),
        Lease(subnet, overlay6.subnet if ipv6 else None, LeaseAttrs()),
        masquerade=masquerade,
        forward=forward,
        random_fully=True,
        resync_s=resync_s,
        previous=previous or SubnetEnv(),
        state=state,
        clock=WallClock(),
        encap=encap,
    )
    return made, state


def wanted(*of: Overlay) -> Wanted:
    return Wanted(masquerade=True, forward=True, random_fully=True, overlays=of)


def saved(version: int, table: str) -> list[str]:
    tool = "iptables-save" if version == 4 else "ip6tables-save"
    return [line for line in run(None, tool, "-t", table).stdout.splitlines() if not line.startswith(("#", ":"))]


def ruleset(kind: str) -> str:
    """Everything that the mechanism's tool shows, without counters and times."""
    if kind == "nftables":
        return run(None, "nft", "list", "ruleset").stdout
    return "\n".join(
        line for version in (4, 6) for table in ("nat", "filter", "mangle") for line in saved(version, table)
    )


async def until(condition: Callable[[], bool], limit_s: float) -> None:
    """Wait for a condition while the event loop runs."""
    start = time.monotonic()
    while not condition():
        assert time.monotonic() - start < limit_s, "waited in vain"
        await asyncio.sleep(0.02)


class Network:
    """The node's surroundings; each place answers who it was asked by."""

    def __init__(self) -> None:
        run(None, "sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.rp_filter=0")
        self.pod, self.outside, self.peer = Place("pod"), Place("outside"), Place("peer")
        for place, device, address in (
            (self.pod, "pod0", "10.244.7.1/24"),
            (self.outside, "eth0", "192.0.2.1/24"),
            (self.peer, "over", "10.244.7.0/32"),
        ):
            batch(
                None,
                f"link add {device} type veth peer name eth0 netns {place.name}",
                f"address add {address} dev {device}",
                f"link set {device} up",
            )
        batch(None, "route add 10.244.8.0/24 dev over")
        self.pod.batch("link set eth0 up", "address add 10.244.7.2/24 dev eth0", "route add default via 10.244.7.1")
        self.outside.batch(
            "link set eth0 up", "address add 192.0.2.9/24 dev eth0", "route add 10.244.0.0/16 via 192.0.2.1"
        )
        self.peer.batch("link set eth0 up", "address add 10.244.8.2/32 dev eth0", "route add default dev eth0")
        run(None, "sysctl", "-qw", "net.ipv4.conf.over.proxy_arp=1")
        self.peer.run("sysctl", "-qw", "net.ipv4.conf.eth0.proxy_arp=1")
        for place in (self.pod, self.outside, self.peer):
            server = place.start(sys.executable, "-c", _echo, output=subprocess.PIPE)
            assert server.stdout is not None and server.stdout.readline() == b"ready\n"

    def add_ipv6(self) -> None:
        """Give everybody an IPv6 address too: fd00:10:0:7::2 is the pod, fd01::9 outside, fd00:10:0:8::2 the peer's pod."""
        run(None, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
        batch(None, "address add fd00:10:0:7::1/64 dev pod0 nodad", "address add fd01::1/64 dev eth0 nodad")
        batch(None, "address add fd00:10:0:7::/128 dev over nodad", "route add fd00:10:0:8::/64 dev over")
        self.pod.batch("address add fd00:10:0:7::2/64 dev eth0 nodad", "route add default via fd00:10:0:7::1")
        self.outside.batch("address add fd01::9/64 dev eth0 nodad", "route add fd00:10::/56 via fd01::1")
        self.peer.batch("address add fd00:10:0:8::2/64 dev eth0 nodad", "address add fd00:10:0:8::1/64 dev eth0 nodad")

    def source_seen(self, place: Place | None, address: str, limit_s: float = 30.0) -> str:
        """Which source address arrives at `address` when `place` (None: the node) asks it."""
        words = (sys.executable, "-c", _ask, address, str(limit_s))
        return run(None if place is None else place.name, *words).stdout.strip()


def run_body() -> None:
    """What a test's file does when `isolated` runs it: the body and the kind that it was told."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(in_body(_bodies[sys.argv[1]], sys.argv[2]))
