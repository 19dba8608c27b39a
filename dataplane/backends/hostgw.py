"""The host-gw backend: no tunnel, each peer's subnet is a plain route through the peer's own address.

As flannel's pkg/backend/hostgw; all nodes must share a link. What must stay true: the lease is byte for byte what
flanneld would publish, and the MTU is the underlay's, since nothing is added to a packet.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import ClassVar, Literal, Self

from dataplane.backends.base import Backend, Plan, Underlay
from dataplane.backends.options import enabled_versions
from dataplane.backends.peers import peer_next_hop, peer_subnet, shown_type
from dataplane.errors import BadConfig, BadLease
from dataplane.model import Lease, LeaseAttrs, NetConf, Peer, type_host_gw

_names: Mapping[int, str] = {4: "host-gw", 6: "host-gw-v6"}


@dataclass(frozen=True, slots=True)
class HostGwBackend(Backend):
    """It has no options."""

    kind: ClassVar[str] = type_host_gw
    families: tuple[Literal[4, 6], ...]

    @classmethod
    def from_conf(cls, conf: NetConf) -> Self:
        return cls(enabled_versions(conf))

    @property
    def underlay_families(self) -> tuple[Literal[4, 6], ...]:
        return self.families

    @property
    def device_names(self) -> tuple[str, ...]:
        return ()

    def mtu(self, interface_mtu: int) -> int:
        return interface_mtu

    def lease_attrs(
        self, public_ip: IPv4Address | None, public_ipv6: IPv6Address | None, vtep_macs: Mapping[int, bytes]
    ) -> LeaseAttrs:
        return LeaseAttrs(public_ip, public_ipv6 if 6 in self.families else None, backend_type=type_host_gw)

    def _plan(self, conf: NetConf, own: Lease, underlay: Underlay, family: Literal[4, 6]) -> Plan:
        """Refuses a public address that is not the interface's own: peers route to it, no address is translated."""
        plan = Plan.over(underlay, family, conf, own, (family,), name=_names[family], mtu=underlay.mtu)
        if plan.underlay_address != plan.public_address:
            raise BadConfig(
                f"the public address {plan.public_address} is not the interface's {plan.underlay_address}, as behind a "
                "NAT; host-gw routes straight to it: allowed is the interface's own address (--public-ip, --public-ipv6), "
                "or vxlan"
            )
        return plan

    def peers(self, conf: NetConf, lease: Lease, plan: Plan) -> tuple[Peer, ...]:
        subnet = peer_subnet(conf, lease, plan.underlay_family, plan)
        if subnet is None:
            return ()
        if lease.attrs.backend_type != type_host_gw:
            raise BadLease(lease.key, f"BackendType is {shown_type(lease)}; allowed: {type_host_gw!r}")
        return (Peer(subnet, peer_next_hop(lease, plan)),)
