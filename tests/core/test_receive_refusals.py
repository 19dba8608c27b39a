"""Every reason of csrc/include/dataplane.h for which a received datagram ends here: provoked, and seen on its own counter alone.

Not provoked, and why: drop_receive_truncated needs a datagram longer than UDP has (65,507 bytes; the buffer is 65,536);
drop_tun_error needs a TUN that refuses a packet (tests/netns); drop_icmp_limited and drop_tun_full stand in test_limits.py.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import (
    ICMPv6ND_NA,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
)
from scapy.packet import Raw

from dataplane.errors import BadInput
from tests.core.edges import Edges, own_mac, peer_mac, third_mac, vxlan
from tests.core.packets import examples, good_in, inward, packets
from tests.core.twin.checksum import internet_checksum
from tests.core.twin.ip import decode_ip, decrement_ttl

good = vxlan(good_in)
good6 = bytes(inward(6))


def put(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


def sealed(header: bytes) -> bytes:
    """An IPv4 packet whose 20-byte header got its checksum right, whatever else is wrong."""
    blank = put(header, 10, b"\0\0")
    return put(blank, 10, internet_checksum(blank[:20]).to_bytes(2))


def refused(edges: Edges, reason: str, datagram: bytes) -> None:
    """Exactly this counter moves by one, and of it and the good one behind it only the good one comes out."""
    marker, comes = (good, good_in) if edges.backend == "vxlan" else (good_in, decrement_ttl(good_in))
    with edges.expect_drops(**{reason: 1}):
        edges.send_underlay(datagram)
        edges.send_underlay(marker)
        assert edges.recv_tun_until(comes) == []


vxlan_header = [
    *[("vxlan_flags", put(good, 0, bytes([good[0] ^ 1 << bit]))) for bit in range(8)],
    *[("vxlan_flags", put(good, at, bytes([1 << bit]))) for at in (1, 2, 3, 7) for bit in range(8)],
    *[("vni", put(good, at, bytes([good[at] ^ 1 << bit]))) for at in (4, 5, 6) for bit in range(8)],
    *[("inner_mac", put(good, 8 + at, bytes([good[8 + at] ^ 1]))) for at in range(12)],
    ("inner_mac", put(good, 8, b"\xff" * 6)),
    ("inner_mac", put(good, 14, own_mac)),
    ("inner_mac", put(good, 14, third_mac)),
    *[
        ("inner_type", put(good, 20, kind))
        for kind in (b"\x08\x06", b"\x81\x00", b"\x88\xa8", b"\x00\x2e", b"\x86\xdd")
    ],
    ("inner_type", put(vxlan(good6), 20, b"\x08\x00")),
    ("inner_type", put(good, 22, bytes([0x55]))),
]


@pytest.mark.parametrize(("reason", "datagram"), vxlan_header)
def test_vxlan_header(vxlan_edges: Edges, reason: str, datagram: bytes) -> None:
    refused(vxlan_edges, f"receive_{reason}", datagram)


ip_header = [
    ("version 0", put(good_in, 0, b"\x05")),
    ("version 5", put(good_in, 0, b"\x55")),
    ("header of 16 bytes", sealed(put(good_in, 0, b"\x44"))),
    ("header of 0 bytes", sealed(put(good_in, 0, b"\x40"))),
    ("header longer than the packet", put(good_in, 0, b"\x4f")),
    ("length 0", sealed(put(good_in, 2, b"\0\0"))),
    ("length 19", sealed(put(good_in, 2, b"\0\x13"))),
    ("length one too long", sealed(put(good_in, 2, (len(good_in) + 1).to_bytes(2)))),
    ("length 65535", sealed(put(good_in, 2, b"\xff\xff"))),
    ("checksum", put(good_in, 10, b"\x12\x34")),
    ("checksum by one bit", put(good_in, 11, bytes([good_in[11] ^ 1]))),
    ("id changed under the checksum", put(good_in, 5, bytes([good_in[5] ^ 1]))),
    ("IPv6 payload one too long", put(good6, 4, (len(good6) - 39).to_bytes(2))),
    ("IPv6 payload 65535", put(good6, 4, b"\xff\xff")),
    ("IPv6 header cut", good6[:39]),
]


@pytest.mark.parametrize("packet", [packet for _, packet in ip_header], ids=[name for name, _ in ip_header])
def test_ip_header_lies(vxlan_edges: Edges, udp_edges: Edges, packet: bytes) -> None:
    if packet[0] >> 4 in (4, 6):
        refused(vxlan_edges, "receive_malformed", vxlan(packet))
    refused(udp_edges, "receive_malformed", packet)
    with pytest.raises(BadInput):
        decode_ip(packet)


@pytest.mark.parametrize("packet", [good_in, good6], ids=["IPv4", "IPv6"])
def test_truncated_at_every_byte(vxlan_edges: Edges, udp_edges: Edges, packet: bytes) -> None:
    for edges, whole, least in ((vxlan_edges, vxlan(packet), 42), (udp_edges, packet, 20)):
        with edges.expect_drops(receive_short=least, receive_malformed=len(whole) - least):
            for length in range(len(whole)):
                edges.send_underlay(whole[:length])
            edges.send_underlay(whole)
            assert edges.recv_tun()[1][-20:] == packet[-20:]


ra = ICMPv6ND_RA() / Raw(bytes(8))
redirect4 = ICMP(type=5, gw="10.5.2.1") / Raw(bytes(28))
inner = [
    ("inner_source", inward(src="8.8.8.8")),
    ("inner_source", inward(src="10.5.1.9")),
    ("inner_source", inward(src="10.5.1.0")),
    ("inner_source", inward(src="10.5.3.9")),
    ("inner_source", inward(src="127.0.0.3")),
    ("inner_source", inward(src="224.0.0.1")),
    ("inner_source", inward(src="255.255.255.255")),
    ("inner_source", inward(src="0.0.0.0")),
    ("inner_source", inward(6, src="fe80::1")),
    ("inner_source", inward(6, src="fd05:3::9")),
    ("inner_source", inward(6, src="::")),
    ("inner_destination", inward(dst="10.5.2.9")),
    ("inner_destination", inward(dst="10.5.3.9")),
    ("inner_destination", inward(dst="8.8.8.8")),
    ("inner_destination", inward(dst="127.0.0.1")),
    ("inner_destination", inward(6, dst="fd05:2::9")),
    ("inner_destination", inward(6, dst="::1")),
    ("multicast", inward(dst="224.0.0.5")),
    ("multicast", inward(dst="255.255.255.255")),
    ("multicast", inward(dst="0.0.0.0")),
    ("multicast", inward(dst="10.5.1.255")),  # our own subnet's broadcast
    ("multicast", inward(6, dst="ff02::1")),
    ("multicast", inward(6, dst="fe80::1")),
    ("ra", IPv6(src="fd05:2::9", dst="fd05:1::9", hlim=255) / ra),
    ("ra", IPv6(src="fd05:2::9", dst="fd05:1::9", hlim=255) / IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / ra),
    ("ra", IPv6(src="fd05:2::9", dst="fd05:1::9", hlim=255) / ICMPv6ND_Redirect()),
    ("ra", IP(src="10.5.2.9", dst="10.5.1.9") / redirect4),
    ("checksum", inward(flags="DF") / Raw(b"")),
    ("checksum", IP(src="10.5.2.9", dst="10.5.1.9") / TCP(chksum=7) / Raw(b"x")),
    ("checksum", IPv6(src="fd05:2::9", dst="fd05:1::9") / TCP(chksum=7) / Raw(b"x")),
    ("checksum", IPv6(src="fd05:2::9", dst="fd05:1::9") / IPv6ExtHdrDestOpt() / UDP(chksum=7) / Raw(b"x")),
]
inner[-4][1][UDP].chksum = 7


@pytest.mark.parametrize(("reason", "packet"), inner, ids=[f"{r} {p.summary()}" for r, p in inner])
def test_inner_packet(vxlan_edges: Edges, udp_edges: Edges, reason: str, packet: IP) -> None:
    refused(vxlan_edges, f"receive_{reason}", vxlan(bytes(packet)))
    refused(udp_edges, f"receive_{reason}", bytes(packet))


@pytest.mark.parametrize(
    "packet",
    [
        fragment(IP(src="10.5.2.9", dst="10.5.1.9") / redirect4, fragsize=24)[0],
        IPv6(src="fd05:2::9", dst="fd05:1::9", hlim=255) / IPv6ExtHdrFragment(m=0, offset=0, nh=58) / ra,
        IPv6(src="fd05:2::9", dst="fd05:1::9", hlim=255) / IPv6ExtHdrFragment(m=1, offset=0, nh=58) / ra,
        IPv6(src="fd05:2::9", dst="fd05:1::9", hlim=255) / (b"\x3c\0\1\4\0\0\0\0" * 9 + b"\x3a\0\1\4\0\0\0\0") / ra,
    ],
    ids=["redirect in a first fragment", "RA in an atomic fragment", "RA in a first fragment", "RA behind ten headers"],
)
def test_router_messages_do_not_hide(vxlan_edges: Edges, packet: IP) -> None:
    """The first fragment shows the ICMP type; a chain of headers that nobody needs hides nothing (RFC 6980 section 5)."""
    if IPv6 in packet and IPv6ExtHdrFragment not in packet:
        packet.nh = 60
    refused(vxlan_edges, "receive_ra", vxlan(bytes(packet)))


def test_other_neighbour_discovery_is_carried(vxlan_edges: Edges) -> None:
    packet = bytes(IPv6(src="fd05:2::9", dst="fd05:1::9") / ICMPv6ND_NA())
    vxlan_edges.send_underlay(vxlan(packet))
    assert vxlan_edges.recv_tun()[1] == packet


@examples(100)
@given(packets(2, 1), st.data())
def test_damaged_anywhere_never_looks_whole(vxlan_edges: Edges, packet: bytes, data: st.DataObject) -> None:
    """One flipped bit under a checksum: the packet that comes is not the damaged one, or the damage is not covered."""
    at = data.draw(st.integers(0, len(packet) - 1))
    damaged = put(packet, at, bytes([packet[at] ^ 1 << data.draw(st.integers(0, 7))]))
    before = vxlan_edges.settled()["rx_packets"]
    vxlan_edges.send_underlay(vxlan(damaged))
    vxlan_edges.send_underlay(good)
    came = [one for _, one in vxlan_edges.recv_tun_until(good_in)]
    assert not came or came == [damaged[: len(came[0])]]
    assert vxlan_edges.settled()["rx_packets"] - before == 1 + len(came)
    if packet[0] >> 4 == 4 and at < 20:
        assert came == []


def test_unknown_sender(vxlan_edges: Edges, udp_edges: Edges) -> None:
    for edges, datagram in ((vxlan_edges, good), (udp_edges, good_in)):
        with edges.expect_drops(receive_unknown_sender=5):
            for payload in (datagram, b"", b"\0"):
                edges.send_underlay(payload, source=edges.stranger)
            edges.send_train([datagram, datagram], source=edges.stranger)
            edges.send_underlay(datagram)
            edges.recv_tun()


def test_a_leased_peer_may_not_speak_for_another(vxlan_edges: Edges, udp_edges: Edges) -> None:
    for edges, datagram in ((vxlan_edges, good), (udp_edges, good_in)):
        with edges.expect_drops(receive_inner_source=1):
            edges.send_underlay(datagram, source=edges.third)
            edges.send_underlay(datagram)
            edges.recv_tun()


def test_the_own_address_is_no_peer(vxlan_edges: Edges) -> None:
    """Datagrams from our own underlay address: no lease there names a sender."""
    with vxlan_edges._udp("127.0.0.1", 0) as own, vxlan_edges.expect_drops(receive_unknown_sender=1):
        vxlan_edges.send_underlay(vxlan(bytes(inward()), source=peer_mac), source=own)
        vxlan_edges.send_underlay(good)
        vxlan_edges.recv_tun()
