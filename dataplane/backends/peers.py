"""What a peer's lease may say: its subnet and its underlay address, checked.

What must stay true: a lease is hostile until it was here; what cannot be used is a `BadLease` that quotes little of it.
"""

from __future__ import annotations

import reprlib
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from dataplane.backends.base import Plan, network_of, subnet_of
from dataplane.errors import BadLease, OursClaimed
from dataplane.model import IPAddress, IPNetwork, Lease, NetConf


def peer_subnet(conf: NetConf, lease: Lease, version: int, plan: Plan) -> IPNetwork | None:
    """A peer's checked subnet of that IP version, None if it has none; raises `BadLease`.

    Overlaps between two peers are not seen here, only with us.
    """
    subnet: Any = subnet_of(lease, version)
    if subnet is None:
        return None
    if not isinstance(subnet, IPv4Network if version == 4 else IPv6Network):
        raise BadLease(lease.key, f"subnet {subnet!r} is no IPv{version} network")
    network: Any = network_of(conf, version)
    if not network.supernet_of(subnet):
        raise BadLease(lease.key, f"subnet {subnet} is outside the overlay network; allowed: part of {network}")
    for own in plan.subnets:
        if own.version == version and subnet.overlaps(own):
            raise OursClaimed(lease.key, f"subnet {subnet} overlaps our own subnet {own}")
    return subnet


def peer_next_hop(lease: Lease, plan: Plan) -> IPAddress:
    """A peer's checked underlay address; raises `BadLease`."""
    field, kind = ("PublicIP", IPv4Address) if plan.underlay_family == 4 else ("PublicIPv6", IPv6Address)
    ip: Any = lease.attrs.public_ip if plan.underlay_family == 4 else lease.attrs.public_ipv6
    allowed = f"allowed: a unicast IPv{plan.underlay_family} address of another node"
    if not isinstance(ip, kind):
        raise BadLease(lease.key, f"{field} is {'missing' if ip is None else reprlib.repr(ip)}; {allowed}")
    mapped = isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None
    broadcast = ip == IPv4Address("255.255.255.255")
    if ip.is_unspecified or ip.is_multicast or ip.is_loopback or mapped or broadcast:
        raise BadLease(lease.key, f"{field} {ip} cannot be a peer's address; {allowed}")
    if ip in (plan.underlay_address, plan.public_address):
        raise OursClaimed(lease.key, f"{field} {ip} is our own, so two nodes have one public address; {allowed}")
    for network in plan.networks:
        if ip in network:
            # The datagram would be routed into the overlay again, and so on.
            raise BadLease(lease.key, f"{field} {ip} is inside the overlay network {network}; {allowed}")
    return ip


def shown_type(lease: Lease) -> str:
    """A lease's BackendType for people, who should not have to know what an empty one means."""
    kind = lease.attrs.backend_type
    return "'' (flannel's udp)" if kind == "" else reprlib.repr(kind)
