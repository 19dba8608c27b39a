"""ECN across the tunnel, by RFC 6040: every combination, both IP versions inside, both directions, both underlays."""

from __future__ import annotations

import pytest

from tests.core.edges import Edges, vxlan
from tests.core.packets import good_in, inward, outward
from tests.core.twin.ecn import merge_ecn, outer_ecn
from tests.core.twin.ip import decrement_ttl

dscp = 0xB8
both = pytest.mark.parametrize("version", [4, 6])


def build(direction: str, version: int, ecn: int) -> bytes:
    fields = {"tos" if version == 4 else "tc": dscp | ecn}
    return bytes((inward if direction == "in" else outward)(version, **fields))


@both
@pytest.mark.parametrize("inner", range(4))
@pytest.mark.parametrize("outer", range(4))
@pytest.mark.parametrize("underlay", [4, 6])
def test_in(vxlan_edges: Edges, ipv6_edges: Edges, underlay: int, version: int, inner: int, outer: int) -> None:
    edges = vxlan_edges if underlay == 4 else ipv6_edges
    merged = merge_ecn(inner, outer)
    with edges.expect_drops(**({"receive_ecn": 1} if merged is None else {})):
        edges.send_underlay(vxlan(build("in", version, inner)), tos=outer)
        edges.send_underlay(vxlan(good_in))
        came = [packet for _, packet in edges.recv_tun_until(good_in)]
    assert came == ([] if merged is None else [build("in", version, merged)])


@both
@pytest.mark.parametrize("inner", range(4))
@pytest.mark.parametrize("underlay", [4, 6])
def test_out(vxlan_edges: Edges, ipv6_edges: Edges, underlay: int, version: int, inner: int) -> None:
    edges = vxlan_edges if underlay == 4 else ipv6_edges
    packet = build("out", version, inner)
    edges.send_tun(packet)
    payload, _, tos = edges.recv_underlay()
    assert payload[22:] == packet
    assert tos == outer_ecn(inner)  # the DSCP stays inside, as under the kernel's vxlan with tos 0


@both
@pytest.mark.parametrize("inner", range(4))
def test_udp_keeps_marks_inside(udp_edges: Edges, version: int, inner: int) -> None:
    packet = build("out", version, inner)
    udp_edges.send_tun(packet)
    assert udp_edges.recv_underlay()[::2] == (decrement_ttl(packet), 0)


@both
@pytest.mark.parametrize("inner", range(4))
@pytest.mark.parametrize("outer", range(4))
def test_udp_does_not_read_the_outer_mark(udp_edges: Edges, version: int, inner: int, outer: int) -> None:
    packet = build("in", version, inner)
    udp_edges.send_underlay(packet, tos=outer)
    assert udp_edges.recv_tun()[1] == decrement_ttl(packet)


def test_marks_of_one_burst_do_not_mix(stopped_edges: Edges) -> None:
    """Datagrams of one flow with different marks wait in one burst; each keeps its own, in order."""
    marks = [0, 1, 2, 3, 3, 2, 2, 0, 1, 1]
    for ecn in marks:
        stopped_edges.send_tun(build("out", 4, ecn))
    stopped_edges.forwarder.start()
    assert [stopped_edges.recv_underlay()[2] for _ in marks] == marks
