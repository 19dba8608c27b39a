"""Configurations, our lease and a peer's, for the tests of the backends."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from dataplane.backends import Backend, DevicePlan, from_conf
from dataplane.model import Lease, LeaseAttrs, NetConf, Peer

own_mac = bytes.fromhex("c6d2326f8f44")
own_mac6 = bytes.fromhex("0e1122334455")
address, address6 = IPv4Address("192.168.64.3"), IPv6Address("fd00::3")


def conf_of(backend: str, *, dual: bool = False, ipv4: bool = True, **options: Any) -> NetConf:
    with6 = dual or not ipv4
    return NetConf(
        network=IPv4Network("10.5.0.0/16") if ipv4 else None,
        ipv6_network=IPv6Network("fd00:5::/48") if with6 else None,
        enable_ipv4=ipv4,
        enable_ipv6=with6,
        backend_type=backend,
        backend_options=options,
    )


def own_lease(backend: Backend, conf: NetConf) -> Lease:
    attrs = backend.lease_attrs(
        address if conf.enable_ipv4 else None, address6 if conf.enable_ipv6 else None, {4: own_mac, 6: own_mac6}
    )
    return Lease(
        IPv4Network("10.5.34.0/24") if conf.enable_ipv4 else None,
        IPv6Network("fd00:5:0:22::/64") if conf.enable_ipv6 else None,
        attrs,
    )


def devices_of(conf: NetConf, interface_mtu: int = 1500) -> tuple[DevicePlan, ...]:
    backend = from_conf(conf)
    return backend.plans(
        conf,
        own_lease(backend, conf),
        interface="eth0",
        interface_mtu=interface_mtu,
        address=address,
        address6=address6,
    )


def peer_lease(**changes: Any) -> Lease:
    """A dual-stack peer in order, with any of its parts replaced."""
    lease = Lease(
        IPv4Network("10.5.72.0/24"),
        IPv6Network("fd00:5:0:48::/64"),
        LeaseAttrs(
            IPv4Address("192.168.64.4"),
            IPv6Address("fd00::4"),
            "vxlan",
            {"VNI": 1, "VtepMAC": "66:be:00:76:59:06"},
            {"VNI": 1, "VtepMAC": "0e:aa:bb:cc:dd:ee"},
        ),
    )
    for name, value in changes.items():
        if name in ("subnet", "ipv6_subnet"):
            lease = replace(lease, **{name: value})
        else:
            lease = replace(lease, attrs=replace(lease.attrs, **{name: value}))
    return lease


def peers_of(conf: NetConf, lease: Lease, device: int = 0) -> tuple[Peer, ...]:
    return from_conf(conf).peers(conf, lease, devices_of(conf)[device])
