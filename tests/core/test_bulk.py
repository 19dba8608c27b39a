"""A queue that is full again and again is served by the bulk worker, and comes back when it is calm; nothing is lost or overtaken."""

from __future__ import annotations

import pytest

from dataplane.core import all_offloads
from tests.core.edges import Edges, vxlan
from tests.core.packets import good_in, good_out, inward, outward

flood = 3000  # packets: more than sixteen bursts are


@pytest.mark.parametrize("others", [True, False], ids=["others wait", "alone"])
def test_a_flooded_tun_queue(others: bool) -> None:
    packets = [bytes(outward(payload=index.to_bytes(4, "big"), id=index)) for index in range(flood)]
    with Edges("vxlan", queues=2, start=False) as edges:
        for packet in packets:
            edges.send_tun(packet)
        if others:
            edges.send_tun(good_out, queue=1)
        edges.forwarder.start()
        came = [edges.recv_underlay()[0][22:] for _ in range(flood + others)]
        assert [packet for packet in came if packet != good_out] == packets
        assert edges.forwarder.counters()["handovers"] == (1 if others else 0)
        for packet in packets[:100]:
            edges.send_tun(packet)
            assert edges.recv_underlay()[0][22:] == packet
        assert edges.forwarder.counters()["handovers"] == (2 if others else 0)
        assert edges.drops() == {}


def test_a_flooded_socket() -> None:
    """The kernel chooses the sockets by ports: some of sixteen senders meet another socket than the flood does."""
    packets = [bytes(inward(payload=index.to_bytes(4, "big"), id=index)) for index in range(flood)]
    with Edges("vxlan", queues=2, offloads=all_offloads - {"coalesce"}, start=False) as edges:
        for _ in range(16):
            edges.send_underlay(vxlan(good_in), source=edges._udp("127.0.0.2", 0))
        for packet in packets:
            edges.send_underlay(vxlan(packet))
        edges.forwarder.start()
        came = [edges.recv_tun()[1] for _ in range(flood + 16)]
        assert [packet for packet in came if packet != good_in] == packets
        assert edges.forwarder.counters()["handovers"] == 1
        for packet in packets[:100]:
            edges.send_underlay(vxlan(packet))
            assert edges.recv_tun()[1] == packet
        assert edges.forwarder.counters()["handovers"] == 2
        assert edges.drops() == {}


def test_a_forwarder_ends_in_the_middle_of_a_flood() -> None:
    with Edges("vxlan", queues=2, start=False) as edges:
        for index in range(flood):
            edges.send_tun(bytes(outward(id=index)))
        edges.send_tun(good_out, queue=1)
        edges.forwarder.start()
        edges.wait_for("handovers", 1)
        edges.forwarder.stop()
        assert edges.forwarder.failures == ()
