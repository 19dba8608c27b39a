"""What a peer is given by the TAP, and how it is proven."""

from __future__ import annotations

from typing import Any

from tests.core.edges import Edges, gso_tcp4, gso_tcp6, vxlan, vxlan_out
from tests.core.partial import leave_partial, transport_packet
from tests.core.twin.segment import cut


def give(edges: Edges, whole: bytes, gso_type: int = gso_tcp4, gso_size: int = 1000) -> None:
    edges.send_tun(*leave_partial(whole, gso_type=gso_type, gso_size=gso_size))


def expect_datagrams(edges: Edges, whole: bytes, gso_size: int = 1000) -> None:
    """The super-packet came out cut, and nothing at the TAP."""
    assert [edges.recv_underlay()[0] for _ in cut(whole, gso_size)] == [
        vxlan_out + (b"\x86\xdd" if segment[0] >> 4 == 6 else b"\x08\x00") + segment for segment in cut(whole, gso_size)
    ]
    assert edges.tap_is_empty()


def prove(edges: Edges, version: int = 4, *, queue: int = 0) -> None:
    """Node 2 takes a super-packet whole and says so: from here on it gets them."""
    probe = transport_packet(1, 2, version, True, bytes(3000), sport=9, seq=100)
    edges.send_tun(*leave_partial(probe, gso_type=gso_tcp4 if version == 4 else gso_tcp6, gso_size=1000), queue=queue)
    edges.recv_tap()
    acknowledge(edges, 3100, version)


def acknowledge(edges: Edges, number: int, version: int = 4, **tcp: Any) -> None:
    """An ACK from node 2 in the flow of `prove`, seen to have come in."""
    ack = transport_packet(2, 1, version, True, b"", **{"sport": 6, "dport": 9, "ack": number, **tcp})
    edges.send_underlay(vxlan(ack))
    assert edges.recv_tun()[1] == ack


tcp_whole = transport_packet(1, 2, 4, True, bytes(range(250)) * 40)


def probe(edges: Edges) -> None:
    edges.send_tun(*leave_partial(probe_whole, gso_type=gso_tcp4, gso_size=1000))
    edges.recv_tap()


probe_whole = transport_packet(1, 2, 4, True, bytes(3000), sport=9, seq=100)
