"""What a node's own processes answer to a pod: the inner source is the node's own address, the one that its datagrams come from.

What must stay true: that one address and no other is admitted beside the sender's subnets, and only from a VTEP of that sender.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from scapy.packet import Packet

from dataplane.model import Peer
from tests.core.edges import Edges, own_mac, peer_mac, third_mac, vxlan
from tests.core.packets import good_in, inward
from tests.core.twin.ip import decrement_ttl

node2 = inward(src="127.0.0.2", payload=b"kubelet")


def comes(edges: Edges, packet: Packet, source: bytes = peer_mac) -> None:
    """The packet comes out, and is the sender's in its counters."""
    data = bytes(packet)
    with edges.expect_drops():
        edges.send_underlay(vxlan(data, source=source) if edges.backend == "vxlan" else data)
        assert edges.recv_tun()[1] == (data if edges.backend == "vxlan" else decrement_ttl(data))


def is_refused(edges: Edges, reason: str, packet: Packet, source: bytes = peer_mac) -> None:
    as_sent = (lambda data, mac: vxlan(data, source=mac)) if edges.backend == "vxlan" else (lambda data, mac: data)
    marker = bytes(inward(edges.family, payload=b"marker"))
    with edges.expect_drops(**{f"receive_{reason}": 1}):
        edges.send_underlay(as_sent(bytes(packet), source))
        edges.send_underlay(as_sent(marker, peer_mac))
        assert edges.recv_tun_until(marker if edges.backend == "vxlan" else decrement_ttl(marker)) == []


@pytest.mark.parametrize("backend", ["vxlan", "udp"])
def test_the_senders_own_address(backend: str) -> None:
    with Edges(backend) as edges:
        comes(edges, node2)
        edges.settled()
        counters = edges.forwarder.peer_counters()
        mine = [counters[ip_network(prefix)].rx_packets for prefix in ("10.5.2.0/24", "fd05:2::/64")]
        assert (sum(mine), counters[ip_network("10.5.3.0/24")].rx_packets) == (1, 0)


@pytest.mark.parametrize("backend", ["vxlan", "udp"])
def test_the_senders_own_ipv6_address(backend: str) -> None:
    with Edges(backend, family=6) as edges:
        comes(edges, inward(6, src="::1", payload=b"kubelet"))
        is_refused(edges, "inner_source", inward(6, src="::2"))
        is_refused(edges, "inner_source", inward(src="127.0.0.2"))  # in no lease that is reached over IPv6


@pytest.mark.parametrize("backend", ["vxlan", "udp"])
@pytest.mark.parametrize(
    "source",
    ["127.0.0.3", "127.0.0.1", "127.0.0.9", "127.0.0.0"],
    ids=["another node's", "our own", "a stranger's", "a neighbour's"],
)
def test_no_other_address(backend: str, source: str) -> None:
    with Edges(backend) as edges:
        is_refused(edges, "inner_source", inward(src=source))
        is_refused(edges, "inner_source", inward(6, src=f"::ffff:{source}"))
        is_refused(edges, "inner_source", inward(6, src=f"::{source}"))


@pytest.mark.parametrize("reason", ["inner_destination", "multicast"])
def test_only_to_our_pods(vxlan_edges: Edges, reason: str) -> None:
    destination = {"inner_destination": "127.0.0.1", "multicast": "10.5.1.255"}[reason]
    is_refused(vxlan_edges, reason, inward(src="127.0.0.2", dst=destination))


def test_any_vtep_of_the_sender_and_no_other() -> None:
    second_mac = bytes.fromhex("020000000022")
    with Edges("vxlan") as edges:
        is_refused(edges, "inner_mac", node2, third_mac)
        is_refused(edges, "inner_mac", node2, own_mac)
        is_refused(edges, "inner_mac", node2, second_mac)
        edges.forwarder.update([Peer(ip_network("10.5.4.0/24"), ip_address("127.0.0.2"), second_mac)])
        comes(edges, node2)
        comes(edges, node2, second_mac)
        edges.settled()
        assert edges.forwarder.peer_counters()[ip_network("10.5.4.0/24")].rx_packets == 1
        edges.forwarder.update([], [ip_network("10.5.4.0/24")])
        is_refused(edges, "inner_mac", node2, second_mac)


def test_the_address_goes_with_the_lease() -> None:
    with Edges("vxlan") as edges:
        edges.forwarder.update(
            [Peer(ip_network("10.5.2.0/24"), ip_address("127.0.0.3"), third_mac)], [ip_network("fd05:2::/64")]
        )
        with edges.expect_drops(receive_unknown_sender=1):
            edges.send_underlay(vxlan(bytes(node2)))
            edges.send_underlay(vxlan(good_in, source=third_mac), source=edges.third)
            assert edges.recv_tun()[1] == good_in
