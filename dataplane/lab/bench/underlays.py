"""The three underlays between the two nodes of a benchmark.

    offloads, segmenting:  eth0 of node 1 ──────────── eth0 of node 2     (one veth pair)
    wire:                  eth0 ── port1 ═ XDP redirect ═ port2 ── eth0   (two pairs, joined in the enclosure)

What must stay true: both ends are treated alike, and every contestant of a table has the same underlay.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from socket import if_nametoindex

from dataplane.bpf.calls import Helper, Link, redirecting, xdp_driver
from dataplane.lab.commands import batch, run
from dataplane.lab.node import Node
from dataplane.lab.topology import Place, Underlay, underlay_address, underlay_address6, underlay_ipv4, underlay_ipv6

# What cuts packets before they are handed to the device below: TCP, the kernel's vxlan, UDP_SEGMENT.
segmentation = {"tso": False, "tx-udp_tnl-segmentation": False, "tx-udp-segmentation": False}


class Cable(Underlay):
    """One veth pair from node 1 to node 2, without a bridge."""

    def attach(self, place: Place, number: int, mtu: int = 1500) -> None:
        """Give node 1 its end; the other one waits until node 2 comes."""
        if number == 1:
            batch(None, f"link add {self.port(1)} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {place.name}")
        else:
            batch(None, f"link set {self.port(1)} netns {place.name} name eth0")
        _address(place, number)

    def finish(self, nodes: list[Node]) -> None:
        """Set what the underlay's kind asks for, once both nodes are there."""


class Segmenting(Cable):
    """The same; packets are segmented before they enter it, and joined again by GRO at the other end."""

    def finish(self, nodes: list[Node]) -> None:
        for node in nodes:
            node.set_offloads("eth0", {**segmentation, "gro": True})


class Wire(Underlay):
    """Two veth pairs joined by XDP: what crosses carries no kernel metadata, only bytes."""

    def __init__(self) -> None:
        super().__init__()
        self._redirects: list[Link] = []

    def attach(self, place: Place, number: int, mtu: int = 1500) -> None:
        """Give node `number` a pair of its own, whose other end stays here."""
        port = self.port(number)
        batch(
            None,
            f"link add {port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {place.name}",
            f"link set {port} addrgenmode none up",
        )
        _address(place, number)

    def finish(self, nodes: list[Node]) -> None:
        """Join the pairs; all transmit offloads and checksums off, GRO on, each receive queue in a thread of its own."""
        ports = [self.port(node.number) for node in nodes]
        for node in nodes:
            node.set_offloads("eth0", {**segmentation, "gso": False, "tx": False, "gro": True})
            _thread(node.name, "eth0")
        for port, other in zip(ports, reversed(ports), strict=True):
            run(None, "ethtool", "-K", port, "gro", "on")
            program = redirecting(Helper.redirect, if_nametoindex(other))
            self._redirects.append(Link(xdp_driver, program, if_nametoindex(port)))
            _thread(None, port)

    def close(self) -> None:
        """Part the pairs and delete everything."""
        while self._redirects:
            self._redirects.pop().close()
        super().close()


kinds: dict[str, type[Cable] | type[Wire]] = {"offloads": Cable, "segmenting": Segmenting, "wire": Wire}


def _address(place: Place, number: int) -> None:
    addresses = ((underlay_address(number), underlay_ipv4), (underlay_address6(number), underlay_ipv6))
    for address, net in addresses:
        flag = "" if isinstance(address, IPv4Address) else " nodad"
        place.batch(f"address add {address}/{net.prefixlen} dev eth0{flag}")
    place.batch("link set eth0 up")


def _thread(namespace: str | None, device: str) -> None:
    """Let a kernel thread poll the device, as an interrupt on another processor would."""
    script = f"echo 1 > {Path('/sys/class/net') / device / 'threaded'}"
    if namespace is None:
        # The enclosure's /sys is the host's; one that is mounted here shows our devices, and goes with the command.
        run(None, "unshare", "--mount", "sh", "-c", f"mount -t sysfs sysfs /sys && {script}")
    else:
        run(namespace, "sh", "-c", script)
