"""Super-packets from the host, cut by the core, against the twin that cuts them in plain Python."""

from __future__ import annotations

import pytest
from hypothesis import given
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from dataplane.core import all_offloads
from tests.core.edges import Edges, Offload, gso_tcp4, gso_tcp6, plain
from tests.core.packets import examples, good_out, sound
from tests.core.partial import leave_partial
from tests.core.super_packets import impossible, super_packets
from tests.core.twin.ip import decrement_ttl
from tests.core.twin.segment import cut


@examples(200)
@given(super_packets())
def test_cut_as_the_twin_cuts(vxlan_edges: Edges, drawn: tuple[bytes, int, int]) -> None:
    whole, gso_type, gso_size = drawn
    data, offload = leave_partial(whole, gso_type=gso_type, gso_size=gso_size)
    expected = cut(whole, gso_size)
    before = vxlan_edges.settled()
    vxlan_edges.send_tun(data, offload)
    came = [vxlan_edges.recv_underlay() for _ in expected]
    assert [payload[22:] for payload, _, _ in came] == expected
    assert len({(port, tos, payload[:22]) for payload, port, tos in came}) == 1
    vxlan_edges.send_tun(good_out)
    assert vxlan_edges.recv_underlay_until(good_out) == []
    after = vxlan_edges.settled()
    assert after["tx_packets"] - before["tx_packets"] == len(expected) + 1
    assert after["tx_bytes"] - before["tx_bytes"] == sum(map(len, expected)) + len(good_out)
    assert after["tun_reads"] - before["tun_reads"] == 3  # one of them settles it


@examples(60)
@given(super_packets())
def test_cut_and_one_hop_on(udp_edges: Edges, drawn: tuple[bytes, int, int]) -> None:
    whole, gso_type, gso_size = drawn
    data, offload = leave_partial(whole, gso_type=gso_type, gso_size=gso_size)
    udp_edges.send_tun(data, offload)
    for segment in cut(whole, gso_size):
        came = udp_edges.recv_underlay()[0]
        assert came == decrement_ttl(segment)
        assert sound(came) == came


@pytest.mark.parametrize("offloads", [all_offloads, all_offloads - {"udp_segment"}], ids=["trains", "singly"])
@pytest.mark.parametrize("gso_size", [8, 9, 536, 1398, 1410])
def test_the_largest_super_packets(offloads: frozenset[str], gso_size: int) -> None:
    """64 KB in segments from the least that is taken to the MTU; the sequence number passes 2**32."""
    payload = bytes(range(256)) * 255
    whole = bytes(
        IP(src="10.5.1.9", dst="10.5.2.9", id=65530, flags="DF") / TCP(seq=2**32 - 999, flags="FPA") / payload
    )
    data, offload = leave_partial(whole, gso_type=gso_tcp4, gso_size=gso_size)
    with Edges("vxlan", offloads=offloads) as edges:
        edges.send_tun(data, offload)
        assert [edges.recv_underlay()[0][22:] for _ in range(-(-len(payload) // gso_size))] == cut(whole, gso_size)
        assert edges.drops() == {}
        edges.forwarder.stop()
        sends = edges.forwarder.counters()["underlay_sends"]
        assert (sends < 150) if "udp_segment" in offloads else (sends == -(-len(payload) // gso_size))


def test_a_burst_keeps_each_flows_order(stopped_edges: Edges) -> None:
    """Super-packets and single packets of three flows wait in one burst: each flow comes out whole and in order."""
    expected: dict[int, list[bytes]] = {}
    for index in range(30):
        sport = 1000 + index % 3
        size = (1, 700, 5000, 1400, 9000)[index % 5]
        header = IP(src="10.5.1.9", dst="10.5.2.9", id=index * 100, flags="DF")
        whole = bytes(header / TCP(sport=sport, seq=index, flags="A") / Raw(bytes([index]) * size))
        if size > 1400:
            stopped_edges.send_tun(*leave_partial(whole, gso_type=gso_tcp4, gso_size=1000))
            expected.setdefault(sport, []).extend(cut(whole, 1000))
        else:
            stopped_edges.send_tun(*leave_partial(whole))
            expected.setdefault(sport, []).append(whole)
    stopped_edges.forwarder.start()
    came: dict[int, list[bytes]] = {}
    ports: dict[int, set[int]] = {}
    for _ in range(sum(map(len, expected.values()))):
        payload, port, _ = stopped_edges.recv_underlay()
        sport = int.from_bytes(payload[42:44])
        came.setdefault(sport, []).append(payload[22:])
        ports.setdefault(sport, set()).add(port)
    assert came == expected
    assert all(len(seen) == 1 for seen in ports.values())


@pytest.mark.parametrize(("packet", "offload", "packets"), impossible.values(), ids=impossible)
def test_impossible_requests(vxlan_edges: Edges, packet: bytes, offload: Offload, packets: int) -> None:
    with vxlan_edges.expect_drops(send_gso=packets):
        vxlan_edges.send_tun(packet, offload)
        vxlan_edges.send_tun(good_out, plain)
        assert vxlan_edges.recv_underlay_until(good_out) == []


@pytest.mark.parametrize("version", [4, 6])
def test_segments_above_the_mtu_are_answered(vxlan_edges: Edges, version: int) -> None:
    ip = IP(src="10.5.1.9", dst="10.5.2.9", flags="DF") if version == 4 else IPv6(src="fd05:1::9", dst="fd05:2::9")
    fits = 1450 - (40 if version == 4 else 60)
    whole = bytes(ip / TCP(flags="A") / Raw(bytes(3000)))
    gso_type = gso_tcp4 if version == 4 else gso_tcp6
    with vxlan_edges.expect_drops(send_too_big=3):
        vxlan_edges.send_tun(*leave_partial(whole, gso_type=gso_type, gso_size=fits + 1))
        answer = (IP if version == 4 else IPv6)(vxlan_edges.recv_tun()[1])
    assert bytes(answer)[20:22] == b"\3\4" if version == 4 else bytes(answer)[40:42] == b"\2\0"
    vxlan_edges.send_tun(*leave_partial(whole, gso_type=gso_type, gso_size=fits))
    assert [vxlan_edges.recv_underlay()[0][22:] for _ in cut(whole, fits)] == cut(whole, fits)
