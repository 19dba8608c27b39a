"""Leased nodes that are switched off cost the living ones nothing.

The dead are on the underlay's own link, so that each has a neighbour entry that nobody answers for, where the kernel
keeps what is sent to it, at the sending socket's expense, until it gives up.
"""

from __future__ import annotations

import sys
from ipaddress import IPv4Network

import pytest

from dataplane.lab.commands import wait_for
from dataplane.lab.topology import underlay_address
from dataplane.model import LeaseAttrs
from tests.lab_fixtures import MakeLab

dead = 100
# More for each than its neighbour entry holds (unres_qlen_bytes), in turns that the worker can follow.
turns = 150
send_to_all = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for _ in range(int(sys.argv[1])):
    for address in sys.argv[2:]:
        sock.sendto(b"x" * 1300, (address, 9))
    time.sleep(0.005)
"""


@pytest.mark.parametrize("backend", ["udp", "vxlan"])
def test_a_living_peer_is_reached_while_many_are_dead(backend: str, make_lab: MakeLab) -> None:
    lab = make_lab(backend, "dataplane", "dataplane", ipv6=False)
    node, other = lab.daemons
    one, two = node.pods[0], other.pods[0]
    for number in range(dead):
        data = {"VNI": 1, "VtepMAC": f"02:00:00:00:01:{number:02x}"} if backend == "vxlan" else None
        kind = "vxlan" if backend == "vxlan" else ""
        lab.book.acquire(LeaseAttrs(underlay_address(100 + number), None, kind, data))

    def targets() -> list[str]:
        peers = (node.status() or {}).get("peers", ())
        return [str(IPv4Network(p["subnet"])[5]) for p in peers if p["public_ip"] != str(other.address)]

    wait_for(lambda: len(targets()) == dead, 90, "all dead peers in the table")
    assert one.ping(two).ok
    one.run(sys.executable, "-c", send_to_all, str(turns), *targets())
    # The kernel gives a neighbour up after three seconds; until then its packets are held. (A slow machine looks later.)
    asked = node.run("ip", "neigh", "show", "dev", "eth0").stdout
    assert asked.count("INCOMPLETE") + asked.count("FAILED") == dead
    during = one.ping(two, count=40)
    assert during.ok, during.text
    assert "send_full" not in node.drops()
