"""The nouns of the project: network configuration, lease, and what a watch says about leases.

Plain frozen values without I/O. What must stay true: two values are equal when every field is equal, so
that a changed lease is always seen as changed (comparing by key alone is how flannel misses a new VTEP MAC).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, Literal

type_udp = "udp"
type_vxlan = "vxlan"
type_host_gw = "host-gw"

IPAddress = IPv4Address | IPv6Address
IPNetwork = IPv4Network | IPv6Network
Born = tuple[float, str]
"""When a lease was made, in the store's own terms: comparable within one store. Smaller is older."""


@dataclass(frozen=True, slots=True)
class NetConf:
    """The cluster's network configuration, decoded and (by `config.validate`) complete.

    Source: flannel pkg/subnet/config.go. `backend_type` is lower case; `backend_options` is the rest of the
    Backend object with its keys in lower case (Go matches JSON keys case-insensitively).
    """

    network: IPv4Network | None = None
    ipv6_network: IPv6Network | None = None
    enable_ipv4: bool = True
    enable_ipv6: bool = False
    enable_nftables: bool = False
    subnet_len: int = 0
    subnet_min: IPv4Address | None = None
    subnet_max: IPv4Address | None = None
    ipv6_subnet_len: int = 0
    ipv6_subnet_min: IPv6Address | None = None
    ipv6_subnet_max: IPv6Address | None = None
    backend_type: str = type_udp
    backend_options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class LeaseAttrs:
    """What a node publishes with its lease (flannel pkg/lease/lease.go).

    Attributes:
        public_ip, public_ipv6: underlay addresses at which peers reach the node.
        backend_type: "vxlan", "host-gw"; "" for udp, which publishes none.
        backend_data, backend_v6_data: decoded JSON as found in the store (hostile input until a backend has
            checked it), None when absent.
    """

    public_ip: IPv4Address | None = None
    public_ipv6: IPv6Address | None = None
    backend_type: str = ""
    backend_data: Any = None
    backend_v6_data: Any = None


@dataclass(frozen=True, slots=True)
class Lease:
    """A node's claim on one subnet (and, dual stack, one IPv6 subnet).

    Attributes:
        subnet, ipv6_subnet: at least one is set.
        attrs: what the node published.
        expires: Unix time in seconds; None for a reservation, which has no end.
        born: as the store knows it, which renewals do not change; the default where it does not know.
        spelled: the store's name of it, where it is not the one that its subnets have everywhere.
    """

    subnet: IPv4Network | None
    ipv6_subnet: IPv6Network | None
    attrs: LeaseAttrs
    expires: float | None = None
    born: Born = (0.0, "")
    spelled: str = ""

    @property
    def key(self) -> str:
        """The lease's name, in every store "10.244.1.0-24", dual "10.244.1.0-24&fd00:1::-64", unless it is spelled otherwise."""
        if self.spelled:
            return self.spelled
        parts = [f"{net.network_address}-{net.prefixlen}" for net in (self.subnet, self.ipv6_subnet) if net is not None]
        return "&".join(parts)

    @property
    def subnets(self) -> tuple[IPNetwork, ...]:
        """One or two, IPv4 first."""
        return tuple(net for net in (self.subnet, self.ipv6_subnet) if net is not None)


@dataclass(frozen=True, slots=True)
class RefusedLease:
    """A stored lease that could not be decoded: named, isolated, reported; never dropped silently."""

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The complete set of leases at one moment; a watch always begins with one and may send another."""

    leases: tuple[Lease, ...]
    refused: tuple[RefusedLease, ...] = ()


@dataclass(frozen=True, slots=True)
class LeasePut:
    """One lease was created, renewed or changed."""

    lease: Lease


@dataclass(frozen=True, slots=True)
class LeaseRefused:
    """One lease was written with content that cannot be used; whatever we had under its key is void."""

    refused: RefusedLease


@dataclass(frozen=True, slots=True)
class LeaseGone:
    """One lease was deleted or expired."""

    key: str


@dataclass(frozen=True, slots=True)
class SecondWriter:
    """Our own lease was written, as it is here, by somebody else: another node has our public address."""

    lease: Lease


WatchEvent = Snapshot | LeasePut | LeaseRefused | LeaseGone | SecondWriter


@dataclass(frozen=True, slots=True)
class Peer:
    """One overlay prefix and where it lives; `next_hop` None marks our own subnet."""

    prefix: IPNetwork
    next_hop: IPAddress | None
    vtep_mac: bytes = bytes(6)


@dataclass(frozen=True, slots=True)
class VxlanLink:
    """A vxlan device as the kernel should have it (flannel.md section 5.1).

    Attributes:
        local: outer source address: our public one.
        interface: name of the external interface.
        mtu: bytes, of the device itself.
    """

    name: str
    vni: int
    port: int
    local: IPAddress
    interface: str
    mtu: int
    learning: bool = False
    group_policy: bool = False


UnreachableReason = Literal["port_closed", "host_unreachable", "no_route", "prohibited"]
"""What ICMP says of a peer, where what we send does not reach it."""


@dataclass(frozen=True, slots=True)
class PeerCounters:
    """Inner packets and bytes exchanged with one prefix's peer."""

    tx_packets: int = 0
    tx_bytes: int = 0
    rx_packets: int = 0
    rx_bytes: int = 0

    def __sub__(self, other: PeerCounters) -> PeerCounters:
        return PeerCounters(
            self.tx_packets - other.tx_packets,
            self.tx_bytes - other.tx_bytes,
            self.rx_packets - other.rx_packets,
            self.rx_bytes - other.rx_bytes,
        )
