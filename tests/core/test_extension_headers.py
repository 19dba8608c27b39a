"""IPv6 extension headers: a routing header changes what the checksum is over, and a long chain is a packet like any other.

What must stay true: what the kernel's vxlan carries is carried byte for byte, damaged packets end here whatever route they
are to take, and no chain hides what is refused.
"""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from scapy.layers.inet6 import ICMPv6ND_RA

from tests.core.edges import Edges, Offload, gso_tcp6, needs_csum, vxlan
from tests.core.twin.checksum import internet_checksum, pseudo_header, word_sum

tcp, udp = 6, 17
final = ip_address("fd05:9::7").packed
between = ip_address("fd05:8::7").packed


def routing(kind: int, left: int, body: bytes) -> bytes:
    """A routing header without its first byte, the next header (RFC 8200 section 4.4)."""
    assert len(body) % 8 == 4
    return bytes([(len(body) - 4) // 8, kind, left]) + body


through = {
    "type 0, one address": routing(0, 1, bytes(4) + final),
    "type 0, two addresses": routing(0, 2, bytes(4) + between + final),
    "type 0, at the last but one": routing(0, 1, bytes(4) + between + final),
    "mobile": routing(2, 1, bytes(4) + final),
    "RPL, whole addresses": routing(3, 2, bytes(4) + between + final),
    "segment list": routing(4, 1, bytes([1, 0, 0, 0]) + final + between),
    "segment list with a TLV": routing(4, 1, bytes([1, 0, 0, 0]) + final + between + bytes([4, 6]) + bytes(6)),
}
"""Routing headers with segments left, of which the final destination is `final`."""
arrived = routing(0, 0, bytes(4) + between)


def packet(protocol: int, header: bytes, over: bytes, source: int, target: int, payload: bytes = b"abc") -> bytes:
    """TCP or UDP behind one extension header (`header` lacks its next header); `over`: the address under the checksum."""
    addresses = [ip_address(f"fd05:{node}::9").packed for node in (source, target)]
    if protocol == tcp:
        l4, field = b"\0\1\0\2" + bytes(8) + b"\x50\x10\0\1" + bytes(4) + payload, 16
    else:
        l4, field = b"\0\1\0\2" + (8 + len(payload)).to_bytes(2) + bytes(2) + payload, 6
    checksum = internet_checksum(pseudo_header(addresses[0], over, protocol, len(l4)) + l4)
    l4 = l4[:field] + checksum.to_bytes(2) + l4[field + 2 :]
    body = bytes([protocol]) + header + l4
    return b"\x60\0\0\0" + len(body).to_bytes(2) + bytes([43, 64]) + addresses[0] + addresses[1] + body


def chain(length: int, last: int, rest: bytes, source: int = 2, target: int = 1) -> bytes:
    """`length` destination options headers, then `rest`."""
    body = b"".join(bytes([60 if at + 1 < length else last, 0, 1, 4, 0, 0, 0, 0]) for at in range(length)) + rest
    addresses = b"".join(ip_address(f"fd05:{node}::9").packed for node in (source, target))
    return b"\x60\0\0\0" + len(body).to_bytes(2) + bytes([60, 255]) + addresses + body


def carried(edges: Edges, data: bytes, out: bytes) -> None:
    """The packet comes from node 2, and leaves for it, as it is."""
    with edges.expect_drops():
        edges.send_underlay(vxlan(data))
        assert edges.recv_tun()[1] == data
        edges.send_tun(out)
        assert edges.recv_underlay()[0][22:] == out


@pytest.mark.parametrize("protocol", [tcp, udp])
@pytest.mark.parametrize("header", through.values(), ids=through)
def test_the_checksum_is_over_the_final_destination(vxlan_edges: Edges, header: bytes, protocol: int) -> None:
    good, out = (packet(protocol, header, final, *nodes) for nodes in ((2, 1), (1, 2)))
    carried(vxlan_edges, good, out)
    wrong = packet(protocol, header, ip_address("fd05:1::9").packed, 2, 1)
    with vxlan_edges.expect_drops(receive_checksum=2):
        for damaged in (wrong, good[:-1] + b"!"):
            vxlan_edges.send_underlay(vxlan(damaged))
        vxlan_edges.send_underlay(vxlan(good))
        assert vxlan_edges.recv_tun_until(good) == []


@pytest.mark.parametrize("protocol", [tcp, udp])
def test_a_route_at_its_end(vxlan_edges: Edges, protocol: int) -> None:
    here, there = (ip_address(f"fd05:{node}::9").packed for node in (1, 2))
    carried(vxlan_edges, packet(protocol, arrived, here, 2, 1), packet(protocol, arrived, there, 1, 2))


@pytest.mark.parametrize(
    "header",
    [routing(9, 1, bytes(4) + final), routing(3, 1, bytes([0x08, 0, 0, 0]) + final[:8]), routing(0, 1, bytes(4))],
    ids=["an unknown type", "RPL, shortened", "no address"],
)
@pytest.mark.parametrize("protocol", [tcp, udp])
def test_who_cannot_know_does_not_judge(vxlan_edges: Edges, header: bytes, protocol: int) -> None:
    carried(vxlan_edges, *(packet(protocol, header, between, *nodes) for nodes in ((2, 1), (1, 2))))


def test_segments_of_a_routed_super_packet(vxlan_edges: Edges) -> None:
    """Each has a checksum of its own, over the final destination too."""
    whole = packet(tcp, through["segment list"], final, 1, 2, bytes(range(250)) * 12)
    start = 40 + 40
    partial = word_sum(pseudo_header(whole[8:24], final, tcp, len(whole) - start))
    data = whole[: start + 16] + partial.to_bytes(2) + whole[start + 18 :]
    vxlan_edges.send_tun(data, Offload(needs_csum, gso_tcp6, start + 20, 1000, start, 16))
    for at in range(3):
        segment = vxlan_edges.recv_underlay()[0][22:]
        assert segment[start + 20 :] == whole[start + 20 :][at * 1000 : at * 1000 + 1000]
        assert internet_checksum(pseudo_header(segment[8:24], final, tcp, 1020) + segment[start:]) == 0


@pytest.mark.parametrize("length", [31, 32, 33, 34, 100, 160])
@pytest.mark.parametrize("last", [59, 253], ids=["nothing", "unknown"])
def test_a_long_chain(vxlan_edges: Edges, length: int, last: int) -> None:
    carried(vxlan_edges, chain(length, last, b"rest"), chain(length, last, b"rest", 1, 2))


@pytest.mark.parametrize("length", [33, 160])
def test_nothing_hides_behind_a_long_chain(vxlan_edges: Edges, length: int) -> None:
    good = chain(length, 59, b"")
    udp_header = b"\0\1\0\2\0\x08\x12\x34"
    with vxlan_edges.expect_drops(receive_ra=1, receive_checksum=1):
        vxlan_edges.send_underlay(vxlan(chain(length, 58, bytes(ICMPv6ND_RA()))))
        vxlan_edges.send_underlay(vxlan(chain(length, udp, udp_header)))
        vxlan_edges.send_underlay(vxlan(good))
        assert vxlan_edges.recv_tun_until(good) == []
