"""A node whose overlay is the kernel's own vxlan device, set up as flannel sets it.

It takes its lease from the shared store with the device's MAC, and programs every other lease as flannel does: a
permanent neighbour for the peer's base address, an FDB entry, a route to the subnet through that neighbour, onlink.
What must stay true: the device has what flanneld was observed to give it (flannel.md sections 5.1, 5.4 and 13), so
that what works against it works against flannel.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

from dataplane.lab.commands import batch
from dataplane.lab.leases import LeaseBook
from dataplane.lab.node import Node
from dataplane.lab.topology import PodNet, Underlay
from dataplane.model import Lease, LeaseAttrs

vni = 1
port = 8472
overhead_bytes = 50  # inner Ethernet 14, VXLAN 8, UDP 8, outer IPv4 20; flannel takes the same off for IPv6


@dataclass(frozen=True, slots=True)
class Remote:
    """What one family of a peer's lease comes to."""

    subnet: IPv4Network | IPv6Network
    public: IPv4Address | IPv6Address
    mac: str


class KernelNode(Node):
    """A node without a daemon of ours.

    Args:
        book: the shared lease store.
        ipv6: also make flannel-v6.1.
    """

    kind = "kernel"

    def __init__(
        self, underlay: Underlay, number: int, directory: Path, book: LeaseBook, *, ipv6: bool = False, mtu: int = 1500
    ) -> None:
        super().__init__(underlay, number, directory, mtu)
        self._book = book
        self._mtu = mtu
        self._macs: dict[str, str] = {}
        self._remotes: dict[tuple[str, str], Remote] = {}
        self._devices = {"flannel.1": str(self.address)}
        if ipv6:
            self._devices["flannel-v6.1"] = str(self.address6)
        for device, local in self._devices.items():
            self.batch(
                f"link add {device} type vxlan id {vni} dev eth0 local {local} dstport {port} nolearning",
                f"link set {device} addrgenmode none up",
            )
            (link,) = json.loads(self.run("ip", "-j", "link", "show", device).stdout)
            self._macs[device] = link["address"]
        self.lease = book.acquire(self._attrs(), node=self.label)
        for device, subnet in (("flannel.1", self.lease.subnet), ("flannel-v6.1", self.lease.ipv6_subnet)):
            if device in self._devices and subnet is not None:
                self.batch(f"address add {subnet[0]}/{subnet.max_prefixlen} dev {device} nodad")
        book.listen(self._program)

    def pod_net(self) -> PodNet:
        """What flanneld would write to subnet.env."""
        return PodNet(self._mtu - overhead_bytes, self.lease.subnet, self.lease.ipv6_subnet)

    def knows(self, other: Node) -> bool:
        """Say whether all of `other`'s subnets are programmed."""
        net = other.net
        programmed = {remote.subnet for remote in self._remotes.values()}
        return net is not None and {subnet for subnet in (net.ipv4, net.ipv6) if subnet is not None} <= programmed

    def close(self) -> None:
        """Take the node away; its lease stays, as flannel's does."""
        self._book.unlisten(self._program)
        super().close()

    def _attrs(self) -> LeaseAttrs:
        def data(device: str) -> dict[str, Any] | None:
            return {"VNI": vni, "VtepMAC": self._macs[device]} if device in self._macs else None

        return LeaseAttrs(
            public_ip=self.address,
            public_ipv6=self.address6 if "flannel-v6.1" in self._devices else None,
            backend_type="vxlan",
            backend_data=data("flannel.1"),
            backend_v6_data=data("flannel-v6.1"),
        )

    def _program(self, leases: Mapping[str, Lease]) -> None:
        wanted = {
            (device, key): remote
            for key, lease in leases.items()
            for device, remote in _remotes(lease).items()
            if device in self._devices and lease.attrs.public_ip != self.address
        }
        for (device, key), remote in self._remotes.items():
            if wanted.get((device, key)) != remote:
                self._forget(device, remote)
        for (device, key), remote in wanted.items():
            if self._remotes.get((device, key)) != remote:
                self._add(device, remote)
        self._remotes = wanted

    def _add(self, device: str, remote: Remote) -> None:
        base = remote.subnet[0]
        self.batch(f"neigh replace {base} lladdr {remote.mac} dev {device} nud permanent")
        batch(self.name, f"fdb replace {remote.mac} dev {device} dst {remote.public} self permanent", tool="bridge")
        self.batch(f"route replace {remote.subnet} via {base} dev {device} onlink")

    def _forget(self, device: str, remote: Remote) -> None:
        self.batch(f"route delete {remote.subnet} dev {device}", f"neigh delete {remote.subnet[0]} dev {device}")
        batch(self.name, f"fdb delete {remote.mac} dev {device} dst {remote.public} self", tool="bridge")


def _remotes(lease: Lease) -> dict[str, Remote]:
    """Read what a vxlan lease says, by device; the lab's leases are well-formed."""
    attrs, found = lease.attrs, {}
    if lease.subnet is not None and attrs.public_ip is not None and attrs.backend_data:
        found["flannel.1"] = Remote(lease.subnet, attrs.public_ip, attrs.backend_data["VtepMAC"])
    if lease.ipv6_subnet is not None and attrs.public_ipv6 is not None and attrs.backend_v6_data:
        found["flannel-v6.1"] = Remote(lease.ipv6_subnet, attrs.public_ipv6, attrs.backend_v6_data["VtepMAC"])
    return found
