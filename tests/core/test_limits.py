"""What happens when an edge cannot keep up, and how much the core answers on its own."""

from __future__ import annotations

import errno
import os
import socket
import time

from scapy.layers.inet import IP

from dataplane.core import all_offloads
from dataplane.lab.commands import wait_for
from tests.core.edges import Edges, patience_s, vxlan
from tests.core.packets import good_in, good_out, inward, outward


def test_a_host_that_does_not_read() -> None:
    """The TUN's queue is full: packets are dropped and counted, and the sum is right to the last one."""
    with Edges("vxlan", offloads=all_offloads - {"coalesce"}, start=False) as edges:
        edges.core_tuns[0].setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)
        packets = [bytes(inward(payload=bytes(1000), id=index)) for index in range(300)]
        for packet in packets:
            edges.send_underlay(vxlan(packet))
        edges.forwarder.start()
        wait_for(lambda: edges.forwarder.counters()["tun_writes"] + edges.drops().get("tun_full", 0) >= 300, 90, "all")
        edges.forwarder.stop()
        writes = edges.forwarder.counters()["tun_writes"]
        assert 0 < writes < 300
        assert edges.drops() == {"tun_full": 300 - writes}
        assert edges.forwarder.counters()["rx_packets"] == writes
        assert [edges.recv_tun()[1] for _ in range(writes)] == packets[:writes]


def test_what_the_kernel_drops_at_the_socket_is_counted() -> None:
    """Nobody reads the socket, so its buffer overflows; the kernel's count is ours."""
    with Edges("vxlan", start=False) as edges:
        room = 20_000
        for fd in edges.config.receive_fds:
            with socket.socket(fileno=os.dup(fd)) as receive:
                receive.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, room)
        for _ in range(200):
            edges.send_underlay(vxlan(good_in))
        lost = edges.drops()["receive_socket"]
        assert 0 < lost < 200
        edges.forwarder.start()
        edges.wait_for("rx_packets", 200 - lost)


def test_icmp_errors_have_a_budget_of_each_kind(vxlan_edges: Edges) -> None:
    """50 at once and 1,000 a second, however long this takes; one kind does not use up another's."""
    unroutable, big = bytes(outward(dst="10.5.9.9")), bytes(outward(payload=bytes(1450)))
    before, drops = vxlan_edges.forwarder.counters()["icmp_sent"], vxlan_edges.drops().get("icmp_limited", 0)
    start = time.monotonic()
    for _ in range(10):
        for _ in range(200):
            vxlan_edges.send_tun(unroutable)
        vxlan_edges.send_tun(good_out)
        assert vxlan_edges.recv_underlay_until(good_out) == []
    vxlan_edges.send_tun(big)
    vxlan_edges.send_tun(good_out)
    vxlan_edges.recv_underlay_until(good_out)
    elapsed = time.monotonic() - start
    sent = vxlan_edges.forwarder.counters()["icmp_sent"] - before
    assert 50 <= sent <= 52 + 1000 * elapsed
    assert sent + vxlan_edges.drops().get("icmp_limited", 0) - drops == 2001
    answers = [IP(vxlan_edges.recv_tun()[1]).payload for _ in range(sent)]
    assert [(answer.type, answer.code) for answer in answers] == [(3, 0)] * (sent - 1) + [(3, 4)]


def test_a_worker_whose_device_is_gone_says_so() -> None:
    with Edges("vxlan") as edges:
        worker = edges.forwarder._threads[0]
        edges.tuns[0].close()
        worker.join(patience_s)
        assert edges.forwarder.failures == (f"worker 0: {os.strerror(errno.EPROTO)}",)
