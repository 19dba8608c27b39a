"""A super-packet that is dropped counts as the packets that it is, as one that is carried does.

What a sender offers is then what is delivered and what is counted, whoever joined the packets on their way.
"""

from __future__ import annotations

import socket
import struct

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from dataplane.core import all_offloads
from tests.core.edges import UDP_SEGMENT, Edges, gso_tcp4, gso_tcp6, gso_udp, third_mac, vxlan
from tests.core.packets import good_in, good_out
from tests.core.partial import leave_partial, transport_packet
from tests.core.twin.ip import decrement_ttl
from tests.core.twin.segment import cut

kinds = pytest.mark.parametrize(("version", "is_tcp"), [(4, True), (4, False), (6, True), (6, False)])
payload = bytes(range(250)) * 40


def super_packet(version: int, is_tcp: bool, **fields: object) -> bytes:
    """From node 2 to node 1, but for what `fields` say of the IP header."""
    if version == 4:
        header = IP(**{"src": "10.5.2.9", "dst": "10.5.1.9", "flags": "DF", **fields})
    else:
        header = IPv6(**{"src": "fd05:2::9", "dst": "fd05:1::9", **fields})
    return bytes(header / (TCP(flags="A") if is_tcp else UDP()) / Raw(payload))


def gso_type_of(version: int, is_tcp: bool) -> int:
    return gso_udp if not is_tcp else gso_tcp4 if version == 4 else gso_tcp6


@kinds
def test_towards_the_underlay(vxlan_edges: Edges, version: int, is_tcp: bool) -> None:
    gso_type = gso_type_of(version, is_tcp)
    nobody, group = ("10.5.99.9", "224.0.0.5") if version == 4 else ("fd05:99::9", "ff02::5")
    for destination, reason in ((nobody, "send_no_route"), (group, "send_multicast")):
        whole = super_packet(version, is_tcp, dst=destination)
        with vxlan_edges.expect_drops(**{reason: 10}):
            vxlan_edges.send_tun(*leave_partial(whole, gso_type=gso_type, gso_size=1000))
            if reason == "send_no_route":
                vxlan_edges.recv_tun()  # the answer: one
            vxlan_edges.send_tun(good_out)
            assert vxlan_edges.recv_underlay_until(good_out) == []


@kinds
def test_that_the_hop_uses_up(udp_edges: Edges, version: int, is_tcp: bool) -> None:
    whole = transport_packet(1, 2, version, is_tcp, payload)
    ttl_at = 8 if version == 4 else 7
    header = (IP if version == 4 else IPv6)(whole)
    if version == 4:
        del header.chksum
    setattr(header, "ttl" if version == 4 else "hlim", 1)
    data, offload = leave_partial(bytes(header), gso_type=gso_type_of(version, is_tcp), gso_size=1000)
    assert data[ttl_at] == 1
    with udp_edges.expect_drops(send_ttl=10):
        udp_edges.send_tun(data, offload)
        udp_edges.recv_tun()
        udp_edges.send_tun(good_out)
        assert udp_edges.recv_underlay_until(decrement_ttl(good_out)) == []


def arrive(edges: Edges, datagram: bytes, is_tcp: bool, source: socket.socket | None = None) -> None:
    """As the kernel hands over what nobody cut: of UDP it tells the segments' size, 1000; of TCP nothing."""
    if is_tcp:
        edges.send_underlay(datagram, source=source)
    else:
        control = [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("H", 1000))]
        (source or edges.peer).sendmsg([datagram], control, 0, edges.target)


def put(data: bytes, at: int, value: bytes) -> bytes:
    return data[:at] + value + data[at + len(value) :]


@kinds
def test_towards_the_overlay(vxlan_edges: Edges, version: int, is_tcp: bool) -> None:
    others, outside = ("10.5.3.9", "10.5.9.9") if version == 4 else ("fd05:3::9", "fd05:9::9")
    group = "224.0.0.5" if version == 4 else "ff02::5"
    whole = super_packet(version, is_tcp)
    good = vxlan(whole)
    # TCP: cut to the MTU of 1450.
    packets = len(cut(whole, 1410 if version == 4 else 1390)) if is_tcp else 10
    refused = (
        ("vxlan_flags", put(good, 0, b"\0")),
        ("vni", put(good, 6, b"\7")),
        ("inner_mac", vxlan(whole, source=third_mac)),
        ("inner_mac", vxlan(whole, to=third_mac)),
        ("inner_type", put(good, 20, b"\x08\x06")),
        ("inner_source", vxlan(super_packet(version, is_tcp, src=others))),
        ("inner_destination", vxlan(super_packet(version, is_tcp, dst=outside))),
        ("multicast", vxlan(super_packet(version, is_tcp, dst=group))),
        ("checksum", put(good, len(good) - 1, b"\0")),
    )
    for reason, datagram in refused:
        with vxlan_edges.expect_drops(**{f"receive_{reason}": packets}):
            arrive(vxlan_edges, datagram, is_tcp)
            vxlan_edges.send_underlay(vxlan(good_in))
            assert vxlan_edges.recv_tun_until(good_in) == []
    with vxlan_edges.expect_drops(receive_unknown_sender=packets):
        arrive(vxlan_edges, good, is_tcp, vxlan_edges.stranger)
        vxlan_edges.send_underlay(vxlan(good_in))
        assert vxlan_edges.recv_tun_until(good_in) == []


@kinds
@pytest.mark.parametrize("offloads", [all_offloads, all_offloads - {"tun_gso", "tun_uso"}], ids=["joined", "cut"])
def test_that_the_host_does_not_take(version: int, is_tcp: bool, offloads: frozenset[str]) -> None:
    """The TUN is full: what is written and what is refused are together what came, and only the former is received."""
    whole = super_packet(version, is_tcp)
    each = len(cut(whole, 1410 if version == 4 else 1390)) if is_tcp else 10
    with Edges("vxlan", offloads=offloads, start=False) as edges:
        edges.core_tuns[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 40_000)
        for _ in range(12):
            arrive(edges, vxlan(whole), is_tcp)
        edges.forwarder.start()
        edges.settled()
        edges.forwarder.stop()
        lost, carried = edges.drops(), edges.forwarder.counters()["rx_packets"]
        assert lost.pop("send_malformed") == 1  # what settles
        assert lost == {"tun_full": 12 * each - carried}
        assert 0 < carried < 12 * each
        assert sum(peer.rx_packets for peer in edges.forwarder.peer_counters().values()) == carried
