"""Our daemon and the kernel's own vxlan device, set up as flannel sets it, as peers of each other.

IPv4 pods travel over an IPv4 underlay (flannel.1), IPv6 pods over an IPv6 underlay (flannel-v6.1), as with flannel.
Each test runs over an underlay that passes super-packets and checksums unfinished, as veth does, and over one where
both ends have finished them, as on a wire.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dataplane.lab.cluster import Lab
from dataplane.lab.commands import inside_of, wait_for
from dataplane.lab.kernel_node import KernelNode
from dataplane.lab.node import DaemonNode
from dataplane.lab.topology import Place, Pod
from dataplane.lab.traffic import ping
from tests.lab_fixtures import MakeLab
from tests.traffic import expect_udp

versions = pytest.mark.parametrize("version", [4, 6])
directions = pytest.mark.parametrize("direction", ["to kernel", "from kernel"])
tcp_bytes = 20 << 20  # a stream's
# What a sender leaves to a NIC; without them each packet leaves finished and no larger than the MTU.
sending = ("tso", "gso", "tx-udp-segmentation", "tx-udp_tnl-segmentation", "tx-udp_tnl-csum-segmentation", "tx")


@pytest.fixture(scope="module", params=["offloads", "no offloads"])
def cluster(request: pytest.FixtureRequest, make_shared_lab: MakeLab) -> Lab:
    lab = make_shared_lab("vxlan", "dataplane", "kernel")
    if request.param == "no offloads":
        for node in lab.nodes:
            node.set_offloads("eth0", dict.fromkeys(sending, False))
    return lab


def ends(cluster: Lab, direction: str) -> tuple[Pod, Pod]:
    """The pod that sends and the one that receives."""
    ours, kernels = cluster.pods
    return (ours, kernels) if direction == "to kernel" else (kernels, ours)


def learn_path_mtu(one: Pod, other: Pod) -> None:
    """Let both pods find out what fits: IPv6 routers do not split, and flannel-v6.1 carries less than pods are told."""
    wait_for(lambda: one.ping(other, 6, size=1450, count=1, wait_s=0.2).ok, 90, "path MTU discovery")


@contextmanager
def captured(place: Place, expression: str, device: str = "eth0") -> Iterator[list[str]]:
    """Collect the packets that match while the body runs, three at most, one line each."""
    words = ["tcpdump", "-n", "-l", "-c", "3", "--immediate-mode", "-Z", "root", "-i", device, expression]
    packets: list[str] = []
    with subprocess.Popen(
        inside_of(place.name, words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as tcpdump:
        assert tcpdump.stderr is not None
        try:
            assert any("listening on" in line for line in tcpdump.stderr)
            yield packets
            tcpdump.wait(timeout=200)
        except subprocess.TimeoutExpired:
            pass  # fewer than three: the caller sees it
        finally:
            tcpdump.terminate()
            assert tcpdump.stdout is not None
            # One line each; what a tunnel carries follows on a line of its own, without a time.
            packets += re.findall(r"^\d\d:\d\d:\d\d\..*", tcpdump.stdout.read(), re.MULTILINE)


@pytest.fixture(autouse=True)
def nothing_unexpected_is_dropped(cluster: Lab) -> Iterator[None]:
    """After every test: our side dropped nothing but multicast, the kernel's device had no receive error.

    A socket buffer that overflows on a busy machine is what tells TCP to go slower; the UDP tests count their own loss.
    """
    (ours,) = cluster.daemons
    before = ours.drops()
    yield
    after = ours.drops()
    assert {reason for reason in after if after[reason] > before.get(reason, 0)} <= {"send_multicast", "receive_socket"}
    shown = cluster.nodes[1].run("ip", "-s", "link", "show", "type", "vxlan").stdout
    received = re.findall(r"RX: +bytes packets errors dropped.*\n +\d+ +\d+ +(\d+)", shown)
    assert received and set(received) == {"0"}


def test_one_is_ours_and_one_is_the_kernels(cluster: Lab) -> None:
    ours, kernels = cluster.nodes
    assert isinstance(ours, DaemonNode) and isinstance(kernels, KernelNode)
    kinds = {node.label: node.run("ip", "-d", "link", "show", "flannel.1").stdout for node in cluster.nodes}
    assert "tun type tun" in kinds["node1"] and "vxlan id 1" not in kinds["node1"]
    assert "vxlan id 1" in kinds["node2"]


@versions
@directions
def test_ping(cluster: Lab, version: int, direction: str) -> None:
    one, other = ends(cluster, direction)
    assert one.ping(other, version, count=20).ok


@versions
def test_tunnel_addresses_ping(cluster: Lab, version: int) -> None:
    for one, other in (cluster.nodes, reversed(cluster.nodes)):
        net = other.net
        assert net is not None and net.ipv4 is not None and net.ipv6 is not None
        assert ping(one.name, str(net.ipv4[0] if version == 4 else net.ipv6[0])).ok


@versions
@directions
@pytest.mark.parametrize("streams", [1, 4])
def test_tcp(cluster: Lab, version: int, direction: str, streams: int) -> None:
    one, other = ends(cluster, direction)
    moved = one.iperf3(other, version, amount=streams * tcp_bytes, streams=streams)
    assert moved.gbps > 0.1
    # Each stream has moved data: none hung while the others went on.
    for stream in moved.document["end"]["streams"]:
        assert stream["receiver"]["bytes"] > 1_000_000


@versions
@directions
def test_tcp_reversed(cluster: Lab, version: int, direction: str) -> None:
    """The connection is opened by the receiver of the data."""
    one, other = ends(cluster, direction)
    assert other.iperf3(one, version, amount=tcp_bytes, reverse=True).gbps > 0.1


@versions
@directions
@pytest.mark.parametrize("length", [1, 64, 1000, 1372])
def test_udp(cluster: Lab, version: int, direction: str, length: int) -> None:
    one, other = ends(cluster, direction)
    # iperf3 needs 16 bytes for its own header.
    length = max(length, 16)
    expect_udp(one, other, version, amount=500 * length, udp_mbps=2000 * length * 8 / 1e6, length=length)


@versions
@directions
@pytest.mark.parametrize("size", [1500, 4028, 65_500])
def test_fragments(cluster: Lab, version: int, direction: str, size: int) -> None:
    one, other = ends(cluster, direction)
    learn_path_mtu(one, other)
    assert one.ping(other, version, size=size).ok


@versions
@directions
def test_packets_up_to_the_mtu(cluster: Lab, version: int, direction: str) -> None:
    one, other = ends(cluster, direction)
    mtu = {4: 1450, 6: 1430}[version]
    for size in (mtu - 1, mtu):
        assert one.ping(other, version, size=size, whole=True).ok


@directions
def test_an_ipv6_packet_above_the_mtu_comes_back(cluster: Lab, direction: str) -> None:
    """Pods are told 1450 and the IPv6 device carries 1430, on both sides, as with flannel."""
    one, other = ends(cluster, direction)
    one.run("ip", "-6", "route", "flush", "cache")
    assert "Packet too big: mtu=1430" in one.ping(other, 6, size=1431, whole=True, count=1).text


@versions
@directions
@pytest.mark.parametrize("field", [1, 2, 3])
def test_ecn_arrives_as_it_was_sent(cluster: Lab, version: int, direction: str, field: int) -> None:
    one, other = ends(cluster, direction)
    expression = {4: f"icmp[0] == 8 and ip[1] & 3 == {field}", 6: f"ip6[40] == 128 and (ip6[1] >> 4) & 3 == {field}"}
    with captured(other, expression[version]) as packets:
        assert one.ping(other, version, options=["-Q", hex(field)]).ok
    assert len(packets) == 3


@versions
@directions
@pytest.mark.parametrize("field", [1, 2])
def test_the_outer_header_carries_ecn(cluster: Lab, version: int, direction: str, field: int) -> None:
    """Not so for CE, for which the kernel's device sends ECT(0) (RFC 3168)."""
    one, other = ends(cluster, direction)
    sender, receiver = cluster.nodes if direction == "to kernel" else reversed(cluster.nodes)
    expression = {
        4: f"src {sender.address} and udp dst port 8472 and ip[1] & 3 == {field}",
        6: f"src {sender.address6} and udp dst port 8472 and (ip6[1] >> 4) & 3 == {field}",
    }
    with captured(receiver, expression[version]) as packets:
        # Each when the one before is answered: two that wait for a busy machine may leave as one train.
        for _ in range(3):
            assert one.ping(other, version, count=1, options=["-Q", hex(field)]).ok
    assert len(packets) == 3


@directions
def test_congestion_marked_on_the_way_reaches_the_pod(cluster: Lab, direction: str) -> None:
    """A router of the underlay sets CE on an ECN-capable outer header: the receiver moves it inside (RFC 6040)."""
    one, other = ends(cluster, direction)
    receiver = cluster.nodes[1 if direction == "to kernel" else 0]
    marking = (
        "add table netdev congested",
        "add chain netdev congested router { type filter hook ingress device eth0 priority 0; }",
        "add rule netdev congested router udp dport 8472 ip ecn set ce",
    )
    receiver.run("nft", "; ".join(marking))
    try:
        with captured(other, "icmp[0] == 8 and ip[1] & 3 == 3") as packets:
            assert one.ping(other, count=3, options=["-Q", "0x02"]).ok
    finally:
        receiver.run("nft", "delete table netdev congested")
    assert len(packets) == 3


@versions
@directions
def test_ttl_is_left_to_the_kernels(cluster: Lab, version: int, direction: str) -> None:
    """Two nodes forward: a TTL of 3 is enough, and the answer's 64 arrives as 62."""
    one, other = ends(cluster, direction)
    answer = one.ping(other, version, ttl=3)
    assert answer.ok and answer.text.count("ttl=62") == 3
