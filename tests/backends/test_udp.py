"""udp: what its configurations and leases mean, as flannel publishes them."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface, IPv6Network

import pytest

from dataplane.backends import from_conf
from dataplane.model import LeaseAttrs, Peer
from tests.backends.cases import address, address6, conf_of, devices_of, peer_lease, peers_of


class TestMtu:
    def test_udp(self) -> None:
        assert from_conf(conf_of("udp")).mtu(1500) == 1472
        assert from_conf(conf_of("udp", ipv4=False)).mtu(1500) == 1452


class TestLeaseAttrs:
    """Values of flannel.md 2.2, as dictionaries in the published key order."""

    def test_udp_publishes_the_address_only(self) -> None:
        for dual in (False, True):
            backend = from_conf(conf_of("udp", dual=dual))
            assert backend.lease_attrs(address, address6, {}) == LeaseAttrs(public_ip=address)
            assert backend.mac_families == ()

    def test_udp_over_ipv6(self) -> None:
        assert from_conf(conf_of("udp", ipv4=False)).lease_attrs(None, address6, {}) == LeaseAttrs(public_ipv6=address6)


class TestDevices:
    def test_udp_dual_is_one_device_over_ipv4(self) -> None:
        (device,) = devices_of(conf_of("udp", dual=True))
        assert (device.name, device.wire, device.underlay_family) == ("flannel%d", "udp", 4)
        assert device.addresses == (IPv4Interface("10.5.34.0/32"), IPv6Interface("fd00:5:0:22::/128"))
        assert device.networks == (IPv4Network("10.5.0.0/16"), IPv6Network("fd00:5::/48"))
        assert device.local_peers == (
            Peer(IPv4Network("10.5.34.0/24"), None),
            Peer(IPv6Network("fd00:5:0:22::/64"), None),
        )

    def test_udp_v6_only_uses_the_v6_underlay(self) -> None:
        (device,) = devices_of(conf_of("udp", ipv4=False))
        assert (device.underlay_family, device.underlay_address) == (6, address6)


class TestPeers:
    @pytest.mark.parametrize("backend_type", ["", "udp", "vxlan", "host-gw"])
    def test_udp_accepts_any_backend_type(self, backend_type: str) -> None:
        lease = peer_lease(backend_type=backend_type, backend_data="rubbish")
        assert peers_of(conf_of("udp", dual=True), lease) == (
            Peer(IPv4Network("10.5.72.0/24"), IPv4Address("192.168.64.4")),
            Peer(IPv6Network("fd00:5:0:48::/64"), IPv4Address("192.168.64.4")),
        )
