"""The udp backend: raw IP packets in UDP, one device for both inner families.

Wire and lease are flannel's (pkg/backend/udp); carrying IPv6 is ours: the inner packet's version says what it is, so
one device and one port do. The underlay is IPv4 where that is enabled, else IPv6. What must stay true: with IPv4
alone, everything published and configured is exactly what flanneld would publish and configure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import ClassVar, Literal, Self

from dataplane.backends.base import Backend, DevicePlan, Plan, Underlay, host_interfaces
from dataplane.backends.options import check_mtu, enabled_versions, largest_port, read_integer
from dataplane.backends.peers import peer_next_hop, peer_subnet, shown_type
from dataplane.model import Lease, LeaseAttrs, NetConf, Peer, type_udp

default_port = 8285
_device_name = "flannel%d"
overhead_bytes: Mapping[int, int] = {4: 20 + 8, 6: 40 + 8}  # outer IP and UDP headers, by underlay family


@dataclass(frozen=True, slots=True)
class UdpBackend(Backend):
    """Options: Port (0 or absent: 8285)."""

    kind: ClassVar[str] = type_udp
    port: int
    underlay_family: Literal[4, 6]
    carries_ipv6: bool

    @classmethod
    def from_conf(cls, conf: NetConf) -> Self:
        port = read_integer(conf, "Port", 0, 0, largest_port) or default_port
        return cls(port, 4 if conf.enable_ipv4 else 6, conf.enable_ipv6)

    @property
    def underlay_families(self) -> tuple[Literal[4, 6], ...]:
        return (self.underlay_family,)

    @property
    def device_names(self) -> tuple[str, ...]:
        return (_device_name,)

    @property
    def encap_port(self) -> int:
        """UDP port, ours and the peers'."""
        return self.port

    def mtu(self, interface_mtu: int) -> int:
        return check_mtu("the udp device", interface_mtu - overhead_bytes[self.underlay_family], self.carries_ipv6)

    def lease_attrs(
        self, public_ip: IPv4Address | None, public_ipv6: IPv6Address | None, vtep_macs: Mapping[int, bytes]
    ) -> LeaseAttrs:
        """No BackendType and no data; only the address of the family that the underlay uses, as flannel does."""
        if self.underlay_family == 4:
            return LeaseAttrs(public_ip=public_ip)
        return LeaseAttrs(public_ipv6=public_ipv6)

    def _plan(self, conf: NetConf, own: Lease, underlay: Underlay, family: Literal[4, 6]) -> DevicePlan:
        versions = enabled_versions(conf)
        return DevicePlan.over(
            underlay,
            family,
            conf,
            own,
            versions,
            addresses=host_interfaces(conf, own, versions),
            name=_device_name,
            mtu=self.mtu(underlay.mtu),
            port=self.port,
            vni=0,
            wire="udp",
        )

    def peers(self, conf: NetConf, lease: Lease, plan: Plan) -> tuple[Peer, ...]:
        """Whatever BackendType the lease names is accepted, as by flannel, whose own udp leases name none.

        `mismatch` names one of another kind.
        """
        subnets = [peer_subnet(conf, lease, version, plan) for version in enabled_versions(conf)]
        if not any(subnets):
            return ()
        next_hop = peer_next_hop(lease, plan)
        return tuple(Peer(subnet, next_hop) for subnet in subnets if subnet is not None)

    def mismatch(self, lease: Lease, plan: Plan) -> str:
        """Another backend's lease: no udp lease names a BackendType, flannel's or ours."""
        if lease.attrs.backend_type in ("", type_udp):
            return ""
        return f"its BackendType is {shown_type(lease)} and ours is udp: neither node takes what the other sends"
