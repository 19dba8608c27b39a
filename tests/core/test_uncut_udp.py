"""Uncut UDP super-packets come to the host as the datagrams that the pod sent, however small they are."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_network

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.packet import Packet, Raw

from tests.core.edges import UDP_SEGMENT, Edges, vxlan
from tests.core.joined import as_the_host_sees
from tests.core.packets import good_in
from tests.core.twin.segment import cut

plain4 = IP(src="10.5.2.9", dst="10.5.1.9", flags="DF", id=1)
plain6 = IPv6(src="fd05:2::9", dst="fd05:1::9")


@pytest.mark.parametrize(("amount", "segment"), [(2000, 1000), (1000, 500), (200, 100), (20, 1), (2, 1)])
@pytest.mark.parametrize(
    "header", [plain4, plain6, plain6 / IPv6ExtHdrDestOpt()], ids=["IPv4", "IPv6", "IPv6 with options"]
)
def test_borders_are_kept(header: Packet, amount: int, segment: int) -> None:
    whole = bytes(header / UDP(sport=7, dport=9) / Raw(bytes(amount)))
    with Edges("vxlan") as edges:
        # The kernel reports an uncut inner super-packet's segment as it reports a train's.
        control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("H", segment))]
        edges.peer.sendmsg([vxlan(whole)], control, 0, edges.target)
        edges.send_underlay(vxlan(good_in))
        assert as_the_host_sees(edges.recv_tun_until(good_in)) == cut(whole, segment)
        assert edges.drops() == {}
        assert_counted(edges, [*cut(whole, segment), good_in])


@pytest.mark.parametrize("header", [plain4, plain6], ids=["IPv4", "IPv6"])
@pytest.mark.parametrize("amount", [1500, 2820, 2821, 20_000])
def test_tcp_counts_as_its_segments(header: Packet, amount: int) -> None:
    """Their size is lost on the way: the largest that fits the MTU of 1450 is taken, for the host and in the counters."""
    whole = bytes(header / TCP(sport=7, dport=9, flags="A") / Raw(bytes(amount)))
    with Edges("vxlan") as edges:
        edges.send_underlay(vxlan(whole))
        edges.send_underlay(vxlan(good_in))
        edges.recv_tun_until(good_in)
        assert_counted(edges, [*cut(whole, 1410 if header.version == 4 else 1390), good_in])


def assert_counted(edges: Edges, packets: list[bytes]) -> None:
    """All of them came from node 2, by the worker's counters and by the peer's."""
    total = sum(map(len, packets))
    edges.forwarder.stop()
    counters, peers = edges.forwarder.counters(), edges.forwarder.peer_counters()
    mine = [peers[ip_network(prefix)] for prefix in ("10.5.2.0/24", "fd05:2::/64")]
    assert (counters["rx_packets"], counters["rx_bytes"]) == (len(packets), total)
    assert (sum(peer.rx_packets for peer in mine), sum(peer.rx_bytes for peer in mine)) == (len(packets), total)
