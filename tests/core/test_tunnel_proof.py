"""Which peers get super-packets whole: one probe, its acknowledgement proves them, and what was sent again refuses them."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import pytest

from dataplane.model import Peer
from tests.core.edges import Edges, gso_udp
from tests.core.packets import good_out
from tests.core.partial import transport_packet
from tests.core.tap_proof import acknowledge, expect_datagrams, give, probe, probe_whole, prove, tcp_whole
from tests.core.twin.segment import cut

udp_whole = transport_packet(1, 2, 4, False, bytes(3000))


@pytest.fixture
def new_edges() -> Iterator[Edges]:
    """Nothing is known of node 2."""
    with Edges("vxlan", tunnel=True) as edges:
        yield edges


def gets_all(edges: Edges) -> bool:
    """Whether a UDP super-packet leaves whole, which is for proven peers alone."""
    before = edges.forwarder.counters()["tunnel_sends"]
    give(edges, udp_whole, gso_udp)
    edges.send_tun(good_out)
    segments = edges.recv_underlay_until(good_out)
    if segments:
        assert segments == cut(udp_whole, 1000)
        return False
    edges.recv_tap()
    edges.expect_count("tunnel_sends", before + 1)
    return True


def test_one_probe_and_all_else_is_cut(new_edges: Edges) -> None:
    give(new_edges, udp_whole, gso_udp)
    expect_datagrams(new_edges, udp_whole)
    probe(new_edges)
    give(new_edges, udp_whole, gso_udp)
    expect_datagrams(new_edges, udp_whole)
    give(new_edges, tcp_whole)
    expect_datagrams(new_edges, tcp_whole)


def test_proven_by_its_acknowledgement(new_edges: Edges) -> None:
    probe(new_edges)
    acknowledge(new_edges, 3099)
    acknowledge(new_edges, 3100, dport=8)
    acknowledge(new_edges, 3100, flags="S")
    assert not gets_all(new_edges)
    acknowledge(new_edges, 3100)
    assert gets_all(new_edges)


@pytest.mark.parametrize(
    ("seq", "length", "whole"), [(100, 1, True), (3099, 1, False), (3099, 2000, True), (0, 101, False)]
)
def test_sent_again_is_refused(new_edges: Edges, seq: int, length: int, whole: bool) -> None:
    """Whatever of the probe is sent again; acknowledged after that it proves nothing."""
    probe(new_edges)
    again = transport_packet(1, 2, 4, True, bytes(length), sport=9, seq=seq)
    give(new_edges, again) if whole and length > 1000 else new_edges.send_tun(again)
    assert [new_edges.recv_underlay()[0][22:] for _ in cut(again, 1000)]
    acknowledge(new_edges, 5099)
    assert not gets_all(new_edges)
    give(new_edges, probe_whole)
    expect_datagrams(new_edges, probe_whole)


@pytest.mark.parametrize(("seq", "length", "sport"), [(3100, 500, 9), (0, 100, 9), (100, 0, 9), (100, 500, 8)])
def test_what_is_no_repetition(new_edges: Edges, seq: int, length: int, sport: int) -> None:
    probe(new_edges)
    other = transport_packet(1, 2, 4, True, bytes(length), sport=sport, seq=seq)
    new_edges.send_tun(other)
    assert new_edges.recv_underlay()[0][22:] == other
    acknowledge(new_edges, 3100)
    assert gets_all(new_edges)


def test_sequence_numbers_that_begin_anew(new_edges: Edges) -> None:
    whole = transport_packet(1, 2, 4, True, bytes(3000), sport=9, seq=2**32 - 1000)
    give(new_edges, whole)
    new_edges.recv_tap()
    acknowledge(new_edges, 1999)
    assert not gets_all(new_edges)
    acknowledge(new_edges, 2000)
    assert gets_all(new_edges)


def test_each_peer_for_itself(tap_edges: Edges) -> None:
    whole = transport_packet(1, 3, 4, False, bytes(3000))
    give(tap_edges, whole, gso_udp)
    assert [tap_edges.recv_underlay(at=tap_edges.third)[0][22:] for _ in range(3)] == cut(whole, 1000)
    assert tap_edges.tap_is_empty()


def test_another_vtep_in_its_place_is_unknown(tap_edges: Edges) -> None:
    assert gets_all(tap_edges)
    tap_edges.forwarder.update(
        [Peer(ip_network("10.5.2.0/24"), ip_address("127.0.0.2"), bytes.fromhex("020000000022"))]
    )
    tap_edges.send_tun(good_out)
    while tap_edges.recv_underlay()[0][8:14] != bytes.fromhex("020000000022"):
        tap_edges.send_tun(good_out)
    assert not gets_all(tap_edges)


def test_a_probe_that_cannot_leave_is_none(new_edges: Edges) -> None:
    sent = 0
    while True:
        try:
            new_edges.core_tap.send(bytes(4000))
        except BlockingIOError:
            break
        sent += 1
    give(new_edges, tcp_whole)
    assert [new_edges.recv_underlay()[0][22:] for _ in range(10)] == cut(tcp_whole, 1000)
    for _ in range(sent):
        new_edges.recv_tap()
    prove(new_edges)
    assert gets_all(new_edges)
