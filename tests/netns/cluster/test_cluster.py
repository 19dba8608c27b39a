"""The data plane in a cluster of our own daemons, over both backends: traffic, its edges, and what is told of errors."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from dataplane.lab.cluster import Lab
from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode
from dataplane.lab.topology import Pod
from dataplane.lab.traffic import ping
from tests.lab_fixtures import MakeLab
from tests.traffic import expect_udp

versions = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture(scope="module", params=["udp", "vxlan"])
def cluster(request: pytest.FixtureRequest, make_shared_lab: MakeLab) -> Lab:
    return make_shared_lab(request.param, "dataplane", "dataplane")


def backend_of(lab: Lab) -> str:
    return str(lab.conf["Backend"]["Type"])


def device_mtu(node: DaemonNode, version: int) -> int:
    """MTU of the device that carries packets of this version."""
    address = {4: "10.244.0.0/16", 6: "fd00:244::/48"}[version]
    (route,) = json.loads(node.run("ip", "-j", f"-{version}", "route", "show", address).stdout)
    (link,) = json.loads(node.run("ip", "-j", "link", "show", route["dev"]).stdout)
    return int(link["mtu"])


def learn_path_mtu(one: Pod, other: Pod) -> None:
    """Let both pods find out what fits: IPv6 routers do not split, and flannel-v6.1 carries less than pods are told."""
    size = int(one.run("cat", "/sys/class/net/eth0/mtu").stdout)
    wait_for(lambda: one.ping(other, 6, size=size, count=1, wait_s=0.2).ok, 90, "path MTU discovery")


def free_subnet(lab: Lab) -> IPv4Network:
    """A subnet of the overlay that no node holds."""
    taken = {lease.subnet for lease in lab.book.leases().values()}
    return next(
        net
        for net in IPv4Network("10.244.0.0/16").subnets(new_prefix=24)
        if net not in taken and net[0] != IPv4Address("10.244.0.0")
    )


# Traffic


@versions
def test_pods_ping_each_other(cluster: Lab, version: int) -> None:
    one, other = cluster.pods
    assert one.ping(other, version, count=20).ok
    assert other.ping(one, version, count=20).ok


@versions
@pytest.mark.parametrize("reverse", [False, True])
def test_tcp_moves_data_both_ways(cluster: Lab, version: int, reverse: bool) -> None:
    one, other = cluster.pods
    assert one.iperf3(other, version, amount=20 << 20, reverse=reverse).gbps > 0.05


@versions
@pytest.mark.parametrize("reverse", [False, True])
def test_udp_arrives_whole(cluster: Lab, version: int, reverse: bool) -> None:
    one, other = cluster.pods
    expect_udp(one, other, version, amount=500_000, udp_mbps=4, length=1000, reverse=reverse)


@versions
def test_nodes_reach_pods_from_their_tunnel_address(cluster: Lab, version: int) -> None:
    node, pod = cluster.nodes[0], cluster.pods[1]
    assert ping(node.name, pod.address_of(version)).ok


@versions
@pytest.mark.parametrize("size", [4028, 20_000, 65_500])
def test_fragments_arrive(cluster: Lab, version: int, size: int) -> None:
    one, other = cluster.pods
    learn_path_mtu(one, other)
    assert one.ping(other, version, size=size).ok
    assert other.ping(one, version, size=size).ok


@versions
def test_packets_up_to_the_mtu_pass_whole(cluster: Lab, version: int) -> None:
    one, other = cluster.pods
    mtu = device_mtu(cluster.daemons[0], version)
    for size in (mtu - 1, mtu):
        assert one.ping(other, version, size=size, whole=True).ok
        assert other.ping(one, version, size=size, whole=True).ok


@versions
def test_a_packet_above_the_mtu_comes_back_with_the_mtu(cluster: Lab, version: int) -> None:
    """From a pod whose own MTU is larger than the overlay's, so that the packet does reach the node."""
    node, other = cluster.daemons[0], cluster.pods[1]
    mtu = device_mtu(node, version)
    assert node.net is not None
    cni0 = node.net.mtu
    node.run("ip", "link", "set", "cni0", "mtu", "1500")
    large = Pod(node, replace(node.net, mtu=1500), index=7 + version)
    try:
        answer = large.ping(other, version, size=mtu + 1, whole=True, count=1)
        text = {4: f"Frag needed and DF set (mtu = {mtu})", 6: f"Packet too big: mtu={mtu}"}[version]
        assert text in answer.text
        assert answer.received == 0
        # The same size without DF: split on the way, and answered.
        learn_path_mtu(large, other)
        assert large.ping(other, version, size=mtu + 1).ok
    finally:
        large.close()
        node.run("ip", "link", "set", "cni0", "mtu", str(cni0))


def test_time_exceeded_is_told(cluster: Lab) -> None:
    """The udp backend takes one off the TTL at each end, as flannel's proxy does; vxlan leaves it to the kernels."""
    one, other = cluster.pods
    near, far = cluster.nodes
    assert near.net is not None and near.net.ipv4 is not None and far.net is not None and far.net.ipv4 is not None
    steps = {
        "udp": [near.net.ipv4[1], near.net.ipv4[0], far.net.ipv4[0], far.net.ipv4[0]],
        "vxlan": [near.net.ipv4[1], far.net.ipv4[0]],
    }[backend_of(cluster)]
    for ttl, router in enumerate(steps, 1):
        answer = one.ping(other, ttl=ttl, count=1)
        assert f"From {router} icmp_seq=1 Time to live exceeded" in answer.text
    assert one.ping(other, ttl=len(steps) + 1).ok


def test_an_unleased_subnet_is_unreachable(cluster: Lab) -> None:
    one, node = cluster.pods[0], cluster.nodes[0]
    before = cluster.daemons[0].drops().get("send_no_peer", 0)
    assert node.net is not None and node.net.ipv4 is not None
    answer = ping(one.name, str(free_subnet(cluster)[2]), count=1)
    assert f"From {node.net.ipv4[0]} icmp_seq=1 Destination Net Unreachable" in answer.text
    assert sum(cluster.daemons[0].drops().values()) > before


def test_ipv6_to_an_unleased_subnet_is_unreachable(cluster: Lab) -> None:
    answer = ping(cluster.pods[0].name, "fd00:244:0:eeee::2", count=1)
    assert "Destination unreachable: No route" in answer.text


def test_nothing_is_dropped_without_a_reason_to(cluster: Lab) -> None:
    """Only multicast, and what a socket's full buffer tells TCP on a busy machine, may have been dropped."""
    one, other = cluster.pods
    before = cluster.daemons[0].drops()
    assert one.ping(other, count=50, interval=0.005).ok
    assert one.iperf3(other, amount=20 << 20).gbps > 0.05
    after = cluster.daemons[0].drops()
    grown = {reason for reason in after if after[reason] > before.get(reason, 0)}
    assert grown <= {"send_multicast", "receive_socket"}
