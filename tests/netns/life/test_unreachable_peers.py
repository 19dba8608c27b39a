"""What ICMP says of a peer is the peer's state: its daemon is down, its machine is off, or somebody forges it."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from dataplane.lab.cluster import Lab
from dataplane.lab.commands import inside_of, run, wait_for
from dataplane.lab.node import DaemonNode
from dataplane.lab.topology import Place, underlay_address
from tests.lab_fixtures import MakeLab
from tests.programs import program

pytestmark = pytest.mark.long

stranger_number = 9


def underlay_of(node: DaemonNode, version: int) -> str:
    return str(node.address if version == 4 else node.address6)


def peer(node: DaemonNode, other: DaemonNode, version: int = 4) -> dict[str, Any]:
    """What `node` knows of `other` over the underlay of that version."""
    status = node.status()
    assert status is not None
    (found,) = (peer for peer in status["peers"] if peer["public_ip"] == underlay_of(other, version))
    return dict(found)


def lines(node: DaemonNode) -> list[str]:
    """What the log says of peers."""
    return [line for line in node.log().splitlines() if "dataplane.follow.unreachable" in line]


def send_once(lab: Lab, version: int = 4) -> None:
    """One ping from the first node to the second, of which no answer is awaited."""
    one, other = lab.pods
    one.run("ping", "-n", "-c1", "-W0.1", other.address_of(version), check=False)


@pytest.mark.parametrize(
    ("backend", "datapath", "versions"),
    [("udp", "userspace", [4]), ("vxlan", "userspace", [4, 6]), ("vxlan", "kernel", [4, 6])],
)
def test_a_peer_whose_daemon_is_down(backend: str, datapath: str, versions: list[int], make_lab: MakeLab) -> None:
    """And over once packets come from it again, where they are counted by peer."""
    options = (f"--datapath={datapath}",)
    lab = make_lab(backend, "dataplane", "dataplane", ipv6=6 in versions, options=options)
    node, other = lab.daemons
    for version in versions:
        assert lab.pods[0].ping(lab.pods[1], version).ok
        assert (peer(node, other, version)["unreachable"], peer(node, other, version)["icmp_unreachables"]) == (None, 0)
    other.kill_daemon()
    if datapath == "kernel":
        other.batch("link delete flannel.1", "link delete flannel-v6.1")
    for version in versions:
        send_once(lab, version)
        wait_for(lambda version=version: peer(node, other, version)["unreachable"], 90, "the peer's state")  # type: ignore[misc]
        found = peer(node, other, version)
        assert found["icmp_unreachables"] >= 1
        assert (found["unreachable"]["reason"], found["unreachable"]["said_by"]) == (
            "port_closed",
            underlay_of(other, version),
        )
    named = [line for line in lines(node) if "WARNING" in line and "port closed: no daemon listens there" in line]
    assert len(named) == len(versions)
    other.start_daemon()
    other.wait_ready()
    if datapath == "kernel":
        return  # over after half a minute without another
    for version in versions:
        assert lab.pods[0].ping(lab.pods[1], version).ok

        def over(version: int = version) -> bool:
            return lab.pods[0].ping(lab.pods[1], version).ok and peer(node, other, version)["unreachable"] is None

        wait_for(over, 90, "the peer to be reachable again")
        assert peer(node, other, version)["icmp_unreachables"] >= 1
    assert len([line for line in lines(node) if "packets come from it again" in line]) == len(versions)


def test_a_peer_whose_machine_is_off(make_lab: MakeLab) -> None:
    """Our own kernel says so, when nobody answers at the peer's address."""
    lab = make_lab("vxlan", "dataplane", "dataplane")
    node, other = lab.daemons
    run(None, "ip", "link", "set", lab.underlay.port(2), "down")
    node.run("ip", "neigh", "flush", "dev", "eth0")
    for version in (4, 6):
        send_once(lab, version)
    for version in (4, 6):
        wait_for(lambda version=version: peer(node, other, version)["unreachable"], 90, "the peer's state")  # type: ignore[misc]
        found = peer(node, other, version)["unreachable"]
        assert (found["reason"], found["said_by"]) == ("host_unreachable", underlay_of(node, version))


def test_a_daemon_without_cap_net_raw_says_so_and_carries_packets(make_lab: MakeLab) -> None:
    lab = make_lab("udp", "dataplane", "dataplane", ipv6=False)
    node = lab.daemons[0]
    node.stop_daemon()
    node.wrapper = ("setpriv", "--bounding-set=-net_raw", "--inh-caps=-net_raw")
    node.start_daemon()
    text = "ICMP errors about peers are not read: no raw socket: Operation not permitted; this needs CAP_NET_RAW"
    wait_for(
        lambda: any(text in problem for problem in (node.status() or {"problems": []})["problems"]), 60, "the note"
    )
    wait_for(lambda: lab.pods[0].ping(lab.pods[1], count=1, wait_s=1).ok, 90, "packets to be carried")
    assert not [line for line in lines(node) if "INFO" not in line]


def test_forged_messages_are_shown_with_their_sender_and_change_nothing(make_lab: MakeLab) -> None:
    lab = make_lab("vxlan", "dataplane", "dataplane", ipv6=False)
    node, other = lab.daemons
    one, two = lab.pods
    stranger = Place(f"{lab.underlay.prefix}-stranger")
    lab.underlay.attach(stranger, stranger_number)
    own, his = str(node.address), str(underlay_address(stranger_number))
    macs = [place.run("cat", "/sys/class/net/eth0/address").stdout.strip() for place in (node, stranger)]

    def forged(code: int, sender: str, source: str = own, peer: str = str(other.address), port: int = 8472) -> str:
        quoted = IP(src=source, dst=peer) / UDP(sport=40000, dport=port) / Raw(bytes(8))
        message: Packet = IP(src=sender, dst=own) / ICMP(type=3, code=code) / Raw(bytes(quoted))
        return bytes(Ether(dst=macs[0], src=macs[1]) / message).hex()

    def send(*frames: str) -> None:
        done = inside_of(stranger.name, program("raw_frames", "eth0"))
        subprocess.run(done, input="\n".join(frames), text=True, check=True, timeout=200)

    try:
        assert one.ping(two).ok
        send(
            forged(3, his),  # of a port, by who does not have it
            forged(1, his, port=53),  # of somebody else's datagram
            forged(1, his, source=his),
            forged(1, his, peer="192.0.2.77"),
            forged(4, his),  # fragmentation needed
            forged(1, his),
        )
        wait_for(lambda: peer(node, other)["unreachable"], 90, "the state that is forged")
        found = peer(node, other)
        assert found["icmp_unreachables"] == 1
        assert (found["unreachable"]["reason"], found["unreachable"]["said_by"]) == ("host_unreachable", his)
        assert one.ping(two).ok
        # A flood in the peer's own name.
        send(*[forged(3, str(other.address))] * 20_000)
        wait_for(lambda: peer(node, other)["unreachable"]["reason"] == "port_closed", 90, "the flood to be seen")
        assert one.ping(two).ok
        assert (node.status() or {})["ready"]

        def over() -> bool:
            return one.ping(two).ok and peer(node, other)["unreachable"] is None

        wait_for(over, 90, "the forged state to be over")
        assert 1 < peer(node, other)["icmp_unreachables"] <= 20_001
        assert len(lines(node)) == 2
    finally:
        stranger.close()
