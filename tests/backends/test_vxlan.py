"""vxlan: what its configurations and leases mean, as flannel publishes them, and data that a hostile node could publish."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.backends import DevicePlan, from_conf
from dataplane.backends.vxlan import format_mac, parse_mac, random_mac
from dataplane.errors import BadConfig, BadLease
from dataplane.model import Lease, LeaseAttrs, Peer, VxlanLink
from tests.backends.cases import address, address6, conf_of, devices_of, own_mac, own_mac6, peer_lease, peers_of

peer_mac = bytes.fromhex("66be00765906")


class TestConfiguration:
    def test_vni_zero_is_allowed_as_in_flannel(self) -> None:
        assert devices_of(conf_of("vxlan", vni=0))[0].name == "flannel.0"

    @pytest.mark.parametrize(("vni", "dual", "good"), [(9999999, False, True), (10000000, False, False),
                                                       (9999, True, True), (10000, True, False)])  # fmt: skip
    def test_vni_must_fit_the_device_name(self, vni: int, dual: bool, good: bool) -> None:
        conf = conf_of("vxlan", dual=dual, vni=vni)
        if good:
            assert max(len(device.name) for device in devices_of(conf)) == 15
        else:
            with pytest.raises(BadConfig, match="longer than Linux allows"):
                from_conf(conf)


class TestMtu:
    # flannel.md 5.2 and 4.1
    @pytest.mark.parametrize(("interface", "expected"), [(1500, 1450), (9001, 8951), (1420, 1370)])
    def test_vxlan(self, interface: int, expected: int) -> None:
        assert from_conf(conf_of("vxlan")).mtu(interface) == expected
        assert devices_of(conf_of("vxlan"), interface)[0].mtu == expected

    def test_vxlan_configured_mtu_is_the_underlays(self) -> None:
        conf = conf_of("vxlan", mtu=1420)
        assert from_conf(conf).mtu(9001) == 1370
        assert devices_of(conf, 9001)[0].mtu == 1370

    def test_vxlan_device_never_exceeds_its_interface(self) -> None:
        conf = conf_of("vxlan", mtu=9000)
        assert from_conf(conf).mtu(1500) == 8950  # what flannel would tell the CNI plugin
        assert devices_of(conf, 1500)[0].mtu == 1450

    @pytest.mark.parametrize("dual", [False, True])
    def test_vxlan_configured_mtu_above_its_interface_s_is_a_fault(self, dual: bool) -> None:
        backend = from_conf(conf_of("vxlan", dual=dual, mtu=9000))
        assert "Backend.MTU is 9000, and the external interface's MTU is 1500" in backend.mtu_fault(1500)
        assert backend.mtu_fault(9000) == from_conf(conf_of("vxlan", dual=dual)).mtu_fault(1500) == ""

    def test_vxlan_zero_is_the_interfaces(self) -> None:
        assert from_conf(conf_of("vxlan", mtu=0)).mtu(1500) == 1450

    def test_vxlan_v6_device_leaves_room_for_the_longer_header(self) -> None:
        conf = conf_of("vxlan", dual=True)
        assert [device.mtu for device in devices_of(conf)] == [1450, 1430]
        assert from_conf(conf).mtu(1500) == 1450


class TestLeaseAttrs:
    """Values of flannel.md 2.2, as dictionaries in the published key order."""

    def test_vxlan(self) -> None:
        backend = from_conf(conf_of("vxlan"))
        attrs = backend.lease_attrs(address, address6, {4: own_mac})
        assert attrs == LeaseAttrs(
            public_ip=address, backend_type="vxlan", backend_data={"VNI": 1, "VtepMAC": "c6:d2:32:6f:8f:44"}
        )
        assert list(attrs.backend_data) == ["VNI", "VtepMAC"]
        assert backend.mac_families == (4,)

    def test_vxlan_dual(self) -> None:
        backend = from_conf(conf_of("vxlan", dual=True))
        assert backend.mac_families == (4, 6)
        attrs = backend.lease_attrs(address, address6, {4: own_mac, 6: own_mac6})
        assert attrs.public_ipv6 == address6
        assert attrs.backend_data == {"VNI": 1, "VtepMAC": "c6:d2:32:6f:8f:44"}
        assert attrs.backend_v6_data == {"VNI": 1, "VtepMAC": "0e:11:22:33:44:55"}

    def test_vxlan_v6_only(self) -> None:
        attrs = from_conf(conf_of("vxlan", ipv4=False)).lease_attrs(address, address6, {6: own_mac6})
        assert (attrs.public_ip, attrs.backend_data) == (None, None)

    def test_large_vni_is_published_in_16_bits(self) -> None:
        # flannel's newSubnetAttrs takes a uint16, and a flanneld that reads more than 16 bits skips the peer.
        conf = conf_of("vxlan", vni=70000)
        assert from_conf(conf).lease_attrs(address, None, {4: own_mac}).backend_data["VNI"] == 70000 - 65536
        assert devices_of(conf)[0].vni == 70000


class TestDevices:
    def test_vxlan(self) -> None:
        assert devices_of(conf_of("vxlan")) == (
            DevicePlan(
                name="flannel.1",
                mtu=1450,
                addresses=(IPv4Interface("10.5.34.0/32"),),
                networks=(IPv4Network("10.5.0.0/16"),),
                port=8472,
                vni=1,
                wire="vxlan",
                underlay_family=4,
                underlay_address=address,
                interface="eth0",
                subnets=(IPv4Network("10.5.34.0/24"),),
                public_address=address,
                vtep_mac=own_mac,
                link=VxlanLink("flannel.1", 1, 8472, address, "eth0", 1450),
            ),
        )

    def test_the_kernels_device_heeds_learning_and_group_policy(self) -> None:
        link = devices_of(conf_of("vxlan", learning=True, gbp=True))[0].link
        assert link is not None
        assert (link.learning, link.group_policy) == (True, True)

    def test_the_kernels_device_sends_from_the_interfaces_address_behind_a_nat(self) -> None:
        """The host cannot send from the address that peers are told; flannel's device has the interface's too."""
        conf = conf_of("vxlan", dual=True)
        backend = from_conf(conf)
        attrs = backend.lease_attrs(
            IPv4Address("198.51.100.1"), IPv6Address("2001:db8:9::1"), {4: own_mac, 6: own_mac6}
        )
        own = Lease(IPv4Network("10.5.34.0/24"), IPv6Network("fd00:5:0:22::/64"), attrs)
        plans = backend.plans(conf, own, interface="eth0", interface_mtu=1500, address=address, address6=address6)
        assert [plan.link.local for plan in plans if isinstance(plan, DevicePlan) and plan.link] == [address, address6]
        assert [plan.public_address for plan in plans] == [attrs.public_ip, attrs.public_ipv6]

    def test_vxlan_dual_has_a_second_device_over_ipv6(self) -> None:
        _, device = devices_of(conf_of("vxlan", dual=True, vni=7, port=4789))
        assert (device.name, device.vni, device.port) == ("flannel-v6.7", 7, 4789)
        assert (device.underlay_family, device.underlay_address, device.vtep_mac) == (6, address6, own_mac6)
        assert device.addresses == (IPv6Interface("fd00:5:0:22::/128"),)
        assert device.networks == (IPv6Network("fd00:5::/48"),)


class TestPeers:
    def test_vxlan_both_families(self) -> None:
        conf = conf_of("vxlan", dual=True)
        assert peers_of(conf, peer_lease()) == (
            Peer(IPv4Network("10.5.72.0/24"), IPv4Address("192.168.64.4"), peer_mac),
        )
        assert peers_of(conf, peer_lease(), 1) == (
            Peer(IPv6Network("fd00:5:0:48::/64"), IPv6Address("fd00::4"), bytes.fromhex("0eaabbccddee")),
        )

    @pytest.mark.parametrize(
        "data",
        [
            {"VtepMAC": "66:be:00:76:59:06"},  # flannel's dist/fake-node.yaml: no VNI
            {"VNI": 2, "VtepMAC": "66:be:00:76:59:06"},  # never compared
            {"vni": 1, "vtepmac": "66:BE:00:76:59:06"},  # Go: keys in any case
            {"VNI": None, "VtepMAC": "66-be-00-76-59-06", "more": []},
            {"VtepMAC": "66be.0076.5906"},
        ],
    )
    def test_forms_of_backend_data_that_flannel_reads(self, data: object) -> None:
        (peer,) = peers_of(conf_of("vxlan"), peer_lease(backend_data=data))
        assert peer.vtep_mac == peer_mac

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"backend_type": "VXLAN"}, "BackendType is 'VXLAN'"),
            ({"backend_type": ""}, r"BackendType is '' \(flannel's udp\)"),
            ({"backend_type": None}, "BackendType is None"),
            ({"backend_data": None}, "BackendData is missing"),
            ({"backend_data": []}, "allowed: "),
            ({"backend_data": {}}, "VtepMAC is missing"),
            ({"backend_data": {"VtepMAC": 7}}, "VtepMAC is 7"),
            ({"backend_data": {"VtepMAC": "66:be:00:76:59"}}, "is no MAC address"),
            ({"backend_data": {"VtepMAC": "66:be:00-76:59:06"}}, "is no MAC address"),
            ({"backend_data": {"VtepMAC": "66:be:00:76:59:06\n"}}, "is no MAC address"),
            ({"backend_data": {"VtepMAC": "00:00:00:00:00:00"}}, "multicast or zero"),
            ({"backend_data": {"VtepMAC": "ff:ff:ff:ff:ff:ff"}}, "multicast or zero"),
            ({"backend_data": {"VtepMAC": "01:00:5e:00:00:01"}}, "multicast or zero"),
            ({"backend_data": {"VtepMAC": "c6:d2:32:6f:8f:44"}}, "is our own"),
            ({"backend_data": {"VNI": "1", "VtepMAC": "66:be:00:76:59:06"}}, "BackendData.VNI is '1'"),
            ({"backend_data": {"VNI": True, "VtepMAC": "66:be:00:76:59:06"}}, "BackendData.VNI is True"),
        ],
    )
    def test_refused_by_vxlan(self, change: dict[str, Any], reason: str) -> None:
        with pytest.raises(BadLease, match=reason):
            peers_of(conf_of("vxlan"), peer_lease(**change))


def test_of_a_large_vni_what_a_lease_has_room_for_is_compared() -> None:
    conf = conf_of("vxlan", vni=65536 + 5)
    found = [
        from_conf(conf).mismatch(
            peer_lease(backend_data={"VNI": vni, "VtepMAC": "66:be:00:76:59:06"}), devices_of(conf)[0]
        )
        for vni in (5, 6)
    ]
    assert [bool(text) for text in found] == [False, True]


@given(st.binary(min_size=6, max_size=6))
def test_random_mac_is_unicast_and_local(random: bytes) -> None:
    mac = random_mac(random)
    assert len(mac) == 6
    assert mac[0] & 0x03 == 0x02
    assert mac[0] & 0xFC == random[0] & 0xFC
    assert mac[1:] == random[1:]
    assert parse_mac(format_mac(mac)) == mac


@given(st.text(alphabet="0123456789abcdefABCDEF:-. \n", max_size=24))
def test_parse_mac_never_fails(text: str) -> None:
    mac = parse_mac(text)
    assert mac is None or len(mac) == 6
