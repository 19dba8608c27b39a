"""What configurations and leases mean: flannel's published values, and data that a hostile node could publish.

The kernel's part (devices, sockets) is in tests/netns/test_host.py.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataplane.backends import Backend, DevicePlan, from_conf
from dataplane.backends.vxlan import format_mac, parse_mac, random_mac
from dataplane.errors import BadConfig, BadLease
from dataplane.model import Lease, LeaseAttrs, NetConf, Peer, VxlanLink

own_mac = bytes.fromhex("c6d2326f8f44")
own_mac6 = bytes.fromhex("0e1122334455")
peer_mac = bytes.fromhex("66be00765906")
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


class TestConfiguration:
    @pytest.mark.parametrize(
        ("backend", "options", "field"),
        [
            ("vxlan", {"vni": -1}, "Backend.VNI: -1"),
            ("vxlan", {"vni": 2**24}, "Backend.VNI: 16777216"),
            ("vxlan", {"vni": "1"}, "Backend.VNI: '1'"),
            ("vxlan", {"vni": 1.0}, "Backend.VNI: 1.0"),
            ("vxlan", {"vni": True}, "Backend.VNI: True"),
            ("vxlan", {"port": 65536}, "Backend.Port: 65536"),
            ("vxlan", {"port": -1}, "Backend.Port: -1"),
            ("vxlan", {"mtu": 65536}, "Backend.MTU: 65536"),
            ("vxlan", {"mtu": "1450"}, "Backend.MTU: '1450'"),
            ("vxlan", {"gbp": 1}, "Backend.GBP: 1"),
            ("vxlan", {"learning": "no"}, "Backend.Learning: 'no'"),
            ("vxlan", {"directrouting": 0}, "Backend.DirectRouting: 0"),
            ("udp", {"port": 70000}, "Backend.Port: 70000"),
            ("udp", {"port": []}, "Backend.Port: []"),
        ],
    )
    def test_bad_option_is_named_with_what_is_allowed(self, backend: str, options: dict[str, Any], field: str) -> None:
        with pytest.raises(BadConfig, match="allowed: ") as caught:
            from_conf(conf_of(backend, **options))
        assert str(caught.value).startswith(field)

    def test_defaults(self) -> None:
        (vxlan,), (udp,) = devices_of(conf_of("vxlan")), devices_of(conf_of("udp"))
        assert (vxlan.vni, vxlan.port, udp.vni, udp.port) == (1, 8472, 0, 8285)

    @pytest.mark.parametrize("options", [{"port": 0}, {"port": None}, {"unknown": {}}])
    def test_zero_null_and_unknown_options_mean_the_default(self, options: dict[str, Any]) -> None:
        assert devices_of(conf_of("vxlan", **options))[0].port == 8472
        assert devices_of(conf_of("udp", **options))[0].port == 8285

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

    @pytest.mark.parametrize("backend", ["", "ipip", "VXLAN"])
    def test_unknown_backend(self, backend: str) -> None:
        with pytest.raises(BadConfig, match=r"unknown backend type: .* allowed: host-gw, udp, vxlan"):
            from_conf(conf_of(backend))

    def test_no_family_at_all(self) -> None:
        with pytest.raises(BadConfig, match="both false"):
            from_conf(NetConf(enable_ipv4=False, enable_ipv6=False, backend_type="vxlan"))


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

    def test_udp(self) -> None:
        assert from_conf(conf_of("udp")).mtu(1500) == 1472
        assert from_conf(conf_of("udp", ipv4=False)).mtu(1500) == 1452

    @pytest.mark.parametrize(
        ("conf", "least"),
        [(conf_of("vxlan"), 118), (conf_of("vxlan", ipv4=False), 1350), (conf_of("udp", dual=True), 1308)],
    )
    def test_too_small_an_underlay_is_refused(self, conf: NetConf, least: int) -> None:
        assert devices_of(conf, least)
        with pytest.raises(BadConfig, match="would have an MTU of"):
            devices_of(conf, least - 1)


class TestLeaseAttrs:
    """Values of flannel.md 2.2, as dictionaries in the published key order."""

    def test_udp_publishes_the_address_only(self) -> None:
        for dual in (False, True):
            backend = from_conf(conf_of("udp", dual=dual))
            assert backend.lease_attrs(address, address6, {}) == LeaseAttrs(public_ip=address)
            assert backend.mac_families == ()

    def test_udp_over_ipv6(self) -> None:
        assert from_conf(conf_of("udp", ipv4=False)).lease_attrs(None, address6, {}) == LeaseAttrs(public_ipv6=address6)

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

    def test_host_gw_has_routes_and_no_device(self) -> None:
        conf = conf_of("host-gw", dual=True)
        backend = from_conf(conf)
        four, six = devices_of(conf)
        assert backend.device_names == ()
        assert backend.mtu(1500) == 1500
        assert not isinstance(four, DevicePlan)
        assert (four.name, four.underlay_address, four.subnets) == ("host-gw", address, (IPv4Network("10.5.34.0/24"),))
        assert (six.name, six.underlay_address) == ("host-gw-v6", address6)
        assert own_lease(backend, conf).attrs == LeaseAttrs(address, address6, "host-gw")

    def test_host_gw_behind_a_nat_is_refused(self) -> None:
        conf = conf_of("host-gw")
        backend = from_conf(conf)
        own = Lease(IPv4Network("10.5.34.0/24"), None, backend.lease_attrs(IPv4Address("198.51.100.1"), None, {}))
        with pytest.raises(BadConfig, match=r"public address 198\.51\.100\.1 .* NAT"):
            backend.plans(conf, own, interface="eth0", interface_mtu=1500, address=address, address6=None)

    def test_host_gw_takes_only_its_own_kind_of_lease(self) -> None:
        conf = conf_of("host-gw")
        backend, (plan,) = from_conf(conf), devices_of(conf)
        subnet, public = IPv4Network("10.5.2.0/24"), IPv4Address("192.168.64.9")
        assert backend.peers(conf, Lease(subnet, None, LeaseAttrs(public, None, "host-gw")), plan) == (
            Peer(subnet, public),
        )
        for other in ("", "vxlan", "Host-GW"):
            with pytest.raises(BadLease, match="BackendType"):
                backend.peers(conf, Lease(subnet, None, LeaseAttrs(public, None, other)), plan)

    def test_vxlan_dual_has_a_second_device_over_ipv6(self) -> None:
        _, device = devices_of(conf_of("vxlan", dual=True, vni=7, port=4789))
        assert (device.name, device.vni, device.port) == ("flannel-v6.7", 7, 4789)
        assert (device.underlay_family, device.underlay_address, device.vtep_mac) == (6, address6, own_mac6)
        assert device.addresses == (IPv6Interface("fd00:5:0:22::/128"),)
        assert device.networks == (IPv6Network("fd00:5::/48"),)

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

    def test_missing_underlay_address(self) -> None:
        conf = conf_of("vxlan", dual=True)
        backend = from_conf(conf)
        with pytest.raises(BadConfig, match="no IPv6 address"):
            backend.plans(
                conf,
                own_lease(backend, conf),
                interface="eth0",
                interface_mtu=1500,
                address=address,
                address6=None,
            )

    def test_own_lease_without_an_enabled_family(self) -> None:
        conf = conf_of("vxlan", dual=True)
        backend = from_conf(conf)
        lease = replace(own_lease(backend, conf), ipv6_subnet=None)
        with pytest.raises(BadLease, match="no IPv6 subnet"):
            backend.plans(conf, lease, interface="eth0", interface_mtu=1500, address=address, address6=address6)


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

    @pytest.mark.parametrize("backend_type", ["", "udp", "vxlan", "host-gw"])
    def test_udp_accepts_any_backend_type(self, backend_type: str) -> None:
        lease = peer_lease(backend_type=backend_type, backend_data="rubbish")
        assert peers_of(conf_of("udp", dual=True), lease) == (
            Peer(IPv4Network("10.5.72.0/24"), IPv4Address("192.168.64.4")),
            Peer(IPv6Network("fd00:5:0:48::/64"), IPv4Address("192.168.64.4")),
        )

    def test_family_that_the_peer_lacks_or_we_do_not_carry(self) -> None:
        assert peers_of(conf_of("vxlan", dual=True), peer_lease(ipv6_subnet=None), 1) == ()
        assert len(peers_of(conf_of("udp"), peer_lease())) == 1
        assert peers_of(conf_of("udp"), peer_lease(subnet=None)) == ()

    @pytest.mark.parametrize("backend", ["udp", "vxlan"])
    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"subnet": IPv4Network("10.6.0.0/24")}, "outside the overlay network"),
            ({"subnet": IPv4Network("10.0.0.0/8")}, "outside the overlay network"),
            ({"subnet": IPv4Network("0.0.0.0/0")}, "outside the overlay network"),
            ({"subnet": IPv6Network("fd00:5:0:48::/64")}, "is no IPv4 network"),
            ({"subnet": IPv4Network("10.5.34.0/24")}, "overlaps our own subnet"),
            ({"subnet": IPv4Network("10.5.34.128/25")}, "overlaps our own subnet"),
            ({"subnet": IPv4Network("10.5.0.0/16")}, "overlaps our own subnet"),
            ({"public_ip": None}, "PublicIP is missing"),
            ({"public_ip": IPv4Address("0.0.0.0")}, "cannot be a peer's address"),
            ({"public_ip": IPv4Address("239.1.1.1")}, "cannot be a peer's address"),
            ({"public_ip": IPv4Address("127.0.0.1")}, "cannot be a peer's address"),
            ({"public_ip": IPv4Address("255.255.255.255")}, "cannot be a peer's address"),
            ({"public_ip": IPv4Address("10.5.99.7")}, "inside the overlay network"),
            ({"public_ip": address}, "is our own"),
            ({"public_ip": IPv6Address("fd00::4")}, "allowed: a unicast IPv4 address"),
            ({"public_ip": "192.168.64.4"}, "allowed: a unicast IPv4 address"),
        ],
    )
    def test_refused_by_both_backends(self, backend: str, change: dict[str, Any], reason: str) -> None:
        lease = peer_lease(**change)
        with pytest.raises(BadLease, match=reason) as caught:
            peers_of(conf_of(backend), lease)
        assert caught.value.key == lease.key

    @pytest.mark.parametrize("ip", ["::", "::1", "ff02::1", "::ffff:192.0.2.1", "fd00::3", "fd00:5::7"])
    def test_refused_over_ipv6(self, ip: str) -> None:
        with pytest.raises(BadLease, match="PublicIPv6"):
            peers_of(conf_of("vxlan", dual=True), peer_lease(public_ipv6=IPv6Address(ip)), 1)

    @pytest.mark.parametrize("dual", [False, True])
    @pytest.mark.parametrize("backend", ["udp", "vxlan"])
    def test_names_are_known_before_there_is_a_lease(self, backend: str, dual: bool) -> None:
        conf = conf_of(backend, dual=dual)
        assert from_conf(conf).device_names == tuple(device.name for device in devices_of(conf))

    def test_published_address_of_ours_is_refused_too(self) -> None:
        conf = conf_of("vxlan")
        nat = IPv4Address("198.51.100.1")
        device = replace(devices_of(conf)[0], public_address=nat)
        with pytest.raises(BadLease, match="is our own"):
            from_conf(conf).peers(conf, peer_lease(public_ip=nat), device)

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


@pytest.mark.parametrize(
    ("backend", "change", "text"),
    [
        ("vxlan", {}, ""),
        ("vxlan", {"backend_data": {"vni": 1, "VtepMAC": "66:be:00:76:59:06"}}, ""),
        ("vxlan", {"backend_data": {"VtepMAC": "66:be:00:76:59:06"}}, ""),
        ("vxlan", {"backend_data": {"VNI": 7, "VtepMAC": "66:be:00:76:59:06"}}, "BackendData.VNI is 7 and ours 1"),
        ("udp", {"backend_type": ""}, ""),
        ("udp", {"backend_type": "vxlan"}, "BackendType is 'vxlan' and ours is udp"),
        ("udp", {"backend_type": "host-gw"}, "BackendType is 'host-gw' and ours is udp"),
    ],
)
def test_a_lease_tells_of_a_node_configured_otherwise(backend: str, change: dict[str, Any], text: str) -> None:
    conf = conf_of(backend)
    lease, plan = peer_lease(**change), devices_of(conf)[0]
    assert from_conf(conf).peers(conf, lease, plan)
    found = from_conf(conf).mismatch(lease, plan)
    assert text in found
    assert bool(text) == bool(found)


def test_of_a_large_vni_what_a_lease_has_room_for_is_compared() -> None:
    conf = conf_of("vxlan", vni=65536 + 5)
    found = [
        from_conf(conf).mismatch(
            peer_lease(backend_data={"VNI": vni, "VtepMAC": "66:be:00:76:59:06"}), devices_of(conf)[0]
        )
        for vni in (5, 6)
    ]
    assert [bool(text) for text in found] == [False, True]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["VNI", "VtepMAC", "vtepmac", "x", 3]), inner, max_size=3)
    ),
    max_leaves=6,
)
mac_texts = st.binary(min_size=6, max_size=6).map(format_mac)
vxlan_data = json_values | st.fixed_dictionaries({"VtepMAC": mac_texts}, optional={"VNI": json_values})
networks4 = st.tuples(st.integers(0, 2**32 - 1) | st.integers(0x0A050000, 0x0A05FFFF), st.integers(0, 32)).map(
    lambda pair: IPv4Network(pair, strict=False)
)
networks6 = st.tuples(
    st.integers(0, 2**128 - 1) | st.integers(0, 2**80 - 1).map(lambda low: low | 0xFD0000050000 << 80),
    st.integers(0, 128),
).map(lambda pair: IPv6Network(pair, strict=False))


@given(
    backend=st.sampled_from(["udp", "vxlan"]),
    subnets=st.tuples(networks4, st.none() | networks6) | st.tuples(st.none(), networks6),
    attrs=st.builds(
        LeaseAttrs,
        public_ip=json_values | st.ip_addresses(),
        public_ipv6=json_values | st.ip_addresses(),
        backend_type=st.sampled_from(["", "vxlan", "udp"]) | json_values,
        backend_data=vxlan_data,
        backend_v6_data=vxlan_data,
    ),
)
@example("vxlan", (IPv4Network("10.5.72.0/24"), None), peer_lease().attrs)
def test_any_lease_gives_peers_or_bad_lease(
    backend: str, subnets: tuple[IPv4Network | None, IPv6Network | None], attrs: LeaseAttrs
) -> None:
    conf = conf_of(backend, dual=True)
    lease = Lease(subnets[0], subnets[1], attrs)
    for device in devices_of(conf):
        try:
            peers = from_conf(conf).peers(conf, lease, device)
        except BadLease as error:
            assert error.key == lease.key
            continue
        for peer in peers:
            assert peer.prefix in subnets
            assert any(
                route.version == peer.prefix.version and route.overlaps(peer.prefix) for route in device.networks
            )
            assert peer.next_hop is not None
            assert peer.next_hop.version == device.underlay_family
            assert peer.next_hop != device.underlay_address
            assert len(peer.vtep_mac) == 6
            assert not peer.vtep_mac[0] & 1


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


def test_reason_quotes_little_of_what_was_published() -> None:
    for change in ({"backend_data": ["x" * 10**6] * 50}, {"backend_data": {"VtepMAC": "6" * 10**6}}):
        with pytest.raises(BadLease) as caught:
            peers_of(conf_of("vxlan"), peer_lease(**change))
        assert len(str(caught.value)) < 500
