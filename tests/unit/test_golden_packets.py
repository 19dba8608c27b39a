"""Bytes on the wire, in and out of the real core, against packets that others made.

Sources: flannel's own C proxy driven with packets (udp: the TTL and net-unreachable vectors), RFC 7348 section 5 with the
header that Linux' vxlan sends for VNI 1 (vxlan), and scapy as an independent encoder and decoder.
"""

from __future__ import annotations

from typing import Any

import pytest
from core_edges import Edges, own_mac, peer_mac
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_RR
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

# flannel's proxy read this from its TUN; on the wire TTL is 63 and the checksum one step on; at the other end 62.
flannel_tun = bytes.fromhex("4500002400014000401123b30a0501050a05020703e807d0001000006162636465666768")
flannel_wire = bytes.fromhex("4500002400014000" + "3f1124b3") + flannel_tun[12:]
flannel_back = bytes.fromhex("4500002400014000" + "3e1125b3") + flannel_tun[12:]
# No route for 10.5.9.9: what flannel's proxy wrote back to the TUN, before the offender's header and 8 bytes.
flannel_unreachable = bytes.fromhex("450000380000000008019cb70a0501000a050105")

# VNI 1, to the peer's VTEP MAC from ours, IPv4.
vxlan_out = bytes.fromhex("0800000000000100") + peer_mac + own_mac + bytes.fromhex("0800")
vxlan_in = bytes.fromhex("0800000000000100") + own_mac + peer_mac + bytes.fromhex("0800")


@pytest.fixture(scope="module")
def udp() -> Any:
    with Edges("udp", mtu=1472) as edges:
        yield edges


@pytest.fixture(scope="module")
def vxlan() -> Any:
    with Edges("vxlan") as edges:
        yield edges


def swap(packet: bytes) -> bytes:
    """The same IPv4 packet on its way back: addresses exchanged, which no checksum notices."""
    return packet[:12] + packet[16:20] + packet[12:16] + packet[20:]


def test_udp_out(udp: Edges) -> None:
    udp.send_tun(flannel_tun)
    assert udp.take_underlay()[0] == flannel_wire


def test_udp_in(udp: Edges) -> None:
    udp.send_underlay(swap(flannel_wire))
    assert udp.take_tun() == swap(flannel_back)


def test_udp_net_unreachable(udp: Edges) -> None:
    offender = bytes(IP(src="10.5.1.5", dst="10.5.9.9", ttl=64) / UDP(sport=1, dport=2) / Raw(b"12345678"))
    udp.send_tun(offender)
    answer = udp.take_tun()
    assert answer[:20] == flannel_unreachable
    assert answer[20:22] == bytes([3, 0])
    assert answer[24:28] == bytes(4)
    assert answer[28:] == offender[:28]
    assert IP(answer)[ICMP].chksum == IP(bytes(sound(IP(answer))))[ICMP].chksum


def test_udp_net_unreachable_ipv6(udp: Edges) -> None:
    udp.send_tun(bytes(IPv6(src="fd05:1::5", dst="fd05:9::9") / UDP(sport=1, dport=2) / Raw(b"x")))
    answer = IPv6(udp.take_tun())
    assert (answer.src, answer.dst, answer[ICMPv6DestUnreach].code) == ("fd05:1::", "fd05:1::5", 0)
    assert bytes(answer) == bytes(sound(answer))


def test_vxlan_out(vxlan: Edges) -> None:
    vxlan.send_tun(flannel_tun)
    assert vxlan.take_underlay()[0] == vxlan_out + flannel_tun


def test_vxlan_in(vxlan: Edges) -> None:
    vxlan.send_underlay(vxlan_in + swap(flannel_tun))
    assert vxlan.take_tun() == swap(flannel_tun)


def test_vxlan_flows_keep_their_source_port_and_spread(vxlan: Edges) -> None:
    ports: dict[int, set[int]] = {}
    for sport in range(1000, 1064):
        for _ in range(3):
            vxlan.send_tun(bytes(IP(src="10.5.1.5", dst="10.5.2.7") / UDP(sport=sport, dport=7) / Raw(b"x")))
            ports.setdefault(sport, set()).add(vxlan.take_underlay()[1])
    assert all(len(seen) == 1 for seen in ports.values())
    assert len({next(iter(seen)) for seen in ports.values()}) > 8


def sound(packet: Packet) -> Packet:
    """The packet with every length and checksum computed afresh by scapy."""
    copy = packet.copy()
    for layer in (IP, UDP, TCP, ICMP):
        if layer in copy:
            del copy[layer].chksum
    for name in ("ICMPv6EchoRequest", "ICMPv6DestUnreach"):
        if name in copy:
            del copy[name].cksum
    return type(packet)(bytes(copy))


@st.composite
def packets(draw: st.DrawFn, source: int, destination: int) -> Packet:
    """A packet that no layer need refuse, from node `source`'s subnet to node `destination`'s."""
    transport = draw(
        st.sampled_from(
            [
                UDP(sport=draw(st.integers(1, 65535)), dport=draw(st.integers(1, 65535))),
                TCP(sport=9, dport=draw(st.integers(1, 65535)), seq=draw(st.integers(0, 2**32 - 1)), flags="PA"),
                TCP(flags="S", options=[("MSS", 1400), ("WScale", 7)]),
                None,
            ]
        )
    )
    tail = Raw(draw(st.binary(min_size=1, max_size=600)))
    host = draw(st.integers(1, 254))
    if draw(st.booleans()):
        ip: Packet = IP(
            src=f"10.5.{source}.{host}",
            dst=f"10.5.{destination}.{host}",
            ttl=draw(st.integers(2, 255)),
            id=draw(st.integers(0, 65535)),
            tos=draw(st.integers(0, 63)) << 2,
            options=[IPOption_RR()] if draw(st.booleans()) else [],
        )
        if draw(st.integers(0, 9)) == 0:
            ip.flags, ip.frag, transport = "MF", draw(st.integers(0, 900)), None
        return ip / (transport / tail if transport is not None else ICMP() / tail)
    six: Packet = IPv6(
        src=f"fd05:{source}::{host}",
        dst=f"fd05:{destination}::{host}",
        hlim=draw(st.integers(2, 255)),
        tc=draw(st.integers(0, 63)) << 2,
        fl=draw(st.integers(0, 2**20 - 1)),
    )
    if draw(st.integers(0, 9)) == 0:
        return six / IPv6ExtHdrFragment(offset=draw(st.integers(0, 900)), m=1) / tail
    if draw(st.integers(0, 4)) == 0:
        six = six / IPv6ExtHdrDestOpt()
    return six / (transport / tail if transport is not None else ICMPv6EchoRequest(data=tail.load))


def one_hop_less(packet: bytes) -> bytes:
    """The packet as it is one router later, by scapy's count."""
    if packet[0] >> 4 == 6:
        return packet[:7] + bytes([packet[7] - 1]) + packet[8:]
    parsed = IP(packet)
    parsed.ttl -= 1
    del parsed.chksum
    return bytes(parsed)[: parsed.ihl * 4] + packet[parsed.ihl * 4 :]


round_trip = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@round_trip
@given(packets(1, 2))
def test_out_of_the_core_into_scapy(udp: Edges, vxlan: Edges, packet: Packet) -> None:
    raw = bytes(packet)
    vxlan.send_tun(raw)
    frame = VXLAN(vxlan.take_underlay()[0])
    assert (frame.vni, int(frame.flags), frame.reserved1, frame.reserved2) == (1, 8, 0, 0)
    assert (frame["Ethernet"].dst, frame["Ethernet"].src) == ("02:00:00:00:00:02", "02:00:00:00:00:01")
    assert frame["Ethernet"].type == (0x0800 if IP in packet else 0x86DD)
    assert bytes(frame["Ethernet"].payload) == raw
    udp.send_tun(raw)
    assert udp.take_underlay()[0] == one_hop_less(raw)


@round_trip
@given(packets(2, 1), st.binary(max_size=30))
def test_out_of_scapy_into_the_core(udp: Edges, vxlan: Edges, packet: Packet, padding: bytes) -> None:
    raw = bytes(packet)
    ethertype = b"\x08\x00" if IP in packet else b"\x86\xdd"
    vxlan.send_underlay(bytes(VXLAN(flags=8, vni=1)) + own_mac + peer_mac + ethertype + raw + padding)
    assert vxlan.take_tun() == raw  # Ethernet may pad; an IP packet ends where it says
    udp.send_underlay(raw)
    assert udp.take_tun() == one_hop_less(raw)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("inner", range(4))
@pytest.mark.parametrize("outer", range(4))
def test_ecn_moves_inward_by_rfc_6040(vxlan: Edges, version: int, inner: int, outer: int) -> None:
    """RFC 6040 section 4.2, figure 4. Codepoints: 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE."""
    expected = {(0, 3): None, (1, 3): 3, (2, 3): 3, (2, 1): 1}.get((inner, outer), inner)
    header = (
        IP(src="10.5.2.9", dst="10.5.1.9", tos=inner)
        if version == 4
        else IPv6(src="fd05:2::9", dst="fd05:1::9", tc=inner)
    )
    packet = header / UDP(sport=1, dport=2) / Raw(b"marked")
    prefix = vxlan_in[:-2] + (b"\x08\x00" if version == 4 else b"\x86\xdd")
    before = vxlan.dropped().get("receive_ecn", 0)
    vxlan.send_underlay(prefix + bytes(packet), tos=outer)
    vxlan.send_underlay(vxlan_in + swap(flannel_tun))
    if expected is not None:
        came = (IP if version == 4 else IPv6)(vxlan.take_tun())
        assert (came.tos if version == 4 else came.tc) == expected
        assert bytes(came) == bytes(sound(came))
    assert vxlan.take_tun() == swap(flannel_tun)
    assert vxlan.dropped().get("receive_ecn", 0) - before == (expected is None)


@pytest.mark.parametrize("inner", range(4))
def test_ecn_is_copied_outward(udp: Edges, vxlan: Edges, inner: int) -> None:
    packet = bytes(IP(src="10.5.1.5", dst="10.5.2.7", tos=0xB8 | inner) / UDP() / Raw(b"x"))
    vxlan.send_tun(packet)
    assert vxlan.take_underlay()[2] == inner  # the class of service stays inside
    udp.send_tun(packet)
    assert udp.take_underlay()[2] == 0  # flannel's proxies would lose a mark
