"""Every packet offered is delivered or counted, and the daemon that lost it says where.

A loss is made certain, not likely: the daemon stands still (SIGSTOP) while more is sent than its queue holds.
"""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from lab_fixtures import MakeLab

from dataplane.control.tun_keeper import tx_queue_packets
from dataplane.lab.cluster import Lab
from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode

closed_port = 9
offer = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(int(sys.argv[3])):
    sock.sendto(b"x" * 100, (sys.argv[1], int(sys.argv[2])))
"""


@pytest.fixture(scope="module", params=["udp", "vxlan"])
def lab(request: pytest.FixtureRequest, make_shared_lab: MakeLab) -> Lab:
    return make_shared_lab(request.param, "dataplane", "dataplane", ipv6=False)


@contextmanager
def standing_still(node: DaemonNode) -> Iterator[None]:
    status = node.status()
    assert status is not None
    os.kill(status["pid"], signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(status["pid"], signal.SIGCONT)


def received(node: DaemonNode) -> int:
    """Packets that the node's one peer brought in."""
    status = node.status()
    assert status is not None
    (peer,) = status["peers"]
    return int(peer["rx_packets"])


def test_what_the_queue_had_no_room_for_is_counted(lab: Lab) -> None:
    node, other = lab.daemons
    one, two = node.pods[0], other.pods[0]
    assert one.ping(two).ok
    offered, came, drops = tx_queue_packets + 500, received(other), Counter(node.drops())
    with standing_still(node):
        one.run(sys.executable, "-c", offer, two.address, str(closed_port), str(offered))

    def lost() -> dict[str, int]:
        return {reason: n for reason, n in (Counter(node.drops()) - drops).items() if reason != "send_multicast"}

    wait_for(lambda: received(other) - came + sum(lost().values()) == offered, 30, "all to be delivered or counted")
    assert lost().keys() == {"tun_queue"}
    assert lost()["tun_queue"] >= 400
