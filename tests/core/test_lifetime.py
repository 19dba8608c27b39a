"""Starting, stopping and closing, with one worker and several: promptly, and nothing is left behind or grows."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import replace
from ipaddress import IPv4Network
from itertools import chain
from pathlib import Path

import pytest

from dataplane.core import Forwarder, max_queues, max_workers
from dataplane.errors import CoreError
from dataplane.model import Peer
from tests.core.edges import Edges, patience_s, vxlan
from tests.core.packets import good_in, good_out, inward, outward


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def tasks() -> int:
    """Threads as the kernel counts them, so that one made in C would show."""
    return len(os.listdir("/proc/self/task"))


def resident_kb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE") // 1024


def settled(count: int) -> bool:
    """A joined thread may be in the task list for another moment."""
    deadline = time.monotonic() + patience_s
    while tasks() > count and time.monotonic() < deadline:
        os.sched_yield()
    return tasks() <= count


@pytest.mark.parametrize("workers", [1, 4, max_workers])
def test_all_workers_carry(workers: int) -> None:
    with Edges("vxlan", workers=workers) as edges:
        for queue in range(workers):
            packet = bytes(outward(payload=bytes([queue])))
            edges.send_tun(packet, queue=queue)
            assert edges.recv_underlay()[0][22:] == packet
        came = []
        for port in range(64):  # the kernel spreads senders over the sockets
            with edges._udp("127.0.0.2", 0) as sender:
                edges.send_underlay(vxlan(bytes(inward(payload=bytes([port])))), source=sender)
                came.append(edges.recv_tun()[1][-1])
        assert came == list(range(64))
        assert edges.drops() == {}
        edges.forwarder.stop()
        counters = edges.forwarder.counters()
        assert (counters["tx_packets"], counters["rx_packets"]) == (workers, 64)
        assert sum(peer.rx_packets for peer in edges.forwarder.peer_counters().values()) == 64


@pytest.mark.parametrize("workers", [1, 4])
def test_nothing_is_left_behind(workers: int) -> None:
    with Edges("vxlan", workers=workers):
        pass
    before = descriptors(), tasks()
    for index in range(30):
        with Edges("vxlan", workers=workers, start=index % 3 > 0) as edges:
            if index % 3 == 1:
                edges.send_tun(good_out)
                edges.recv_underlay()
            edges.forwarder.stop()
            if index % 2:
                edges.forwarder.stop()
                edges.forwarder.close()
                edges.forwarder.close()
    assert descriptors() == before[0]
    assert settled(before[1])


def test_the_callers_descriptors_stay_open(vxlan_edges: Edges) -> None:
    vxlan_edges.renew(start=False)
    vxlan_edges.forwarder.close()
    for fd in chain(vxlan_edges.config.tun_fds, vxlan_edges.config.receive_fds, vxlan_edges.config.source_fds):
        os.fstat(fd)
    vxlan_edges.renew(start=True)
    vxlan_edges.send_tun(good_out)
    assert vxlan_edges.recv_underlay()[0][22:] == good_out


@pytest.mark.parametrize("spin_us", [0, 10_000_000])
def test_stop_does_not_wait_for_traffic_to_end(spin_us: int) -> None:
    """The flood ends after the stop only: a worker that wanted its queue empty, or to spin on, would never come back."""
    with Edges("vxlan", workers=2, start=False) as edges:
        edges.config = replace(edges.config, spin_us=spin_us)
        edges.renew(start=True)
        enough = threading.Event()

        def flood() -> None:
            datagram = vxlan(good_in)
            while not enough.is_set():
                edges.send_train([datagram] * 60)

        flooding = threading.Thread(target=flood)
        flooding.start()
        edges.wait_for("underlay_receives", 100)
        edges.forwarder.stop()
        assert flooding.is_alive()
        enough.set()
        flooding.join()
        assert edges.forwarder.failures == ()


def test_stop_wakes_sleepers(vxlan_edges: Edges) -> None:
    vxlan_edges.renew(start=True)
    vxlan_edges.wait_for("sleeps", 1)
    vxlan_edges.forwarder.stop()  # nothing else would wake them
    vxlan_edges.renew(start=True)


@pytest.mark.parametrize(
    "wrong",
    [
        {"mtu": 67},
        {"mtu": 65536},
        {"port": 0},
        {"port": 65536},
        {"underlay_family": 5},
        {"vni": 1 << 24},
        {"tun_fds": ()},
        {"tun_fds": tuple(range(max_queues + 1))},
        {"receive_fds": ()},
        {"workers": 0},
        {"workers": max_workers + 1},
        {"source_fds": ()},
    ],
    ids=str,
)
def test_a_wrong_configuration_is_refused(vxlan_edges: Edges, wrong: dict[str, int]) -> None:
    before = descriptors()
    with pytest.raises(CoreError, match="dp_new"):
        Forwarder(replace(vxlan_edges.config, **wrong))
    assert descriptors() == before


def test_memory_does_not_grow_with_packets() -> None:
    """Nothing is allocated per packet: 200,000 packets, by trains and singly, move the resident size by less than 1 MB."""
    datagrams = [vxlan(bytes(inward(payload=bytes(8), id=n))) for n in range(50)]
    marker = bytes(inward(src="10.5.2.200"))
    with Edges("vxlan") as edges:

        def exchange(rounds: int) -> None:
            for _ in range(rounds):
                edges.send_train(datagrams)
                edges.send_underlay(vxlan(marker))
                edges.recv_tun_until(marker)
                for _ in range(20):
                    edges.send_tun(good_out)
                for _ in range(20):
                    edges.recv_underlay()

        exchange(100)
        before = resident_kb()
        exchange(2900)
        assert resident_kb() - before < 1024
        counters = edges.forwarder.counters()
        assert counters["rx_packets"] + counters["tx_packets"] > 200_000
        assert edges.drops() == {}


def test_memory_does_not_grow_with_tables() -> None:
    """Old tables are freed: 300 tables of 1,000 peers each, which would be some 20 MB."""
    with Edges("vxlan") as edges:
        hop = edges.forwarder.peers[IPv4Network("10.5.2.0/24")].next_hop
        peers = [Peer(IPv4Network((0x0B000000 + (n << 8), 24)), hop, bytes(6)) for n in range(1000)]
        edges.forwarder.update(peers)

        def change(times: int) -> None:
            for n in range(times):
                edges.forwarder.update([peers[n % 1000]])
                edges.send_tun(good_out)  # the worker takes the new table
                edges.recv_underlay()

        change(30)
        before = resident_kb()
        change(300)
        assert resident_kb() - before < 2048
