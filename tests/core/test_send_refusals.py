"""Every reason of csrc/include/dataplane.h for which a packet from the host ends here: provoked, and seen on its own counter alone.

drop_send_gso stands in test_cutting.py, drop_send_ttl in test_golden_bytes.py. Not provoked, and why: drop_send_full needs
a send buffer that stays full, and loopback delivers while it sends.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import ICMPv6ND_RS, IPv6
from scapy.packet import Raw

from dataplane.model import Peer
from tests.core.edges import Edges, peer_mac
from tests.core.packets import good_out, outward
from tests.core.twin.icmp import net_unreachable
from tests.core.twin.ip import decrement_ttl

six = bytes(outward(6))
malformed = {
    "one byte": b"\x45",
    "version 0": b"\0" + good_out[1:],
    "version 7": b"\x75" + good_out[1:],
    "header of 16 bytes": b"\x44" + good_out[1:],
    "last byte missing": good_out[:-1],
    "a byte too many": good_out + b"\0",
    "header checksum": good_out[:10] + b"\0\0" + good_out[12:],
    "IPv6 header cut": six[:39],
    "IPv6 last byte missing": six[:-1],
    "IPv6 a byte too many": six + b"\0",
}


@pytest.mark.parametrize("packet", malformed.values(), ids=malformed)
def test_malformed(vxlan_edges: Edges, packet: bytes) -> None:
    with vxlan_edges.expect_drops(send_malformed=1):
        vxlan_edges.send_tun(packet)
        vxlan_edges.send_tun(good_out)
        assert vxlan_edges.recv_underlay_until(good_out) == []


@pytest.mark.parametrize(
    "packet",
    [
        outward(dst="224.0.0.251"),
        outward(dst="239.1.1.1"),
        outward(dst="255.255.255.255"),
        outward(dst="0.0.0.0"),
        outward(6, dst="ff02::16"),
        outward(6, dst="fe80::1"),
        IPv6(src="fe80::1", dst="ff02::2") / ICMPv6ND_RS(),
    ],
    ids=lambda packet: packet.summary(),
)
def test_groups(vxlan_edges: Edges, packet: IP) -> None:
    """What a host's own stack says on any device: nobody's overlay traffic, dropped in silence."""
    with vxlan_edges.expect_drops(send_multicast=1):
        vxlan_edges.send_tun(bytes(packet))
        vxlan_edges.send_tun(good_out)
        assert vxlan_edges.recv_underlay_until(good_out) == []
    assert vxlan_edges.forwarder.counters()["icmp_sent"] == 0


@pytest.mark.parametrize("destination", ["10.5.9.9", "8.8.8.8", "10.5.1.77"])
def test_no_route(udp_edges: Edges, destination: str) -> None:
    """Our own subnet is no peer either: what comes back out of the host for it would go in circles."""
    packet = bytes(outward(dst=destination))
    with udp_edges.expect_drops(send_no_route=1):
        udp_edges.send_tun(packet)
        assert udp_edges.recv_tun()[1] == net_unreachable(packet, ip_address("10.5.1.0"))


def test_too_big_only_where_fragments_are_forbidden(vxlan_edges: Edges) -> None:
    for size, flags, answered in ((1450, "DF", False), (1451, "DF", True), (1451, "", False)):
        packet = bytes(IP(src="10.5.1.9", dst="10.5.2.9", flags=flags) / TCP() / Raw(bytes(size - 40)))
        with vxlan_edges.expect_drops(**({"send_too_big": 1} if answered else {})):
            vxlan_edges.send_tun(packet)
            if answered:
                assert vxlan_edges.recv_tun()[1][20:22] == b"\3\4"
            else:
                assert vxlan_edges.recv_underlay()[0][22:] == packet


def test_an_underlay_that_refuses(udp_edges: Edges) -> None:
    """A broadcast next hop is refused by the kernel (EACCES): the packet is counted, its neighbours are sent."""
    lost = Peer(ip_network("10.5.66.0/24"), ip_address("255.255.255.255"), peer_mac)
    udp_edges.forwarder.update([lost])
    with udp_edges.expect_drops(send_error=3):
        for destination in ("10.5.2.9", "10.5.66.9", "10.5.66.8", "10.5.2.9", "10.5.66.9", "10.5.2.9"):
            udp_edges.send_tun(bytes(outward(dst=destination)))
        for _ in range(3):
            assert udp_edges.recv_underlay()[0] == decrement_ttl(bytes(outward()))
        udp_edges.send_tun(good_out)
        assert udp_edges.recv_underlay_until(decrement_ttl(good_out)) == []
    udp_edges.forwarder.update([], [lost.prefix])
