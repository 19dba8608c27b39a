"""Uncut UDP super-packets come to the host as the datagrams that the pod sent, however small they are."""

from __future__ import annotations

import socket
import struct

import pytest
from edges import UDP_SEGMENT, Edges, vxlan
from packets import good_in
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt
from scapy.packet import Packet, Raw
from test_joining import as_the_host_sees
from twin.segment import cut

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
