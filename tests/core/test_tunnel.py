"""Super-packets that leave whole, read from the frame that the core gives the TAP; then the kernel's part is played.

The kernel's part is to cut: what comes of a frame must be, byte for byte, what the same super-packet gives on the
sockets' way. What must stay true: the header is checked against a reading of the frame that knows nothing of the core.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from ipaddress import ip_network

import pytest
from hypothesis import given
from scapy.layers.inet import IP, TCP
from scapy.packet import Raw

from dataplane.model import PeerCounters
from tests.core.edges import Edges, gso_ecn, gso_tcp4, gso_tcp6, gso_udp
from tests.core.packets import examples, good_out
from tests.core.partial import leave_partial, transport_packet
from tests.core.super_packets import impossible, super_packets
from tests.core.tap_frames import check_outer, expected_header, read_frame
from tests.core.tap_proof import expect_datagrams, give, prove, tcp_whole
from tests.core.twin.checksum import internet_checksum
from tests.core.twin.ip import IPv4Packet, decrement_ttl
from tests.core.twin.segment import cut


class Ways:
    """The same core twice, with a TAP and without."""

    def __init__(self, family: int) -> None:
        self.whole = Edges("vxlan", family=family, tunnel=True)
        self.trains = Edges("vxlan", family=family)
        for version in (4, 6):
            prove(self.whole, version)
        self.outer_id: int | None = None

    def close(self) -> None:
        self.whole.__exit__()
        self.trains.__exit__()


@pytest.fixture(scope="module", params=[4, 6], ids=lambda family: f"over IPv{family}")
def ways(request: pytest.FixtureRequest) -> Iterator[Ways]:
    made = Ways(request.param)
    yield made
    made.close()


@examples(100)
@given(super_packets())
def test_the_kernel_makes_of_it_what_the_sockets_send(ways: Ways, drawn: tuple[bytes, int, int]) -> None:
    super_data, gso_type, gso_size = drawn
    data, offload = leave_partial(super_data, gso_type=gso_type, gso_size=gso_size)
    segments = cut(super_data, gso_size)
    for edges in (ways.whole, ways.trains):
        edges.send_tun(data, offload)
    by_sockets = [ways.trains.recv_underlay() for _ in segments]
    if len(segments) == 1:
        assert ways.whole.recv_underlay()[0] == by_sockets[0][0]
        assert ways.whole.tap_is_empty()
        return
    frame = read_frame(ways.whole.recv_tap(), 22)
    inner = frame.datagram[22:]
    assert inner == data
    assert frame.header == expected_header(frame, inner, gso_type, gso_size)
    check_outer(frame, ways.whole, super_data)
    if isinstance(frame.outer, IPv4Packet):
        assert ways.outer_id is None or frame.outer.identification == ways.outer_id
        ways.outer_id = (frame.outer.identification + len(segments)) % 2**16
    played = [frame.datagram[:22] + segment for segment in cut(inner, frame.header.gso_size)]
    assert played == [payload for payload, _, _ in by_sockets]
    tos = frame.outer.tos if isinstance(frame.outer, IPv4Packet) else frame.outer.traffic_class
    assert {outer_tos for _, _, outer_tos in by_sockets} == {tos}
    # What is small and of the same flow leaves by the socket of the same port.
    ways.whole.send_tun(segments[0])
    assert ways.whole.recv_underlay()[1] == frame.ports[0]


def test_counters_are_those_of_the_trains() -> None:
    segments = cut(tcp_whole, 1000)
    expected = PeerCounters(tx_packets=10, tx_bytes=sum(map(len, segments)))
    for tunnel in (True, False):
        with Edges("vxlan", tunnel=tunnel) as edges:
            give(edges, tcp_whole)
            edges.wait_for("tx_packets", 10)
            edges.forwarder.stop()
            counters = edges.forwarder.counters()
            assert counters["tx_bytes"] == expected.tx_bytes
            assert (counters["tunnel_sends"], counters["underlay_sends"]) == ((1, 0) if tunnel else (0, 1))
            assert edges.forwarder.peer_counters()[ip_network("10.5.2.0/24")] == expected


def test_a_flow_has_the_port_of_its_socket() -> None:
    """16 sources: super-packet and small packet of one flow agree for many flows, and flows are spread."""
    ports = set()
    with Edges("vxlan", sources=16, tunnel=True) as edges:
        prove(edges)
        for sport in range(1, 60):
            whole = transport_packet(1, 2, 4, True, bytes(3000), sport=sport)
            edges.send_tun(*leave_partial(whole, gso_type=gso_tcp4, gso_size=1000))
            edges.send_tun(transport_packet(1, 2, 4, True, b"", sport=sport))
            port = read_frame(edges.recv_tap(), 22).ports[0]
            assert edges.recv_underlay()[1] == port
            ports.add(port)
    assert len(ports) > 8


def test_what_was_queued_before_leaves_before() -> None:
    """Two equal packets with a super-packet between them: not one train behind it, but a send before and a send after."""
    small = transport_packet(1, 2, 4, True, bytes(100))
    with Edges("vxlan", tunnel=True, start=False) as edges:
        edges.send_tun(small)
        give(edges, tcp_whole)
        edges.send_tun(small)
        edges.forwarder.start()
        assert [edges.recv_underlay()[0][22:] for _ in range(2)] == [small, small]
        assert read_frame(edges.recv_tap(), 22).header.gso_size == 1000
        edges.expect_count("underlay_sends", 2)


def test_a_tap_that_is_gone_is_not_tried_again(tap_edges: Edges) -> None:
    assert "tunnel_gso" in tap_edges.forwarder.offloads
    give(tap_edges, tcp_whole)
    tap_edges.recv_tap()
    fresh, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    tap_edges.tap.close()
    give(tap_edges, tcp_whole)
    assert [tap_edges.recv_underlay()[0][22:] for _ in range(10)] == cut(tcp_whole, 1000)
    with fresh, other:
        # A way that works again under the same number: it would be found if it were tried.
        os.dup2(other.fileno(), tap_edges.core_tap.fileno())
        tap_edges.tap = fresh
        give(tap_edges, tcp_whole)
        expect_datagrams(tap_edges, tcp_whole)
    assert tap_edges.drops() == {}
    tap_edges.expect_count("tunnel_sends", 3)


def test_a_full_tap_is_tried_again(tap_edges: Edges) -> None:
    sent = 0
    while True:
        try:
            tap_edges.core_tap.send(bytes(4000))
        except BlockingIOError:
            break
        sent += 1
    give(tap_edges, tcp_whole)
    assert [tap_edges.recv_underlay()[0][22:] for _ in range(10)] == cut(tcp_whole, 1000)
    for _ in range(sent):
        assert tap_edges.recv_tap() == bytes(4000)
    give(tap_edges, tcp_whole)
    assert read_frame(tap_edges.recv_tap(), 22).header.gso_size == 1000
    assert tap_edges.drops() == {}
    tap_edges.expect_count("tunnel_sends", 3)


@pytest.mark.parametrize("over", [0, 1])
def test_the_longest_that_an_outer_packet_holds(tap_edges: Edges, over: int) -> None:
    whole = transport_packet(1, 2, 4, True, bytes(65535 - 50 - 40 + over))
    give(tap_edges, whole, gso_size=1400)
    if over:
        expect_datagrams(tap_edges, whole, 1400)
    else:
        frame = read_frame(tap_edges.recv_tap(), 22)
        assert len(frame.datagram) + 28 == 65535
    assert tap_edges.drops() == {}


@pytest.mark.parametrize(("length", "frames"), [(1000, 0), (1001, 1)])
def test_one_segment_is_no_super_packet(tap_edges: Edges, length: int, frames: int) -> None:
    whole = transport_packet(1, 2, 6, False, bytes(length))
    give(tap_edges, whole, gso_udp)
    if frames:
        assert read_frame(tap_edges.recv_tap(), 22).header.gso_size == 1000
    else:
        expect_datagrams(tap_edges, whole)
    tap_edges.expect_count("tunnel_sends", 2 + frames)


@pytest.mark.parametrize("version", [4, 6])
def test_segments_above_the_mtu(tap_edges: Edges, version: int) -> None:
    """Refused and answered as without a TAP; without DF they go out whole by the socket, and the underlay cuts them."""
    gso_type, fits = (gso_tcp4, 1410) if version == 4 else (gso_tcp6, 1390)
    whole = transport_packet(1, 2, version, True, bytes(3000))
    with tap_edges.expect_drops(send_too_big=3):
        give(tap_edges, whole, gso_type, fits + 1)
        assert tap_edges.recv_tun()[1]
        give(tap_edges, whole, gso_type, fits)
        assert read_frame(tap_edges.recv_tap(), 22).header.gso_size == fits
    if version == 4:
        whole = bytes(IP(src="10.5.1.9", dst="10.5.2.9") / TCP(flags="A") / Raw(bytes(3000)))
        give(tap_edges, whole, gso_type, fits + 1)
        expect_datagrams(tap_edges, whole, fits + 1)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("tcp", [True, False])
def test_udp_peers_get_no_super_packet(version: int, tcp: bool) -> None:
    """Whoever speaks flannel's udp reads one packet of at most the MTU at a time; nothing in a lease says who can do more."""
    whole = transport_packet(1, 2, version, tcp, bytes(range(250)) * 40)
    kind = (gso_tcp4 if version == 4 else gso_tcp6) if tcp else gso_udp
    with Edges("udp", mtu=1472, tunnel=True) as edges:
        assert "tunnel_gso" not in edges.forwarder.offloads
        give(edges, whole, kind)
        assert [edges.recv_underlay()[0] for _ in range(10)] == [decrement_ttl(one) for one in cut(whole, 1000)]
        assert edges.tap_is_empty()


def test_impossible_requests_never_reach_it(tap_edges: Edges) -> None:
    for packet, offload, packets in impossible.values():
        with tap_edges.expect_drops(send_gso=packets):
            tap_edges.send_tun(packet, offload)
            tap_edges.send_tun(good_out)
            assert tap_edges.recv_underlay_until(good_out) == []
    assert tap_edges.tap_is_empty()


def test_nobody_to_send_to(tap_edges: Edges) -> None:
    """A super-packet for ourselves, for a group, for nobody: dropped for the reasons that single packets are."""
    for destination, reason in (
        ("10.5.1.7", "send_no_route"),
        ("224.0.0.1", "send_multicast"),
        ("9.9.9.9", "send_no_route"),
    ):
        whole = bytes(IP(src="10.5.1.9", dst=destination, flags="DF") / TCP(flags="A") / Raw(bytes(3000)))
        with tap_edges.expect_drops(**{reason: 3}):
            give(tap_edges, whole)
            tap_edges.send_tun(good_out)
            assert tap_edges.recv_underlay_until(good_out) == []
    assert tap_edges.tap_is_empty()


def test_headers_as_long_as_they_get(tap_edges: Edges) -> None:
    """60 bytes of IPv4 and of TCP header, CWR and ECE and the ends of a stream, a segment of 8 bytes."""
    options = [
        ("Timestamp", (1, 2)),
        ("NOP", None),
        ("NOP", None),
        ("SAck", (1, 2, 3, 4, 5, 6)),
        ("NOP", None),
        ("NOP", None),
    ]
    tcp = TCP(flags="FPAEC", options=options)
    assert len(bytes(tcp)) == 60
    whole = bytes(IP(src="10.5.1.9", dst="10.5.2.9", tos=3, options=bytes([1] * 40)) / tcp / Raw(bytes(101)))
    give(tap_edges, whole, gso_tcp4 | gso_ecn, 8)
    frame = read_frame(tap_edges.recv_tap(), 22)
    assert frame.header == expected_header(frame, frame.datagram[22:], gso_tcp4 | gso_ecn, 8)
    assert frame.header.hdr_len == 64 + 120
    assert internet_checksum(frame.datagram[22:82]) == 0
    assert len(cut(frame.datagram[22:], 8)) == 13


def test_many_workers_share_the_tap() -> None:
    with Edges("vxlan", workers=4, tunnel=True) as edges:
        prove(edges)
        for queue in range(4):
            for _ in range(10):
                edges.send_tun(*leave_partial(tcp_whole, gso_type=gso_tcp4, gso_size=1000), queue=queue)
        frames = [read_frame(edges.recv_tap(), 22) for _ in range(40)]
        assert {frame.datagram[22:][60:] for frame in frames} == {tcp_whole[60:]}
        edges.wait_for("tunnel_sends", 41)


def test_not_without_what_it_stands_on() -> None:
    """No TAP, no virtio-net headers, or not wanted: the core cuts."""
    for options in ({"tunnel": False}, {"tunnel": True, "vnet_hdr": False}, {"tunnel": True, "offloads": frozenset()}):
        with Edges("vxlan", **options) as edges:
            assert "tunnel_gso" not in edges.forwarder.offloads
