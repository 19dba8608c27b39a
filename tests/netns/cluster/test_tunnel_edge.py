"""Super-packets that leave whole on the real kernel: what pods send arrives byte for byte, and it did go that way.

The underlay is veth, which takes UDP-tunnel super-packets. What must stay true: a kernel without the TAP's feature (Linux
before 6.17) fails these tests; the short way is asked of a counter, never assumed.
"""

from __future__ import annotations

import json
import subprocess
from functools import partial

import pytest

from dataplane.lab.cluster import Lab
from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode
from tests.lab_fixtures import MakeLab
from tests.netns.transfers import receiver, transfer, tunnel_sends
from tests.programs import program

feature = "tx-udp_tnl-csum-segmentation"
mbytes = 1 << 20
versions = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture(scope="module")
def cluster(make_shared_lab: MakeLab) -> Lab:
    return make_shared_lab("vxlan", "dataplane", "dataplane")


def uses_it(node: DaemonNode) -> bool:
    """Whether every device of the node says that super-packets leave whole."""
    status = node.status()
    assert status is not None
    return all("tunnel_gso" in device["offloads"] for device in status["devices"])


def taps(node: DaemonNode) -> list[str]:
    """The node's TAPs, by name."""
    links = json.loads(node.run("ip", "-j", "link", "show").stdout)
    return [link["ifname"] for link in links if link["ifname"].startswith("flannel-gso")]


def test_every_device_uses_it(cluster: Lab) -> None:
    """One TAP for each device: both families have theirs."""
    for node in cluster.daemons:
        status = node.status()
        assert status is not None
        assert uses_it(node)
        assert len(taps(node)) == len(status["devices"])


@versions
@pytest.mark.parametrize("direction", ["there", "back"])
def test_bulk_arrives_byte_for_byte(cluster: Lab, version: int, direction: str) -> None:
    one, other = cluster.daemons[:2] if direction == "there" else cluster.daemons[1::-1]
    before = tunnel_sends(one)
    sent, came = transfer(one.pods[0], other.pods[0], "tcp", version, 8 * mbytes)
    assert came == sent
    # Most of it: at 64 KB each it is 128 at least, and a stream starts with less.
    assert tunnel_sends(one) - before > 50


@versions
def test_the_kernels_vxlan_understands_it(make_lab: MakeLab, version: int) -> None:
    lab = make_lab("vxlan", "dataplane", "kernel")
    (ours,) = lab.daemons
    ours_pod, kernel_pod = lab.pods
    for amount in (8 * mbytes, 3 * mbytes + 1):
        before = tunnel_sends(ours)
        sent, came = transfer(ours_pod, kernel_pod, "tcp", version, amount)
        assert came == sent
        assert tunnel_sends(ours) - before > 20
    sent, came = transfer(kernel_pod, ours_pod, "tcp", version, 8 * mbytes)
    assert came == sent
    before = tunnel_sends(ours)
    sent, came = transfer(ours_pod, kernel_pod, "udp", version, 20_700, 1200)
    assert came == sent
    assert tunnel_sends(ours) - before == 1


@versions
@pytest.mark.parametrize(
    ("amount", "segment"),
    [(24_000, 1200), (24_001, 1200), (25_199, 1200), (2400, 1200), (1500, 1000), (12_800, 100), (300, 100), (64, 1)],
)
def test_a_pods_own_trains_of_datagrams(cluster: Lab, version: int, amount: int, segment: int) -> None:
    one, other = cluster.daemons[:2]
    transfer(one.pods[0], other.pods[0], "tcp", version, mbytes)  # shows that the peer takes super-packets whole
    before = tunnel_sends(one)
    sent, came = transfer(one.pods[0], other.pods[0], "udp", version, amount, segment)
    assert came == sent
    assert tunnel_sends(one) - before == 1


def test_the_udp_backend_has_none(make_lab: MakeLab) -> None:
    """A plain udp peer reads one packet of at most the MTU at a time, and nothing in its lease tells it from ours."""
    one, other = make_lab("udp", "dataplane", "dataplane").daemons
    assert not uses_it(one)
    assert taps(one) == []
    sent, came = transfer(one.pods[0], other.pods[0], "tcp", 4, 8 * mbytes)
    assert came == sent
    assert tunnel_sends(one) == 0


def more_left(node: DaemonNode, count: int) -> bool:
    return tunnel_sends(node) > count


@versions
@pytest.mark.parametrize("cluster", ["vxlan"], indirect=True)
def test_neighbours_that_go_and_come_anew(cluster: Lab, version: int) -> None:
    """The other node's MAC changes under traffic and every neighbour entry is flushed: the stream goes on."""
    one, other = cluster.daemons[:2]
    before = tunnel_sends(one)
    amount, a_second = 200 * mbytes, 100 * mbytes  # lasts while the status is asked, also on a busy machine
    with receiver(other.pods[0], "tcp", version, amount) as process:
        words = program("transfer", "send", "tcp", other.pods[0].address_of(version), amount, a_second)
        with one.pods[0].start(*words, output=subprocess.DEVNULL) as sending:
            for last in (1, 2, 3):
                at = tunnel_sends(one)
                wait_for(partial(more_left, one, at + 20), 90, "super-packets to leave")
                assert sending.poll() is None, "the stream was over too early to show anything"
                other.batch(f"link set eth0 address 02:00:00:00:99:0{last}")
                for node in cluster.nodes:
                    node.batch("neigh flush dev eth0")
            assert sending.wait(90) == 0
        came, _ = process.communicate(timeout=200)
    assert came.split()[0] == str(amount)
    assert tunnel_sends(one) - before > 1000


def test_nothing_comes_to_the_tap(cluster: Lab) -> None:
    """No ARP, no neighbour discovery, no router solicitation: nothing was given to the TAP, so nobody need read it."""
    for node in cluster.daemons:
        for name in taps(node):
            (link,) = json.loads(node.run("ip", "-j", "-s", "link", "show", name).stdout)
            assert {key: link["stats64"]["tx"][key] for key in ("packets", "dropped", "errors")} == {
                "packets": 0,
                "dropped": 0,
                "errors": 0,
            }
            assert node.run("ip", "-j", "address", "show", name).stdout.count('"local"') == 0


def test_not_where_the_underlay_does_not_take_it(make_lab: MakeLab) -> None:
    """The feature is off when the daemon starts: no TAP, and the bytes go by the sockets."""
    lab = make_lab("vxlan", "dataplane", "dataplane", ipv6=False)
    one, other = lab.daemons
    assert taps(one)
    one.stop_daemon()
    one.set_offloads("eth0", {feature: False})
    one.start_daemon()
    one.wait_ready()
    assert taps(one) == []
    assert not uses_it(one)
    sent, came = transfer(one.pods[0], other.pods[0], "tcp", 4, mbytes)
    assert came == sent
    assert tunnel_sends(one) == 0
    # Off under a running daemon: the kernel tells, and the sockets take over.
    assert uses_it(other)
    other.set_offloads("eth0", {"tso": False})
    wait_for(lambda: not uses_it(other), 90, "the edge to be given up")
    before = tunnel_sends(other)
    sent, came = transfer(other.pods[0], one.pods[0], "tcp", 4, mbytes)
    assert came == sent
    assert tunnel_sends(other) == before


def test_ipsec_policies_are_not_gone_around(make_lab: MakeLab) -> None:
    """From the moment that the host has a policy for what leaves it, all of ours passes the sockets, where policies hold."""
    lab = make_lab("vxlan", "dataplane", "dataplane", ipv6=False)
    one, other = lab.daemons
    assert uses_it(one)
    policy = "xfrm policy add src 192.0.2.0/24 dst 198.51.100.0/24 dir out action block"
    one.run("ip", *policy.split())
    wait_for(lambda: not uses_it(one), 90, "the edge to be given up")
    before = tunnel_sends(one)
    sent, came = transfer(one.pods[0], other.pods[0], "tcp", 4, mbytes)
    assert came == sent
    assert tunnel_sends(one) == before
    one.stop_daemon()
    one.start_daemon()
    one.wait_ready()
    assert taps(one) == []
    one.stop_daemon()
    one.run("ip", "xfrm", "policy", "flush")
    one.start_daemon()
    one.wait_ready()
    assert uses_it(one)


def test_a_tap_that_somebody_deleted_is_told(make_lab: MakeLab) -> None:
    """Traffic goes on by the sockets, and status says so."""
    lab = make_lab("vxlan", "dataplane", "dataplane", ipv6=False)
    one, other = lab.daemons
    one.run("ip", "link", "del", *taps(one))
    sent, came = transfer(one.pods[0], other.pods[0], "tcp", 4, mbytes)
    assert came == sent
    assert not uses_it(one)


@pytest.mark.parametrize("end", ["SIGTERM", "SIGKILL"])
def test_no_tap_is_left(make_lab: MakeLab, end: str) -> None:
    (node,) = make_lab("vxlan", "dataplane").daemons
    assert len(taps(node)) == 2
    if end == "SIGTERM":
        assert node.stop_daemon() == 0
    else:
        node.kill_daemon()
    wait_for(lambda: not taps(node), 90, "the TAPs to go")
    node.start_daemon()
    node.wait_ready()
    assert len(taps(node)) == 2
