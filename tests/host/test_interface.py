"""Which interface carries the underlay: flannel's rules (flannel.md 7.6) over links, addresses and routes as data.

That the kernel's own data lead to the same choice is in test_interface_on_links.py.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_interface, ip_network
from typing import Any

import pytest

from dataplane.errors import BadInput, HostError
from dataplane.host.interface import ExternalInterface, HostView, InterfaceChoice, select, usable_addresses
from dataplane.host.links import Address, Link
from dataplane.host.routes import Route

lo, eth0, eth1 = Link(1, "lo", 65536, True), Link(2, "eth0", 1500, True), Link(3, "eth1", 9000, True)


def on(link: Link, text: str, **flags: Any) -> Address:
    return Address(link.index, ip_interface(text), **flags)


def default(link: Link, version: int = 4) -> Route:
    return Route(ip_network("0.0.0.0/0" if version == 4 else "::/0"), link.index)


view = HostView(
    links=(lo, eth0, eth1),
    addresses=(
        on(lo, "127.0.0.1/8"),
        on(eth0, "192.0.2.10/24"),
        on(eth0, "192.0.2.11/24"),
        on(eth1, "198.51.100.7/24"),
        on(lo, "::1/128"),
        on(eth0, "fd00:2::10/64"),
        on(eth0, "fe80::10/64"),
        on(eth1, "fe80::7/64"),
        on(eth1, "fd00:3::7/64"),
    ),
    default4=default(eth0),
    default6=default(eth0, 6),
)


def pick(ipv4: bool = True, ipv6: bool = False, look: HostView = view, **choice: Any) -> ExternalInterface:
    return select(look, InterfaceChoice(**choice), ipv4, ipv6)


class TestDefault:
    def test_first_default_route(self) -> None:
        chosen = pick()
        assert (chosen.name, chosen.index, chosen.mtu) == ("eth0", 2, 1500)
        assert chosen.address == chosen.public_ip == IPv4Address("192.0.2.10")
        assert chosen.address6 is chosen.public_ipv6 is None
        assert chosen.reason == "the first default route leaves by eth0"

    def test_v6_only(self) -> None:
        chosen = pick(ipv4=False, ipv6=True, look=replace(view, default4=None, default6=default(eth1, 6)))
        assert (chosen.name, chosen.address, chosen.address6) == ("eth1", None, IPv6Address("fd00:3::7"))

    def test_dual(self) -> None:
        chosen = pick(ipv6=True)
        assert (chosen.address, chosen.address6) == (IPv4Address("192.0.2.10"), IPv6Address("fd00:2::10"))

    def test_dual_routes_must_agree(self) -> None:
        with pytest.raises(HostError, match=r"v6 default route interface eth1 must be the same with v4 .* eth0"):
            pick(ipv6=True, look=replace(view, default6=default(eth1, 6)))

    @pytest.mark.parametrize(
        ("ipv4", "ipv6", "text"), [(True, False, "default route"), (False, True, "default v6 route")]
    )
    def test_no_default_route(self, ipv4: bool, ipv6: bool, text: str) -> None:
        with pytest.raises(HostError, match=f"Failed to find any valid interface to use: .*Unable to find {text}"):
            pick(ipv4, ipv6, look=replace(view, default4=None, default6=None))

    def test_no_family(self) -> None:
        with pytest.raises(BadInput, match="none defined stack"):
            pick(False, False)


class TestPublicIp:
    def test_selects_its_owner(self) -> None:
        chosen = pick(public_ip=IPv4Address("198.51.100.7"))
        assert (chosen.name, chosen.address, chosen.public_ip) == ("eth1",) + (IPv4Address("198.51.100.7"),) * 2
        assert chosen.reason == "eth1 owns 198.51.100.7, given by --public-ip"

    def test_nat_address_needs_an_interface(self) -> None:
        nat = IPv4Address("203.0.113.1")
        with pytest.raises(HostError, match="No interface with given IP found"):
            pick(public_ip=nat)
        chosen = pick(public_ip=nat, iface=("eth1",))
        assert (chosen.address, chosen.public_ip) == (IPv4Address("198.51.100.7"), nat)

    def test_v6_alone(self) -> None:
        chosen = pick(ipv4=False, ipv6=True, public_ipv6=IPv6Address("fd00:3::7"))
        assert (chosen.name, chosen.public_ipv6) == ("eth1", IPv6Address("fd00:3::7"))

    def test_v6_in_dual_stack(self) -> None:
        chosen = pick(ipv6=True, public_ipv6=IPv6Address("fd00:3::7"))
        assert (chosen.name, chosen.address) == ("eth1", IPv4Address("198.51.100.7"))

    def test_both_must_be_on_one_interface(self) -> None:
        v4, v6 = IPv4Address("192.0.2.11"), IPv6Address("fd00:3::7")
        with pytest.raises(HostError, match="v6 interface eth1 must be the same with v4 interface eth0"):
            pick(ipv6=True, public_ip=v4, public_ipv6=v6)
        assert pick(ipv6=True, public_ip=v4, public_ipv6=IPv6Address("fd00:2::10")).name == "eth0"

    def test_address_of_a_family_that_is_off_is_not_used(self) -> None:
        assert pick(public_ipv6=IPv6Address("fd00:3::7")).name == "eth0"


class TestIface:
    def test_by_name(self) -> None:
        chosen = pick(iface=("eth1",))
        assert (chosen.name, chosen.mtu, chosen.reason) == ("eth1", 9000, "eth1 was named by --iface")

    def test_by_address_uses_that_address(self) -> None:
        chosen = pick(iface=("192.0.2.11",))
        assert (chosen.name, chosen.address) == ("eth0", IPv4Address("192.0.2.11"))

    def test_by_address_in_dual_stack_takes_the_first_v6(self) -> None:
        chosen = pick(ipv6=True, iface=("198.51.100.7",))
        assert (chosen.address, chosen.address6) == (IPv4Address("198.51.100.7"), IPv6Address("fd00:3::7"))

    def test_by_v6_address(self) -> None:
        chosen = pick(ipv6=True, iface=("fe80::7",))
        assert (chosen.address, chosen.address6) == (IPv4Address("198.51.100.7"), IPv6Address("fe80::7"))

    def test_first_that_exists(self) -> None:
        assert pick(iface=("wlan0", "203.0.113.9", "eth1", "eth0")).name == "eth1"

    def test_one_without_an_address_is_passed_over(self) -> None:
        bare = Link(4, "eth2", 1500, True)
        look = replace(view, links=(*view.links, bare))
        assert pick(look=look, iface=("eth2", "eth1")).name == "eth1"
        with pytest.raises(HostError, match="failed to find IPv4 address for interface eth2"):
            pick(look=look, iface=("eth2",))

    def test_nothing_matches_lists_every_attempt(self) -> None:
        with pytest.raises(HostError) as caught:
            pick(iface=("wlan0",), iface_regex=("^wl",), can_reach="192.0.2.1")
        text = str(caught.value)
        assert text.startswith("Failed to find interface to use that matches the interfaces and/or regexes provided")
        assert "--iface=wlan0: error looking up interface wlan0: no such network interface" in text
        assert "Could not match pattern ^wl to any of the available network interfaces (lo:[], eth0:[192.0.2.10" in text
        assert "--iface-can-reach=192.0.2.1: failed to get ifcanreach based interface" in text

    def test_mtu_zero(self) -> None:
        look = replace(view, links=(replace(eth0, mtu=0),))
        with pytest.raises(HostError, match=r"failed to determine MTU for 192.0.2.10 interface"):
            pick(look=look, iface=("eth0",))


class TestRegex:
    def test_matches_an_address_anywhere(self) -> None:
        chosen = pick(iface_regex=(r"2\.11$",))
        assert (chosen.name, chosen.address) == ("eth0", IPv4Address("192.0.2.11"))

    def test_addresses_come_before_names(self) -> None:
        assert pick(iface_regex=("eth1|192\\.0",)).name == "eth0"

    def test_matches_a_name(self) -> None:
        chosen = pick(iface_regex=("th1",))
        assert (chosen.name, chosen.reason) == ("eth1", "the name eth1 matches --iface-regex=th1")

    def test_dual_needs_both_families_on_one_link(self) -> None:
        chosen = pick(ipv6=True, iface_regex=("198|fd00",))
        assert (chosen.name, chosen.address6) == ("eth1", IPv6Address("fd00:3::7"))

    def test_iface_goes_first(self) -> None:
        assert pick(iface=("eth1",), iface_regex=("eth0",)).name == "eth1"

    def test_bad_pattern(self) -> None:
        with pytest.raises(BadInput, match=r"could not compile the IP address regex '\('"):
            pick(iface_regex=("(",))


class TestCanReach:
    def test_takes_interface_and_source_from_the_route(self) -> None:
        look = replace(view, reach=(3, IPv4Address("198.51.100.7")))
        chosen = pick(look=look, can_reach="198.51.100.1")
        assert (chosen.name, chosen.address) == ("eth1", IPv4Address("198.51.100.7"))
        assert chosen.reason == "the route to 198.51.100.1 (--iface-can-reach) leaves by eth1"

    def test_without_a_source_the_first_address_is_taken(self) -> None:
        assert pick(look=replace(view, reach=(3, None)), can_reach="::1").address == IPv4Address("198.51.100.7")

    def test_comes_last(self) -> None:
        look = replace(view, reach=(3, None))
        assert pick(look=look, iface_regex=("eth0",), can_reach="198.51.100.1").name == "eth0"


def test_order_of_addresses() -> None:
    addresses = [
        on(eth0, "fe80::1/64"),
        on(eth0, "fd00::1/64", permanent=False, temporary=True),
        on(eth0, "fd00::2/64", permanent=False),
        on(eth0, "fd00::3/64", deprecated=True),
        on(eth0, "::1/128"),
        on(eth1, "fd00::9/64"),
        on(eth0, "192.0.2.1/24"),
        on(eth0, "fd00::4/64"),
        on(eth0, "fd00::5/64"),
    ]
    ordered = [str(ip) for ip in usable_addresses(addresses, eth0.index, 6)]
    assert ordered == ["fd00::4", "fd00::5", "fd00::2", "fd00::1", "fe80::1"]
