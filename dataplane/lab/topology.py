"""The lab's places: namespaces, the underlay bridge that joins the nodes, and the pods behind each node.

    pod eth0 ── cni0 (bridge, pod subnet's .1) ── node ── eth0 ── underlay bridge ── eth0 ── node …

The bridge is in the enclosure's own namespace, which has no other way out. Node N has 192.0.2.N/24 and 2001:db8::N/64
(documentation addresses, RFC 5737 and RFC 3849). What must stay true: names are unique within an enclosure, and every
link that is made here is deleted synchronously, since the kernel takes a namespace's devices away later than its name.
"""

from __future__ import annotations

import itertools
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import IO

from dataplane.errors import HostError
from dataplane.lab import enclosure, traffic
from dataplane.lab.commands import batch, inside_of, run

underlay_ipv4 = IPv4Network("192.0.2.0/24")
underlay_ipv6 = IPv6Network("2001:db8::/64")

# Addresses are usable at once, and nothing but the lab's traffic is on the wires.
_quiet_ipv6 = ("accept_dad=0", "dad_transmits=0", "router_solicitations=0", "accept_ra=0")
_numbers = itertools.count(1)


@dataclass(frozen=True, slots=True)
class PodNet:
    """A node's share of the overlay as subnet.env tells it."""

    mtu: int
    ipv4: IPv4Network | None
    ipv6: IPv6Network | None


class Place:
    """A network namespace with a name that `ip netns` shows."""

    def __init__(self, name: str, *sysctls: str) -> None:
        self.name = name
        run(None, "ip", "netns", "add", name)
        quiet = [f"net.ipv6.conf.{scope}.{item}" for scope in ("all", "default") for item in _quiet_ipv6]
        run(name, "sysctl", "-qw", *quiet, *sysctls)
        batch(name, "link set lo up")

    def run(self, *words: str, check: bool = True, timeout: float = 30.0) -> subprocess.CompletedProcess[str]:
        """Run a command here to its end; see `commands.run`."""
        return run(self.name, *words, check=check, timeout=timeout)

    def start(self, *words: str, output: IO[bytes] | int | None = None) -> subprocess.Popen[bytes]:
        """Start a command here; stdout and stderr go to `output`."""
        return subprocess.Popen(
            inside_of(self.name, words), stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
        )

    def batch(self, *lines: str) -> None:
        """Give several lines to one `ip -batch` here."""
        batch(self.name, *lines)

    def set_offloads(self, device: str, states: Mapping[str, bool]) -> None:
        """Switch features of a device by ethtool's names, e.g. {"tso": False}; raises `CommandFailed`."""
        words = [word for feature, on in states.items() for word in (feature, "on" if on else "off")]
        self.run("ethtool", "-K", device, *words)

    def close(self) -> None:
        """Delete the namespace; processes in it must have ended."""
        run(None, "ip", "netns", "delete", self.name, check=False)


class Underlay:
    """The bridge that joins the nodes; `prefix` begins all names of this lab."""

    def __init__(self) -> None:
        if not enclosure.inside():
            raise HostError("a lab is made only inside an enclosure: call dataplane.lab.enclosure.ensure() first")
        self.prefix = f"lab{next(_numbers)}"
        batch(
            None,
            f"link add {self.prefix} type bridge mcast_snooping 0",
            f"link set {self.prefix} addrgenmode none up",
        )

    def attach(self, place: Place, number: int, mtu: int = 1500) -> None:
        """Give `place` an eth0 on the bridge with the addresses of node `number`."""
        port = self.port(number)
        batch(
            None,
            f"link add {port} mtu {mtu} type veth peer name eth0 mtu {mtu} netns {place.name}",
            f"link set {port} master {self.prefix} addrgenmode none up",
        )
        place.batch(
            f"address add {underlay_address(number)}/{underlay_ipv4.prefixlen} dev eth0",
            f"address add {underlay_address6(number)}/{underlay_ipv6.prefixlen} dev eth0 nodad",
            "link set eth0 up",
        )

    def port(self, number: int) -> str:
        """Return the bridge's end of node `number`'s cable."""
        return f"{self.prefix}n{number}"

    def detach(self, number: int) -> None:
        """Pull the cable of node `number` for good."""
        run(None, "ip", "link", "delete", self.port(number), check=False)

    def close(self) -> None:
        """Delete the bridge."""
        run(None, "ip", "link", "delete", self.prefix, check=False)


def underlay_address(number: int) -> IPv4Address:
    """Return node `number`'s address on the underlay."""
    return underlay_ipv4[number]


def underlay_address6(number: int) -> IPv6Address:
    """Return the same for IPv6."""
    return underlay_ipv6[number]


class Pod(Place):
    """A namespace behind a node's cni0, with the subnet's address `index` + 2 and a default route."""

    def __init__(self, node: Place, net: PodNet, index: int) -> None:
        super().__init__(f"{node.name}-pod{index + 1}")
        self.address = "" if net.ipv4 is None else str(net.ipv4[index + 2])
        self.address6 = "" if net.ipv6 is None else str(net.ipv6[index + 2])
        node.batch(
            f"link add pod{index + 1} mtu {net.mtu} type veth peer name eth0 mtu {net.mtu} netns {self.name}",
            f"link set pod{index + 1} master cni0 up",
        )
        self.batch("link set eth0 up")
        if net.ipv4 is not None:
            self.batch(
                f"address add {self.address}/{net.ipv4.prefixlen} dev eth0", f"route add default via {net.ipv4[1]}"
            )
        if net.ipv6 is not None:
            self.batch(
                f"address add {self.address6}/{net.ipv6.prefixlen} dev eth0 nodad",
                f"route add default via {net.ipv6[1]}",
            )

    def address_of(self, version: int) -> str:
        """Return the pod's IPv4 or IPv6 address."""
        return self.address if version == 4 else self.address6

    def ping(self, other: Pod, version: int = 4, **options: object) -> traffic.Ping:
        """Ping another pod; options as for `traffic.ping`."""
        return traffic.ping(self.name, other.address_of(version), **options)  # type: ignore[arg-type]

    def iperf3(self, other: Pod, version: int = 4, **options: object) -> traffic.Throughput:
        """Send data to another pod, or with `reverse` take it from there; options as for `traffic.iperf3`."""
        return traffic.iperf3(other.name, self.name, other.address_of(version), **options)  # type: ignore[arg-type]


def add_cni0(node: Place, net: PodNet) -> None:
    """Make the node's pod bridge as the CNI bridge plugin does: the subnet's first address, the overlay's MTU."""
    # An address of its own: otherwise the bridge takes a port's, and changes it when that pod goes.
    node.batch(
        "link add cni0 address 02:00:00:00:00:01 type bridge mcast_snooping 0", f"link set cni0 mtu {net.mtu} up"
    )
    if net.ipv4 is not None:
        node.batch(f"address add {net.ipv4[1]}/{net.ipv4.prefixlen} dev cni0")
    if net.ipv6 is not None:
        node.batch(f"address add {net.ipv6[1]}/{net.ipv6.prefixlen} dev cni0 nodad")
