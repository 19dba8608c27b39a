"""What all backends have in common: configurations that mean nothing, and leases that a hostile node could publish."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dataplane.backends import from_conf
from dataplane.backends.vxlan import format_mac
from dataplane.errors import BadConfig, BadLease
from dataplane.model import Lease, LeaseAttrs, NetConf
from tests.backends.cases import address, address6, conf_of, devices_of, own_lease, peer_lease, peers_of


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

    @pytest.mark.parametrize("backend", ["", "ipip", "VXLAN"])
    def test_unknown_backend(self, backend: str) -> None:
        with pytest.raises(BadConfig, match=r"unknown backend type: .* allowed: host-gw, udp, vxlan"):
            from_conf(conf_of(backend))

    def test_no_family_at_all(self) -> None:
        with pytest.raises(BadConfig, match="both false"):
            from_conf(NetConf(enable_ipv4=False, enable_ipv6=False, backend_type="vxlan"))


class TestMtu:
    @pytest.mark.parametrize(
        ("conf", "least"),
        [(conf_of("vxlan"), 118), (conf_of("vxlan", ipv4=False), 1350), (conf_of("udp", dual=True), 1308)],
    )
    def test_too_small_an_underlay_is_refused(self, conf: NetConf, least: int) -> None:
        assert devices_of(conf, least)
        with pytest.raises(BadConfig, match="would have an MTU of"):
            devices_of(conf, least - 1)


class TestDevices:
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


def test_reason_quotes_little_of_what_was_published() -> None:
    for change in ({"backend_data": ["x" * 10**6] * 50}, {"backend_data": {"VtepMAC": "6" * 10**6}}):
        with pytest.raises(BadLease) as caught:
            peers_of(conf_of("vxlan"), peer_lease(**change))
        assert len(str(caught.value)) < 500
