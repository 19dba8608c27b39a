"""A peer that reads one packet at a time gets every byte, over an underlay that takes super-packets uncut."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from dataplane.lab.cluster import Lab
from dataplane.lab.commands import inside_of
from dataplane.lab.node import DaemonNode, Node
from dataplane.lab.topology import PodNet
from dataplane.model import LeaseAttrs
from tests.lab_fixtures import MakeLab
from tests.programs import program

amount = 4 << 20
mac = "02:00:00:00:77:01"
ports = {"udp": 8285, "vxlan": 8472}
overheads = {"udp": 28, "vxlan": 50}


class PlainPeer(Node):
    """A node with a lease of `backend` and tests/programs/plain_peer.py; `other` is the one node that it reaches."""

    kind = "plain"

    def __init__(self, lab: Lab, backend: str, other: DaemonNode) -> None:
        super().__init__(lab.underlay, len(lab.nodes) + 1, lab.directory)
        data = {"VNI": 1, "VtepMAC": mac} if backend == "vxlan" else None
        attrs = LeaseAttrs(public_ip=self.address, backend_type=backend, backend_data=data)
        self.lease = lab.book.acquire(attrs, node=self.label)
        self.mtu = 1500 - overheads[backend]
        words = program("plain_peer", backend, "plain0", self.address, other.address, ports[backend], self.mtu)
        if backend == "vxlan":
            words += [mac, vtep_mac(lab, other)]
        self.process = subprocess.Popen(
            inside_of(self.name, words), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self._line() == "ready"
        assert other.net is not None
        assert self.lease.subnet is not None
        self.batch(
            f"address add {self.lease.subnet[0]}/32 dev plain0",
            f"link set plain0 mtu {self.mtu} up",
            f"route add {other.net.ipv4} dev plain0",
        )

    def pod_net(self) -> PodNet:
        return PodNet(self.mtu, self.lease.subnet, None)

    def knows(self, other: Node) -> bool:
        return True

    def _line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def datagrams(self) -> tuple[int, int]:
        """How many were larger than the MTU allows, and how many came."""
        assert self.process.stdin is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        too_large, count = self._line().split()
        return int(too_large), int(count)

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()
        super().close()


def vtep_mac(lab: Lab, node: DaemonNode) -> str:
    (data,) = [
        lease.attrs.backend_data for lease in lab.book.leases().values() if lease.attrs.public_ip == node.address
    ]
    assert data is not None
    return str(data["VtepMAC"])


def status_of(node: DaemonNode) -> dict[str, Any]:
    status = node.status()
    assert status is not None
    return status


@pytest.mark.parametrize("backend", ["udp", "vxlan"])
def test_a_plain_peer_gets_all(make_lab: MakeLab, backend: str) -> None:
    """udp: nothing above the MTU leaves. vxlan: probes alone do, two at most, and the pods send those bytes again."""
    lab = make_lab(backend, "dataplane", ipv6=False)
    (ours,) = lab.daemons
    peer = PlainPeer(lab, backend, ours)
    lab.nodes.append(peer)
    peer.add_pod()
    lab.wait_converged()
    one, two = ours.pods[0], peer.pods[0]
    assert one.ping(two).ok
    for sender, receiver in ((one, two), (two, one)):
        words = program("transfer", "receive", "tcp", receiver.address, amount)
        with subprocess.Popen(inside_of(receiver.name, words), stdout=subprocess.PIPE, text=True) as receiving:
            assert receiving.stdout is not None
            assert receiving.stdout.readline() == "ready\n"
            sent = sender.run(*program("transfer", "send", "tcp", receiver.address, amount)).stdout
            came, _ = receiving.communicate(timeout=200)
        assert came == sent
    too_large, count = peer.datagrams()
    probes = status_of(ours)["counters"]["tunnel_sends"]
    assert count > amount // peer.mtu
    assert too_large == probes
    if backend == "udp":
        assert probes == 0
    else:
        assert "tunnel_gso" in status_of(ours)["devices"][0]["offloads"]
        assert 1 <= probes <= 2
