"""Random packets of every kind, built by scapy, through the core, decoded by scapy and by the twin on the other side."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP
from scapy.layers.vxlan import VXLAN
from scapy.packet import Raw

from tests.core.edges import Edges, needs_csum, vxlan
from tests.core.packets import examples, packets, sound
from tests.core.partial import leave_partial, transport_packet
from tests.core.twin.ip import decode_ip, decrement_ttl, ecn_of
from tests.core.twin.segment import finish_partial
from tests.core.twin.wire import decode_udp, decode_vxlan


@examples(250)
@given(packets(1, 2))
def test_out_by_vxlan(vxlan_edges: Edges, raw: bytes) -> None:
    vxlan_edges.send_tun(raw)
    payload, _, tos = vxlan_edges.recv_underlay()
    frame = VXLAN(payload)
    assert (frame.vni, int(frame.flags), frame.reserved1, frame.reserved2) == (1, 8, 0, 0)
    assert (frame["Ethernet"].dst, frame["Ethernet"].src) == ("02:00:00:00:00:02", "02:00:00:00:00:01")
    assert frame["Ethernet"].type == {4: 0x0800, 6: 0x86DD}[raw[0] >> 4]
    assert bytes(frame["Ethernet"].payload) == raw
    assert decode_vxlan(payload).packet == decode_ip(raw)
    assert tos == ecn_of(decode_ip(raw))


@examples(250)
@given(packets(1, 2))
def test_out_by_udp(udp_edges: Edges, raw: bytes) -> None:
    udp_edges.send_tun(raw)
    payload, _, tos = udp_edges.recv_underlay()
    assert payload == decrement_ttl(raw)
    assert decode_udp(payload) == decode_ip(decrement_ttl(raw))
    assert sound(payload) == payload
    assert tos == 0


@examples(250)
@given(packets(2, 1), st.binary(max_size=60))
def test_in_by_vxlan(vxlan_edges: Edges, raw: bytes, padding: bytes) -> None:
    vxlan_edges.send_underlay(vxlan(raw) + padding)
    assert vxlan_edges.recv_tun()[1] == raw


@examples(250)
@given(packets(2, 1))
def test_in_by_udp(udp_edges: Edges, raw: bytes) -> None:
    udp_edges.send_underlay(raw)
    came = udp_edges.recv_tun()[1]
    assert came == decrement_ttl(raw)
    assert sound(came) == came


@examples(60)
@given(packets(2, 1, ecn=False), packets(1, 2, ecn=False))
def test_over_ipv6(ipv6_edges: Edges, inward: bytes, outward: bytes) -> None:
    ipv6_edges.send_underlay(vxlan(inward))
    assert ipv6_edges.recv_tun()[1] == inward
    ipv6_edges.send_tun(outward)
    assert decode_vxlan(ipv6_edges.recv_underlay()[0]).packet == decode_ip(outward)


@examples(100)
@given(st.sampled_from([4, 6]), st.booleans(), st.binary(max_size=300))
def test_a_checksum_left_to_the_device_is_finished(
    vxlan_edges: Edges, version: int, is_tcp: bool, payload: bytes
) -> None:
    """CHECKSUM_PARTIAL: the field holds the pseudo-header's sum, NEEDS_CSUM says where the rest belongs."""
    whole = transport_packet(1, 2, version, is_tcp, payload)
    partial, offload = leave_partial(whole)
    assert offload.flags == needs_csum
    assert finish_partial(partial, offload.csum_start, offload.csum_offset) == whole
    vxlan_edges.send_tun(partial, offload)
    assert vxlan_edges.recv_underlay()[0][22:] == whole


def test_flows_spread_over_the_source_ports() -> None:
    """All packets of a flow leave from one port, many flows from many: RFC 7348 section 5 wants this for ECMP."""
    with Edges("vxlan", sources=16) as edges:
        ports: dict[int, set[int]] = {}
        for sport in range(64):
            for size in (1, 2, 3):
                packet = bytes(IP(src="10.5.1.5", dst="10.5.2.7") / UDP(sport=sport, dport=7) / Raw(bytes(size)))
                edges.send_tun(packet)
                ports.setdefault(sport, set()).add(edges.recv_underlay()[1])
        assert all(len(seen) == 1 for seen in ports.values())
        used = {next(iter(seen)) for seen in ports.values()}
        assert len(used) > 10
        assert edges.target[1] not in used
