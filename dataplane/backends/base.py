"""What a backend is: the meaning of a configuration and of a lease for the data plane. Pure, without I/O.

A backend turns the network configuration into ways to the peers (`Plan`, mostly with a device: `DevicePlan`), our own addresses into what we publish
(`LeaseAttrs`), and somebody's lease into forwarding entries (`Peer`). What must stay true: a lease is hostile until
checked (`peers.py`), and each one that cannot be used is a `BadLease` that says why (quoting little of it), never another
error.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface
from typing import Any, ClassVar, Literal, Self

from dataplane.errors import BadConfig, BadLease
from dataplane.model import IPAddress, IPNetwork, Lease, LeaseAttrs, NetConf, Peer, VxlanLink

_no_mac = bytes(6)


@dataclass(frozen=True, slots=True)
class Underlay:
    """The external interface as a backend needs it: name, MTU in bytes, and its own addresses, None where it has none."""

    interface: str
    mtu: int
    address: IPv4Address | None
    address6: IPv6Address | None

    def local(self, family: Literal[4, 6]) -> IPAddress:
        """The address to send from; raises `BadConfig` if there is none."""
        found: IPAddress | None = self.address if family == 4 else self.address6
        if found is None:
            raise BadConfig(f"the external interface has no IPv{family} address, but the underlay needs one")
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One way to the peers over one underlay family, as it should be. By itself: plain routes through their addresses.

    Attributes:
        name: of the device, exact or a template ("flannel%d"); without a device a name for messages ("host-gw").
        mtu: largest inner packet, bytes.
        interface: name of the external interface.
        underlay_family, underlay_address: 4 or 6, and the local address to bind to.
        public_address: what our lease tells peers in place of underlay_address.
        subnets: our own overlay subnets that go this way.
        networks: the overlay networks that those are parts of.
        vtep_mac: ours; zero where there is none.
    """

    name: str
    mtu: int
    interface: str
    underlay_family: Literal[4, 6]
    underlay_address: IPAddress
    public_address: IPAddress
    subnets: tuple[IPNetwork, ...]
    networks: tuple[IPNetwork, ...]
    vtep_mac: bytes = _no_mac

    @classmethod
    def over(
        cls,
        underlay: Underlay,
        family: Literal[4, 6],
        conf: NetConf,
        own: Lease,
        versions: tuple[int, ...],
        **more: Any,
    ) -> Self:
        """The way for our subnets of these IP versions over one underlay family; `more`: what is the backend's to say.

        Raises:
            BadConfig: the underlay has no address of the family.
            BadLease: our lease has no subnet of one of the versions.
        """
        local = underlay.local(family)
        pairs = _own_subnets(conf, own, versions)
        return cls(
            interface=underlay.interface,
            underlay_family=family,
            underlay_address=local,
            public_address=(own.attrs.public_ip if family == 4 else own.attrs.public_ipv6) or local,
            subnets=tuple(subnet for subnet, _ in pairs),
            networks=tuple(network for _, network in pairs),
            **more,
        )

    @property
    def local_peers(self) -> tuple[Peer, ...]:
        """Our own subnets as forwarding entries."""
        return tuple(Peer(subnet, None) for subnet in self.subnets)


@dataclass(frozen=True, slots=True, kw_only=True)
class DevicePlan(Plan):
    """A tunnel device, in the kernel or as a TUN with the forwarder behind it.

    Attributes:
        addresses: our addresses on it, see `host_interfaces`.
        port: UDP port, ours and the peers'.
        vni: 0 for udp.
        wire: the format on the underlay.
        direct_routing: peers on our own link are reached without the tunnel.
        link: the kernel's own device that would do the same; None where there is no such thing.
    """

    addresses: tuple[IPv4Interface | IPv6Interface, ...]
    port: int
    vni: int
    wire: Literal["udp", "vxlan"]
    direct_routing: bool = False
    link: VxlanLink | None = None


class Backend(ABC):
    """One backend with its options read. Made by `from_conf`."""

    kind: ClassVar[str]
    """flannel's name of it."""

    @classmethod
    @abstractmethod
    def from_conf(cls, conf: NetConf) -> Self:
        """Read the Backend object's options; raises `BadConfig` naming field, value and what is allowed.

        Unknown options are ignored and null means the default, as in Go.
        """

    @property
    @abstractmethod
    def underlay_families(self) -> tuple[Literal[4, 6], ...]:
        """One plan each, IPv4 first."""

    @property
    def mac_families(self) -> tuple[Literal[4, 6], ...]:
        """Underlay families for which `lease_attrs` needs a VTEP MAC; empty where there are none."""
        return ()

    @property
    @abstractmethod
    def device_names(self) -> tuple[str, ...]:
        """Names, exact or templates, of the devices that `plans` will plan; none where there are only routes."""

    @property
    def encap_port(self) -> int | None:
        """UDP port, ours and the peers'; None where nothing is encapsulated."""
        return None

    @abstractmethod
    def mtu(self, interface_mtu: int) -> int:
        """FLANNEL_MTU of subnet.env, bytes; raises `BadConfig` where nothing useful is left."""

    def mtu_fault(self, interface_mtu: int) -> str:
        """What is wrong with a configured MTU on such an interface, for people; "" for nothing."""
        return ""

    @abstractmethod
    def lease_attrs(
        self, public_ip: IPv4Address | None, public_ipv6: IPv6Address | None, vtep_macs: Mapping[int, bytes]
    ) -> LeaseAttrs:
        """What we publish, as flannel would. `vtep_macs`: MAC by underlay family, one for each of `mac_families`."""

    def macs_of(self, own: Lease) -> dict[int, bytes]:
        """The VTEP MACs that our own lease tells, one for each of `mac_families`; raises `BadLease`."""
        return {}

    def plans(
        self,
        conf: NetConf,
        own: Lease,
        *,
        interface: str,
        interface_mtu: int,
        address: IPv4Address | None,
        address6: IPv6Address | None,
    ) -> tuple[Plan, ...]:
        """The ways to the peers that `own` needs on this external interface, IPv4 first.

        Args:
            own: our lease as the store gave it, attrs as published.
            interface, interface_mtu, address, address6: the external interface's.
        Raises:
            BadConfig: the MTU leaves no room, or an enabled family has no underlay address.
            BadLease: our own lease lacks a subnet or a VTEP MAC.
        """
        underlay = Underlay(interface, interface_mtu, address, address6)
        return tuple(self._plan(conf, own, underlay, family) for family in self.underlay_families)

    @abstractmethod
    def _plan(self, conf: NetConf, own: Lease, underlay: Underlay, family: Literal[4, 6]) -> Plan:
        """One of `plans`; raises the same."""

    @abstractmethod
    def peers(self, conf: NetConf, lease: Lease, plan: Plan) -> tuple[Peer, ...]:
        """What a peer's lease means for `plan`: its overlay prefixes; none where it has none of that family.

        Raises `BadLease` if any part of it that matters here cannot be used.
        """

    def mismatch(self, lease: Lease, plan: Plan) -> str:
        """What a lease that `peers` takes tells of a node configured otherwise than we are; "" for nothing.

        A UDP port is in no lease, and a node of a larger overlay network looks like one of ours while its subnet is
        inside ours.
        """
        return ""


def _own_subnets(conf: NetConf, own: Lease, versions: tuple[int, ...]) -> tuple[tuple[IPNetwork, IPNetwork], ...]:
    """Pairs (our subnet, its overlay network) of those IP versions; raises `BadLease` where one is missing."""
    pairs: list[tuple[IPNetwork, IPNetwork]] = []
    for version in versions:
        subnet, network = subnet_of(own, version), network_of(conf, version)
        if subnet is None:
            raise BadLease(
                own.key, f"our own lease has no IPv{version} subnet, but the network config enables IPv{version}"
            )
        pairs.append((subnet, network))
    return tuple(pairs)


def network_of(conf: NetConf, version: int) -> IPNetwork:
    """The overlay network of an enabled IP version; raises `BadConfig`."""
    network = conf.network if version == 4 else conf.ipv6_network
    if network is None:
        field = "Network" if version == 4 else "IPv6Network"
        raise BadConfig(f"{field} is missing, but IPv{version} is enabled; allowed: a network in CIDR form")
    return network


def host_interfaces(conf: NetConf, own: Lease, versions: tuple[int, ...]) -> tuple[IPv4Interface | IPv6Interface, ...]:
    """The base address of each of our subnets as a single host: the addresses of our end of a tunnel.

    Raises:
        BadLease: our lease has no subnet of one of the versions.
    """
    return tuple(
        IPv4Interface((subnet.network_address, 32))
        if isinstance(subnet, IPv4Network)
        else IPv6Interface((subnet.network_address, 128))
        for subnet, _ in _own_subnets(conf, own, versions)
    )


def subnet_of(lease: Lease, version: int) -> IPNetwork | None:
    return lease.subnet if version == 4 else lease.ipv6_subnet
