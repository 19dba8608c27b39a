"""The rules' texts, byte for byte as flannel's documentation and a real node show them (flannel.md sections 8 and 13)."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network

from dataplane.host.firewall.rules import (
    Overlay,
    Wanted,
    forward_chain,
    iptables_jump,
    iptables_rule,
    masquerade_chain,
    nft_table,
    overlays,
)
from dataplane.model import Lease, LeaseAttrs, NetConf

overlay4 = Overlay(IPv4Network("10.244.0.0/16"), IPv4Network("10.244.7.0/24"))
overlay6 = Overlay(IPv6Network("fd00:10::/56"), IPv6Network("fd00:10:0:7::/64"))
everything = Wanted(masquerade=True, forward=True, random_fully=True, overlays=(overlay4, overlay6))


def iptables_lines(overlay: Overlay, random_fully: bool = True) -> list[str]:
    lines = []
    for chain in (masquerade_chain, forward_chain):
        lines.append(iptables_jump(chain))
        lines += [iptables_rule(chain, rule, random_fully) for rule in everything.rules(chain, overlay)]
    return lines


def test_iptables_rules_and_their_order() -> None:
    assert iptables_lines(overlay4) == [
        '-A POSTROUTING -m comment --comment "flanneld masq" -j FLANNEL-POSTRTG',
        '-A FLANNEL-POSTRTG -m mark --mark 0x4000/0x4000 -m comment --comment "flanneld masq" -j RETURN',
        '-A FLANNEL-POSTRTG -s 10.244.7.0/24 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j RETURN',
        '-A FLANNEL-POSTRTG -s 10.244.0.0/16 -d 10.244.7.0/24 -m comment --comment "flanneld masq" -j RETURN',
        '-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.7.0/24 -m comment --comment "flanneld masq" -j RETURN',
        '-A FLANNEL-POSTRTG -s 10.244.0.0/16 ! -d 224.0.0.0/4 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully',
        '-A FLANNEL-POSTRTG ! -s 10.244.0.0/16 -d 10.244.0.0/16 -m comment --comment "flanneld masq" -j MASQUERADE --random-fully',
        '-A FORWARD -m comment --comment "flanneld forward" -j FLANNEL-FWD',
        '-A FLANNEL-FWD -s 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT',
        '-A FLANNEL-FWD -d 10.244.0.0/16 -m comment --comment "flanneld forward" -j ACCEPT',
    ]


def test_ipv6_differs_in_its_prefixes_and_multicast() -> None:
    as_ipv4 = [
        line.replace("fd00:10::/56", "10.244.0.0/16")
        .replace("fd00:10:0:7::/64", "10.244.7.0/24")
        .replace("ff00::/8", "224.0.0.0/4")
        for line in iptables_lines(overlay6)
    ]
    assert as_ipv4 == iptables_lines(overlay4)


def test_without_random_ports_only_the_masquerade_rules_differ() -> None:
    with_random, without = iptables_lines(overlay4), iptables_lines(overlay4, random_fully=False)
    assert [line.removesuffix(" --random-fully") for line in with_random] == without
    plain = Wanted(masquerade=True, forward=True, random_fully=False, overlays=(overlay4,))
    assert nft_table(everything, overlay4).replace(" fully-random", "") == nft_table(plain, overlay4)


def test_nft_table_of_ipv6() -> None:
    # The mark under its mask, and the fourth masquerade rule as in iptables: the two places where flannel's differ.
    assert nft_table(everything, overlay6) == (
        "table ip6 flannel-ipv6 {\n"
        '\tcomment "rules for flannel-ipv6"\n'
        "\tchain forward {\n"
        '\t\tcomment "chain to accept flannel traffic"\n'
        "\t\ttype filter hook forward priority filter; policy accept;\n"
        "\t\tip6 saddr fd00:10::/56 accept\n"
        "\t\tip6 daddr fd00:10::/56 accept\n"
        "\t}\n"
        "\tchain postrtg {\n"
        '\t\tcomment "chain to manage traffic masquerading by flannel"\n'
        "\t\ttype nat hook postrouting priority srcnat; policy accept;\n"
        "\t\tmeta mark & 0x00004000 == 0x00004000 return\n"
        "\t\tip6 saddr fd00:10:0:7::/64 ip6 daddr fd00:10::/56 return\n"
        "\t\tip6 saddr fd00:10::/56 ip6 daddr fd00:10:0:7::/64 return\n"
        "\t\tip6 saddr != fd00:10::/56 ip6 daddr fd00:10:0:7::/64 return\n"
        "\t\tip6 saddr fd00:10::/56 ip6 daddr != ff00::/8 masquerade fully-random\n"
        "\t\tip6 saddr != fd00:10::/56 ip6 daddr fd00:10::/56 masquerade fully-random\n"
        "\t}\n"
        "}\n"
    )


def test_a_chain_that_is_not_wanted_is_not_there() -> None:
    forward = Wanted(masquerade=False, forward=True, random_fully=True, overlays=(overlay4,))
    assert forward.rules(masquerade_chain, overlay4) == ()
    assert "postrtg" not in nft_table(forward, overlay4)
    masquerade = Wanted(masquerade=True, forward=False, random_fully=True, overlays=(overlay4,))
    assert "forward" not in nft_table(masquerade, overlay4)
    assert not Wanted(masquerade=False, forward=False, random_fully=True, overlays=(overlay4,))


def test_only_enabled_families_have_rules() -> None:
    lease = Lease(overlay4.subnet, overlay6.subnet, LeaseAttrs())
    both = NetConf(network=overlay4.network, ipv6_network=overlay6.network, enable_ipv6=True)
    assert overlays(both, lease) == (overlay4, overlay6)
    assert overlays(NetConf(network=overlay4.network, ipv6_network=overlay6.network), lease) == (overlay4,)
    only6 = NetConf(ipv6_network=overlay6.network, enable_ipv4=False, enable_ipv6=True)
    assert overlays(only6, lease) == (overlay6,)
