"""The choice of the external interface on the real kernel's links."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address

import pytest

from dataplane.errors import HostError
from dataplane.host.choosing import choose
from dataplane.host.interface import InterfaceChoice
from dataplane.host.netlink import Host
from tests.host.kernel import ip, isolated, run_body, veth


@isolated
async def test_interface_choice_on_real_links(host: Host) -> None:
    veth("192.0.2.1/24", "fe80::5/64", "fd00::1/64")
    ip("address add 198.51.100.1/24 dev eth0-peer")
    ip("route add default via 192.0.2.9")
    ip("route add default via fd00::9")

    chosen = await choose(host, InterfaceChoice(), ipv4=True, ipv6=True)
    assert (chosen.name, chosen.index, chosen.mtu) == ("eth0", socket.if_nametoindex("eth0"), 1500)
    assert (chosen.address, chosen.address6) == (IPv4Address("192.0.2.1"), IPv6Address("fd00::1"))

    reach = await choose(host, InterfaceChoice(can_reach="198.51.100.77"), ipv4=True, ipv6=False)
    assert (reach.name, reach.address) == ("eth0-peer", IPv4Address("198.51.100.1"))
    by_regex = await choose(host, InterfaceChoice(iface_regex=("^198",)), ipv4=True, ipv6=False)
    assert by_regex.name == "eth0-peer"
    by_ip = await choose(host, InterfaceChoice(public_ip=IPv4Address("198.51.100.1")), ipv4=True, ipv6=False)
    assert by_ip.name == "eth0-peer"

    ip("route del default")
    with pytest.raises(HostError, match="Unable to find default route"):
        await choose(host, InterfaceChoice(), ipv4=True, ipv6=False)
    with pytest.raises(HostError, match=r"couldn't lookup route to 203.0.113.1"):
        await choose(host, InterfaceChoice(can_reach="203.0.113.1"), ipv4=True, ipv6=False)


if __name__ == "__main__":
    run_body()
