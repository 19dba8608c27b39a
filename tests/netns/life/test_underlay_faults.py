"""What networks do to a node while it runs: each is survived by the same process, told while it lasts, and traffic comes back.

Each way to carry packets is led through all of it in one lab, over IPv4 and IPv6 together and over IPv6 alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

from dataplane.lab.cluster import Lab, ipv6_network, net_conf
from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode
from dataplane.lab.topology import Pod
from tests.traffic import LongPing

pytestmark = pytest.mark.long

unfit = "the external interface is not fit for use"
new_address, new_address6 = "192.0.2.101", "2001:db8::101"

ways = {
    "udp": ("udp", "userspace"),
    "vxlan": ("vxlan", "userspace"),
    "kernel": ("vxlan", "kernel"),
    "host-gw": ("host-gw", "auto"),
}


@dataclass
class Net:
    """A running pair of nodes, the first of which has a bad network."""

    lab: Lab
    node: DaemonNode
    peer: DaemonNode
    versions: tuple[int, ...]
    pings: list[LongPing] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)

    def problems(self) -> str:
        status = self.node.status()
        return "" if status is None else str(status["problems"])

    def interface(self) -> dict[str, Any]:
        return (self.node.status() or {}).get("interface") or {}

    def comes_back(self, what: str) -> None:
        """The same process is ready, nothing is wrong, and every ping that never stopped is answered again."""
        process = self.node.process
        assert process is not None
        self.node.wait_ready()
        wait_for(lambda: self.problems() == "[]", 90, f"nothing to be wrong after {what}")
        assert process.poll() is None
        before = [ping.answers for ping in self.pings]
        for ping, count in zip(self.pings, before, strict=True):
            wait_for(lambda p=ping, c=count: p.answers > c + 3, 90, f"the pings to be answered after {what}")


@contextmanager
def network(way: str, ipv6_alone: bool) -> Iterator[Net]:
    backend, datapath = ways[way]
    conf = net_conf(backend, ipv6=True)
    if ipv6_alone:
        conf = {"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": ipv6_network, "Backend": {"Type": backend}}
    with Lab(conf, options=(f"--datapath={datapath}",)) as lab:
        lab.start("dataplane", "dataplane")
        node, peer = lab.daemons
        net = Net(lab, node, peer, (6,) if ipv6_alone else (4, 6))
        try:
            for version in net.versions:
                for one, other in (lab.pods, lab.pods[::-1]):
                    net.pings.append(ping_for_ever(one, other, version))
            net.comes_back("the start")
            yield net
        finally:
            for ping in net.pings:
                ping.stop()
            print(lab.logs(lines=80))


def ping_for_ever(one: Pod, other: Pod, version: int) -> LongPing:
    return LongPing(one.name, other.address_of(version), interval=0.05)


def addresses(net: Net, *, new: bool) -> list[tuple[str, str]]:
    """Our addresses on eth0, each with the words that `ip` needs behind it."""
    own4, own6 = (new_address, new_address6) if new else (str(net.node.address), str(net.node.address6))
    return [(f"{own4}/24", "")] * (4 in net.versions) + [(f"{own6}/64", "nodad")]


def the_interface_is_made_again(net: Net) -> None:
    """Of the same name, with another index and MAC and the same addresses."""
    net.lab.underlay.detach(net.node.number)
    wait_for(lambda: unfit in net.problems(), 90, "the blocker")
    net.lab.underlay.attach(net.node, net.node.number)


def the_interface_goes_down(net: Net) -> None:
    net.node.run("ip", "link", "set", "eth0", "down")
    wait_for(lambda: unfit in net.problems(), 90, "the blocker")
    net.node.run("ip", "link", "set", "eth0", "up")
    put_back_ipv6(net)


def put_back_ipv6(net: Net) -> None:
    """The kernel takes IPv6 addresses from a link that goes down."""
    address, more = addresses(net, new=False)[-1]
    net.node.run("ip", "addr", "replace", address, "dev", "eth0", *more.split())


def the_mtu_flaps(net: Net) -> None:
    """Faster than a change counts as one that lasts."""
    for mtu in (1400, 1500, 1450, 1500, 1400, 1500, 1400):
        net.node.run("ip", "link", "set", "eth0", "mtu", str(mtu))
        time.sleep(0.15)  # part of what is tried
    wait_for(lambda: net.interface().get("mtu") == 1400, 90, "the MTU that lasts")
    net.comes_back("the MTU that lasts")
    net.node.run("ip", "link", "set", "eth0", "mtu", "1500")
    wait_for(lambda: net.interface().get("mtu") == 1500, 90, "the MTU of before")


def the_address_goes_and_another_comes(net: Net) -> None:
    """As with DHCP: a while without any, then another; and back, this time at once. The lease follows each time."""
    for address, _ in addresses(net, new=False):
        net.node.run("ip", "addr", "del", address, "dev", "eth0")
    wait_for(lambda: unfit in net.problems(), 90, "the blocker")
    for address, more in addresses(net, new=True):
        net.node.run("ip", "addr", "add", address, "dev", "eth0", *more.split())
    lease_is_at(net, new=True)
    net.comes_back("the new address")
    net.node.batch(
        *(f"addr del {address} dev eth0" for address, _ in addresses(net, new=True)),
        *(f"addr add {address} dev eth0 {more}" for address, more in addresses(net, new=False)),
    )
    lease_is_at(net, new=False)


def lease_is_at(net: Net, *, new: bool) -> None:
    wanted = {address.partition("/")[0] for address, _ in addresses(net, new=new)}

    def told() -> bool:
        lease = (net.node.status() or {}).get("lease") or {}
        ours = {lease.get("public_ip"), lease.get("public_ipv6")} - {None}  # udp has one for both families
        hops = {row["public_ip"] for row in (net.peer.status() or {}).get("peers", ())}
        return bool(ours) and bool(hops) and ours | hops <= wanted

    wait_for(told, 90, f"the lease and the peer's table to be at {wanted}")


faults: tuple[Callable[[Net], None], ...] = (
    the_interface_is_made_again,
    the_interface_goes_down,
    the_mtu_flaps,
    the_address_goes_and_another_comes,
)


@pytest.mark.parametrize("ipv6_alone", [False, True], ids=["both", "ipv6"])
@pytest.mark.parametrize("way", ways)
def test_what_networks_do(way: str, ipv6_alone: bool) -> None:
    with network(way, ipv6_alone) as net:
        process = net.node.process
        for fault in faults:
            fault(net)
            net.comes_back(fault.__name__)
        assert net.node.process is process


@pytest.mark.parametrize("way", ways)
def test_a_default_route_that_goes_and_comes_back(way: str) -> None:
    """It only chooses the interface: while that has our addresses its loss is none, and a start waits for it."""
    backend, datapath = ways[way]
    defaults = ("route add default via 192.0.2.254", "-6 route add default via 2001:db8::254")
    with Lab(net_conf(backend, ipv6=True), options=(f"--datapath={datapath}",)) as lab:
        for _ in range(2):
            lab.add("dataplane")
        node, peer = lab.daemons
        node._flags = tuple(flag for flag in node._flags if not flag.startswith("--iface"))
        peer.start_daemon()
        node.start_daemon()
        wait_for(lambda: "find default route" in str((node.status() or {}).get("problems")), 90, "the blocker")
        process = node.process
        assert process is not None and process.poll() is None
        for line in defaults:
            node.run("ip", *line.split())
        for each in (node, peer):
            each.wait_ready()
            each.add_pod()
        lab.wait_converged()
        ping = ping_for_ever(lab.pods[0], lab.pods[1], 4)
        wait_for(lambda: ping.answers > 3, 90, "the pings to be answered")
        for line in defaults:
            node.run("ip", *line.replace("add", "del").split())
        node.run("ip", "link", "set", "eth0", "mtu", "1400")  # a life begins without them
        wait_for(lambda: (node.status() or {})["interface"]["mtu"] == 1400, 90, "the new MTU")
        node.wait_ready()
        for line in defaults:
            node.run("ip", *line.split())
        before = ping.answers
        wait_for(lambda: ping.answers > before + 3, 90, "the pings to be answered")
        assert process.poll() is None and node.process is process
        assert (node.status() or {})["problems"] == []
        ping.stop()
