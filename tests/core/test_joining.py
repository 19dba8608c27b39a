"""Received packets joined for the TUN: cutting what was joined gives back, byte for byte, what was sound, in order.

The only bytes that may differ are the ID (and with it the header checksum) of IPv4 packets with DF, which RFC 6864
section 4.1 gives no meaning; order is kept within a flow, and fragments, whose flow nobody knows, keep their place in all.
"""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP
from scapy.packet import Raw

from dataplane.core import all_offloads
from tests.core.edges import Edges, Offload, gso_tcp4, gso_tcp6, gso_udp, needs_csum, vxlan
from tests.core.joined import as_the_host_sees, by_flow
from tests.core.packets import examples, sound
from tests.core.partial import leave_partial, transport_packet
from tests.core.streams import Datagram, Flow, streams
from tests.core.twin.segment import cut, finish_transport

marker = bytes(IP(src="10.5.2.200", dst="10.5.1.200") / ICMP() / Raw(b"the end"))


def claimed_bytes(wire: bytes) -> int:
    """What the inner IP header of a VXLAN datagram says the whole datagram has."""
    inner = wire[22:]
    return 22 + (int.from_bytes(inner[2:4]) if inner[0] >> 4 == 4 else 40 + int.from_bytes(inner[4:6]))


def deliver(edges: Edges, stream: list[Datagram]) -> list[tuple[Offload, bytes]]:
    """Send the stream and the marker before the core starts, so that it meets all in as few bursts as it can.

    A cut datagram whose header happens to claim the bytes of its whole train goes alone: for what the core makes of such
    a train see test_a_cut_datagram_takes_no_other_with_it.
    """
    edges.renew(start=False)
    train: list[bytes] = []

    def send() -> None:
        while len(train) > 1 and claimed_bytes(train[0]) == sum(map(len, train)):
            edges.send_underlay(train.pop(0))
        edges.send_train(train)
        train.clear()

    for wire in [*[vxlan(one.wire) for one in stream], vxlan(marker)]:
        is_full = len(train) == 64 or (len(train) + 1) * len(wire) > 65000
        if train and (is_full or len(wire) > len(train[0]) or len(train[-1]) < len(train[0])):
            send()
        train.append(wire)
    send()
    edges.forwarder.start()
    return edges.recv_tun_until(marker)


@examples(300)
@given(streams())
def test_cut_again_it_is_what_came(stopped_edges: Edges, stream: list[Datagram]) -> None:
    writes = deliver(stopped_edges, stream)
    expected = [one.comes_as for one in stream if one.comes_as is not None]
    assert by_flow(as_the_host_sees(writes)) == by_flow(expected)
    drops = stopped_edges.drops()
    assert drops.pop("receive_malformed", 0) + drops.pop("receive_checksum", 0) + drops.pop("receive_short", 0) == len(
        stream
    ) - len(expected)
    assert drops == {}
    assert stopped_edges.settled()["rx_packets"] == len(expected) + 1


@examples(60)
@given(streams(), st.sampled_from(["tun_gso", "tun_uso", "udp_gro", "coalesce", "everything", "vnet_hdr"]))
def test_without_one_offload(stream: list[Datagram], missing: str) -> None:
    offloads = frozenset() if missing == "everything" else all_offloads - {missing}
    with Edges("vxlan", offloads=offloads, vnet_hdr=missing != "vnet_hdr", start=False) as edges:
        writes = deliver(edges, stream)
        expected = [one.comes_as for one in stream if one.comes_as is not None]
        assert by_flow(as_the_host_sees(writes)) == by_flow(expected)
        if missing in ("tun_gso", "coalesce", "everything", "vnet_hdr"):
            assert all(offload.gso_type == 0 for offload, _ in writes)


def in_order(flow: Flow, count: int, size: int = 1000) -> list[Datagram]:
    packets = [flow.packet(bytes([index % 256]) * size) for index in range(count)]
    return [Datagram(packet, packet) for packet in packets]


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("is_tcp", [True, False])
def test_good_trains_are_joined(stopped_edges: Edges, version: int, is_tcp: bool) -> None:
    """Not only harmless but useful: 60 segments of two interleaved flows are two writes."""
    flows = [Flow(version, is_tcp, port, True, 2**32 - 5000) for port in (1, 3)]  # in different buckets
    stream = [one for pair in zip(*(in_order(flow, 30) for flow in flows), strict=True) for one in pair]
    writes = deliver(stopped_edges, stream)
    gso_type = gso_udp if not is_tcp else gso_tcp4 if version == 4 else gso_tcp6
    headers = (20 if version == 4 else 40) + (32 if is_tcp else 8)
    start = 20 if version == 4 else 40
    assert [offload for offload, _ in writes] == [
        Offload(needs_csum, gso_type, headers, 1000, start, 16 if is_tcp else 6)
    ] * 2
    assert by_flow(as_the_host_sees(writes)) == by_flow(one.wire for one in stream)


def test_tiny_segments_fill_many_bursts(stopped_edges: Edges) -> None:
    """2,000 one-byte segments of one flow: far more pieces than one writev takes."""
    stream = in_order(Flow(4, True, 1, True, 1), 2000, 1)
    writes = deliver(stopped_edges, stream)
    assert by_flow(as_the_host_sees(writes)) == by_flow(one.wire for one in stream)
    assert stopped_edges.drops() == {}
    assert len(writes) < 100


def test_a_run_never_passes_64_kilobytes(stopped_edges: Edges) -> None:
    stream = in_order(Flow(4, True, 1, True, 1), 150, 1398)
    writes = deliver(stopped_edges, stream)
    assert by_flow(as_the_host_sees(writes)) == by_flow(one.wire for one in stream)
    assert all(len(data) <= 65535 for _, data in writes)
    assert len(writes) <= 8


def test_udp_keeps_its_ids(udp_trains: Edges) -> None:
    """The udp wire format: every datagram has its TTL one lower, trains are joined all the same."""
    stream = in_order(Flow(4, True, 1, True, 1), 20)
    udp_trains.send_train([one.wire for one in stream])
    udp_trains.send_underlay(marker)
    udp_trains.forwarder.start()
    came = as_the_host_sees(udp_trains.recv_tun_until(sound(marker[:8] + b"\x3f" + marker[9:])))
    assert [packet[8] for packet in came] == [63] * 20
    assert [packet[20:] for packet in came] == [one.wire[20:] for one in stream]


def test_a_cut_datagram_takes_no_other_with_it(vxlan_edges: Edges) -> None:
    """A train whose first datagram was cut by exactly the length of the rest still is two datagrams, and the second whole."""
    after = bytes(IP(src="10.5.2.9", dst="10.5.1.9") / ICMP() / Raw(b"whole"))
    cut_off = bytes(IP(src="10.5.2.9", dst="10.5.1.9") / ICMP() / Raw(bytes(200)))[: -len(vxlan(after))]
    with vxlan_edges.expect_drops(receive_malformed=1):
        vxlan_edges.send_train([vxlan(cut_off), vxlan(after)])
        vxlan_edges.send_underlay(vxlan(marker))
        assert [packet for _, packet in vxlan_edges.recv_tun_until(marker)] == [after]


# Super-packets that come whole, as a kernel vxlan on a link with offloads (veth) sends them.


@examples(60)
@given(
    st.sampled_from([4, 6]),
    st.integers(1451, 60000),
    st.sampled_from([all_offloads, all_offloads - {"tun_gso"}, frozenset()]),
    st.booleans(),
)
def test_uncut_tcp(version: int, length: int, offloads: frozenset[str], is_partial: bool) -> None:
    payload = bytes(index * 7 % 251 for index in range(length))
    whole = transport_packet(2, 1, version, True, payload, flags="PA", seq=2**32 - 3000)
    fits = 1450 - (40 if version == 4 else 60)
    with Edges("vxlan", offloads=offloads) as edges:
        edges.send_underlay(vxlan(leave_partial(whole)[0] if is_partial else whole))
        edges.send_underlay(vxlan(marker))
        writes = edges.recv_tun_until(marker)
        if "tun_gso" in offloads:
            assert [(offload.gso_size, len(data)) for offload, data in writes] == [(fits, len(whole))]
        else:
            assert {offload for offload, _ in writes} == {Offload()}
        assert as_the_host_sees(writes) == cut(whole, fits)
        assert edges.drops() == {}


@pytest.mark.parametrize(
    "offloads", [all_offloads, all_offloads - {"tun_uso"}, frozenset()], ids=["all", "no uso", "none"]
)
def test_uncut_udp_without_a_hint(offloads: frozenset[str]) -> None:
    """A UDP datagram is one message: longer than the MTU and not cut by its sender, it is carried whole."""
    whole = transport_packet(2, 1, 4, False, bytes(3000))
    with Edges("vxlan", offloads=offloads) as edges:
        edges.send_underlay(vxlan(whole))
        assert edges.recv_tun() == (Offload(), whole)


def test_partial_checksums(vxlan_edges: Edges) -> None:
    """A sender on this very machine may leave the transport checksum to a device that never comes: accepted."""
    for version in (4, 6):
        for is_tcp in (True, False):
            whole = transport_packet(2, 1, version, is_tcp, b"some payload")
            partial, offload = leave_partial(whole)
            vxlan_edges.send_underlay(vxlan(partial))
            seen, data = vxlan_edges.recv_tun()
            assert as_the_host_sees([(seen, data)]) == [whole]
            assert seen[:1] + seen[4:] == offload[:1] + offload[4:]
            with Edges("vxlan", offloads=frozenset(), vnet_hdr=False) as edges:
                edges.send_underlay(vxlan(partial))
                assert edges.recv_tun()[1] == whole == finish_transport(partial)
