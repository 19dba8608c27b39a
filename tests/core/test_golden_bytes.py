"""Bytes in, bytes out, against packets that other implementations made.

Sources: `flannel`: flannel's own proxy_amd64.c, compiled and driven with these packets; `RFC 7348`: section 5, with the
header that Linux' vxlan sends under flannel for VNI 1; ICMPv6: RFC 4443 sections 3.1 to 3.3, by the twin.
"""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6
from scapy.packet import Raw

from tests.core.edges import Edges, own_mac, peer_mac, third_mac, vxlan
from tests.core.packets import inward, outward
from tests.core.twin.checksum import decremented_checksum, internet_checksum
from tests.core.twin.icmp import net_unreachable, time_exceeded, too_big

# flannel: what it read from its TUN, what it sent, and what the node behind it wrote to its TUN.
flannel_tun = bytes.fromhex("4500002400014000401123b30a0501050a05020703e807d0001000006162636465666768")
flannel_wire = bytes.fromhex("45000024000140003f1124b30a0501050a05020703e807d0001000006162636465666768")
flannel_back = bytes.fromhex("45000024000140003e1125b30a0501050a05020703e807d0001000006162636465666768")
# flannel: header checksum before and after one hop, where the carry goes round.
flannel_edges = [(0xFEFF, 0x0000), (0xFEFE, 0xFFFE), (0xFF00, 0x0001), (0x0000, 0x0100)]
# flannel: no route for 10.5.9.9; the offender's header and 8 bytes follow.
flannel_unreachable = bytes.fromhex("450000380000000008019cb70a0501000a0501050300f13700000000")
# The offender whose ICMP checksum flannel's f137 is: the first packet, to 10.5.9.9.
flannel_offender = bytes.fromhex("450000240001400040111cb10a0501050a05090903e807d0001000006162636465666768")

# RFC 7348 section 5: I flag, VNI 1; to the VTEP MAC of node 2 from ours; then EtherType and packet.
vxlan_to_peer = bytes.fromhex("0800000000000100" + "020000000002" + "020000000001")
vxlan_to_us = bytes.fromhex("0800000000000100" + "020000000001" + "020000000002")

tunnel4, tunnel6 = ip_address("10.5.1.0"), ip_address("fd05:1::")


def swap(packet: bytes) -> bytes:
    """The same IPv4 packet on its way to us: addresses exchanged, which no checksum notices."""
    return packet[:12] + packet[16:20] + packet[12:16] + packet[20:]


def test_flannels_udp_out(udp_edges: Edges) -> None:
    udp_edges.send_tun(flannel_tun)
    assert udp_edges.recv_underlay()[0] == flannel_wire


def test_flannels_udp_in(udp_edges: Edges) -> None:
    udp_edges.send_underlay(swap(flannel_wire))
    assert udp_edges.recv_tun()[1] == swap(flannel_back)


def with_checksum(packet: bytes, wanted: int) -> bytes:
    """The IPv4 packet with an ID that makes its header checksum `wanted`."""
    for identification in range(65536):
        candidate = packet[:4] + identification.to_bytes(2) + packet[6:10] + b"\0\0" + packet[12:]
        if internet_checksum(candidate[:20]) == wanted:
            return candidate[:10] + wanted.to_bytes(2) + candidate[12:]
    raise AssertionError(f"no ID gives {wanted:#06x}")


@pytest.mark.parametrize(("before", "after"), flannel_edges)
def test_flannels_checksum_edges(udp_edges: Edges, before: int, after: int) -> None:
    assert decremented_checksum(before) == after
    out = with_checksum(flannel_tun, before)
    udp_edges.send_tun(out)
    assert udp_edges.recv_underlay()[0][10:12] == after.to_bytes(2)
    udp_edges.send_underlay(swap(out))
    assert udp_edges.recv_tun()[1][10:12] == after.to_bytes(2)


def test_flannels_net_unreachable(udp_edges: Edges) -> None:
    udp_edges.send_tun(flannel_offender)
    answer = udp_edges.recv_tun()[1]
    assert answer == flannel_unreachable + flannel_offender[:28]
    assert answer == net_unreachable(flannel_offender, tunnel4)


@pytest.mark.parametrize("version", [4, 6])
def test_vxlan_out(vxlan_edges: Edges, version: int) -> None:
    packet = flannel_tun if version == 4 else bytes(outward(6))
    ethertype = b"\x08\x00" if version == 4 else b"\x86\xdd"
    vxlan_edges.send_tun(packet)
    assert vxlan_edges.recv_underlay()[0] == vxlan_to_peer + ethertype + packet


@pytest.mark.parametrize("version", [4, 6])
def test_vxlan_in(vxlan_edges: Edges, version: int) -> None:
    packet = swap(flannel_tun) if version == 4 else bytes(inward(6))
    ethertype = b"\x08\x00" if version == 4 else b"\x86\xdd"
    vxlan_edges.send_underlay(vxlan_to_us + ethertype + packet)
    assert vxlan_edges.recv_tun()[1] == packet
    vxlan_edges.send_underlay(vxlan_to_us + ethertype + packet + bytes(18))  # Ethernet pads, IP knows its length
    assert vxlan_edges.recv_tun()[1] == packet


def test_each_peer_gets_its_own_mac(vxlan_edges: Edges) -> None:
    vxlan_edges.send_tun(bytes(outward(dst="10.5.3.9")))
    assert vxlan_edges.recv_underlay(at=vxlan_edges.third)[0][8:20] == third_mac + own_mac
    back = bytes(inward(src="10.5.3.9"))
    vxlan_edges.send_underlay(vxlan(back, source=third_mac), source=vxlan_edges.third)
    assert vxlan_edges.recv_tun()[1] == back
    vxlan_edges.send_tun(bytes(outward()))
    assert vxlan_edges.recv_underlay()[0][8:20] == peer_mac + own_mac


@pytest.mark.parametrize("offender", [outward(6, dst="fd05:9::9"), outward(6, bytes(1400), dst="fd05:9::9")])
def test_no_route_ipv6(vxlan_edges: Edges, offender: IPv6) -> None:
    vxlan_edges.send_tun(bytes(offender))
    answer = vxlan_edges.recv_tun()[1]
    assert answer == net_unreachable(bytes(offender), tunnel6)
    assert len(answer) <= 1280
    assert (IPv6(answer)[ICMPv6DestUnreach].type, IPv6(answer)[ICMPv6DestUnreach].code) == (1, 0)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("ttl", [0, 1])
def test_time_exceeded_out(udp_edges: Edges, version: int, ttl: int) -> None:
    offender = bytes(outward(version, **{"ttl" if version == 4 else "hlim": ttl}))
    with udp_edges.expect_drops(send_ttl=1):
        udp_edges.send_tun(offender)
        assert udp_edges.recv_tun()[1] == time_exceeded(offender, tunnel4 if version == 4 else tunnel6)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("ttl", [0, 1])
def test_time_exceeded_in(udp_edges: Edges, version: int, ttl: int) -> None:
    offender = bytes(inward(version, **{"ttl" if version == 4 else "hlim": ttl}))
    with udp_edges.expect_drops(receive_ttl=1):
        udp_edges.send_underlay(offender)
        assert udp_edges.recv_tun()[1] == time_exceeded(offender, tunnel4 if version == 4 else tunnel6)


@pytest.mark.parametrize("version", [4, 6])
def test_too_big(vxlan_edges: Edges, version: int) -> None:
    offender = bytes(outward(version, bytes(1450)))
    with vxlan_edges.expect_drops(send_too_big=1):
        vxlan_edges.send_tun(offender)
        answer = vxlan_edges.recv_tun()[1]
    assert answer == too_big(offender, tunnel4 if version == 4 else tunnel6, 1450)


@pytest.mark.parametrize(
    "offender",
    [
        IP(src="10.5.1.9", dst="10.5.9.9") / ICMP(type=3) / Raw(bytes(28)),
        IP(src="10.5.1.9", dst="10.5.9.9") / ICMP(type=11) / Raw(bytes(28)),
        IP(src="10.5.1.9", dst="10.5.9.9", frag=4) / Raw(b"later fragment"),
        IP(src="224.0.0.1", dst="10.5.9.9") / UDP() / Raw(b"x"),
        IP(src="0.0.0.0", dst="10.5.9.9") / UDP() / Raw(b"x"),
        IP(src="127.0.0.1", dst="10.5.9.9") / UDP() / Raw(b"x"),
        IP(src="255.255.255.255", dst="10.5.9.9") / UDP() / Raw(b"x"),
        IPv6(src="ff02::1", dst="fd05:9::9") / UDP() / Raw(b"x"),
        IPv6(src="::", dst="fd05:9::9") / UDP() / Raw(b"x"),
        IPv6(src="fd05:1::9", dst="fd05:9::9") / ICMPv6DestUnreach() / Raw(bytes(48)),
        IP(src="10.5.1.9", dst="10.5.9.9", flags="MF") / ICMP(type=3) / Raw(bytes(28)),
    ],
    ids=lambda packet: packet.summary(),
)
def test_no_answer_is_owed(vxlan_edges: Edges, offender: IP) -> None:
    """RFC 1122 section 3.2.2 and RFC 4443 section 2.4 e: an error about these would feed loops and storms."""
    answered = bytes(outward(dst="10.5.9.9"))
    with vxlan_edges.expect_drops(send_no_route=2):
        vxlan_edges.send_tun(bytes(offender))
        vxlan_edges.send_tun(answered)
        assert vxlan_edges.recv_tun()[1] == net_unreachable(answered, tunnel4)
