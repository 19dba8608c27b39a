"""Each way that is not the TUN alone: the kernel's vxlan device, DirectRouting, host-gw, and clusters that mix them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.lab.cluster import Lab
from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode
from dataplane.lab.topology import Place
from dataplane.lab.traffic import ping
from tests.netns.cluster.modes import Mode, kernel, modes, peers, routes, subnet, two
from tests.traffic import expect_udp

versions = pytest.mark.parametrize("version", [4, 6])


@pytest.fixture(scope="module", params=modes)
def cluster(request: pytest.FixtureRequest) -> Iterator[tuple[str, Lab]]:
    with modes[request.param].lab() as lab:
        lab.start("dataplane", "dataplane")
        yield request.param, lab


@versions
def test_pods_and_nodes_reach_each_other(cluster: tuple[str, Lab], version: int) -> None:
    _, lab = cluster
    one, other = lab.pods
    assert one.ping(other, version, count=20).ok
    assert other.ping(one, version, count=20).ok
    assert ping(lab.nodes[0].name, other.address_of(version)).ok


@versions
@pytest.mark.parametrize("reverse", [False, True])
def test_tcp_and_udp_move_data_both_ways(cluster: tuple[str, Lab], version: int, reverse: bool) -> None:
    _, lab = cluster
    one, other = lab.pods
    assert one.iperf3(other, version, amount=20 << 20, reverse=reverse).gbps > 0.05
    expect_udp(one, other, version, amount=500_000, udp_mbps=4, length=1000, reverse=reverse)


def test_packets_of_the_pods_mtu_pass_whole(cluster: tuple[str, Lab]) -> None:
    name, lab = cluster
    one, other = lab.pods
    mtu = int(one.run("cat", "/sys/class/net/eth0/mtu").stdout)
    assert mtu == (1500 if name == "host-gw" else 1450)
    assert one.ping(other, size=mtu, whole=True).ok
    assert one.ping(other, size=20_000).ok


def test_routes_are_those_that_flannels_users_know(cluster: tuple[str, Lab]) -> None:
    name, lab = cluster
    near, far = lab.daemons
    assert far.net is not None and far.net.ipv6 is not None and far.net.ipv4 is not None
    four, six = far.net.ipv4, far.net.ipv6
    shown4, shown6 = routes(near)[str(four)], routes(near, 6)[str(six)]
    if name == "kernel":
        assert shown4 == f"via {four[0]} dev flannel.1 onlink"
        assert shown6.startswith(f"via {six[0]} dev flannel-v6.1 metric 1024 onlink")
    else:
        assert shown4 == f"via {far.address} dev eth0"
        assert shown6.startswith(f"via {far.address6} dev eth0 metric 1024")
    assert ("10.244.0.0/16" in routes(near)) == (name == "userspace-direct")
    assert {peer["direct"] for peer in peers(near).values()} == {name != "kernel"}


def test_the_status_says_who_carries_the_packets(cluster: tuple[str, Lab]) -> None:
    name, lab = cluster
    status = lab.daemons[0].status()
    assert status is not None
    assert status["datapath"]["kind"] == ("userspace" if name == "userspace-direct" else "kernel")
    assert status["backend"] == ("host-gw" if name == "host-gw" else "vxlan")
    assert status["problems"] == []


def test_the_kernels_device_is_flannels(labs: list[Lab]) -> None:
    """flannel.md section 13; the neighbour and the FDB entry are those of section 5.4."""
    lab = two(labs, kernel)
    near, far = lab.daemons
    assert far.net is not None and far.net.ipv4 is not None
    shown = near.run("ip", "-d", "link", "show", "flannel.1").stdout
    assert "mtu 1450 qdisc noqueue" in shown
    assert (
        "vxlan id 1 local 192.0.2.1 dev eth0 srcport 0 0 dstport 8472 nolearning ttl auto ageing 300 udpcsum" in shown
    )
    mac = peers(near)[subnet(far)]["vtep_mac"]
    (link,) = json.loads(far.run("ip", "-j", "link", "show", "flannel.1").stdout)
    assert link["address"] == mac
    neighbours = near.run("ip", "neigh", "show", "dev", "flannel.1").stdout.strip()
    assert neighbours == f"{far.net.ipv4[0]} lladdr {mac} PERMANENT"
    assert f"{mac} dst 192.0.2.2 self permanent" in near.run("bridge", "fdb", "show", "dev", "flannel.1").stdout


def test_a_cluster_may_mix_datapaths(labs: list[Lab]) -> None:
    """Ours in userspace, ours in the kernel, and a node without us, all of which vxlan joins."""
    lab = Mode("vxlan").lab()
    labs.append(lab)
    nodes = [lab.add("dataplane"), lab.add("dataplane", "--datapath=kernel"), lab.add("kernel")]
    for node in nodes:
        if isinstance(node, DaemonNode):
            node.start_daemon()
    for node in nodes:
        if isinstance(node, DaemonNode):
            node.wait_ready()
        node.add_pod()
    lab.wait_converged()
    for one in lab.pods:
        for other in lab.pods:
            for version in (4, 6):
                assert one is other or one.ping(other, version).ok


@pytest.mark.parametrize("name", ["kernel-direct", "userspace-direct"])
def test_a_peer_behind_a_router_is_reached_through_the_tunnel(labs: list[Lab], name: str) -> None:
    """The way to the peer gains a gateway, and loses it again; each end decides for itself."""
    lab = two(labs, modes[name])
    near, far = lab.daemons
    router = Place(f"{lab.underlay.prefix}-router", "net.ipv4.ip_forward=1", "net.ipv4.conf.all.send_redirects=0")
    try:
        lab.underlay.attach(router, 99)
        assert routes(near)[subnet(far)] == "via 192.0.2.2 dev eth0"
        near.run("ip", "route", "add", "192.0.2.2/32", "via", "192.0.2.99")
        through = None if name == "userspace-direct" else f"via {subnet(far).removesuffix('/24')} dev flannel.1 onlink"
        wait_for(lambda: routes(near).get(subnet(far)) == through, 90, "the tunnel")
        wait_for(lambda: not peers(near)[subnet(far)]["direct"], 90, "the status")
        assert lab.pods[0].ping(lab.pods[1]).ok
        assert lab.pods[1].ping(lab.pods[0]).ok
        near.run("ip", "route", "delete", "192.0.2.2/32")
        wait_for(lambda: routes(near).get(subnet(far)) == "via 192.0.2.2 dev eth0", 90, "the direct route")
        assert lab.pods[0].ping(lab.pods[1]).ok
    finally:
        router.close()


@pytest.mark.parametrize("mode", [Mode("udp"), Mode("vxlan"), *modes.values()])
def test_ipv6_alone(labs: list[Lab], mode: Mode) -> None:
    backend = {"Type": mode.backend, **dict(mode.options)}
    conf = {"EnableIPv4": False, "EnableIPv6": True, "IPv6Network": "fd00:244::/48", "Backend": backend}
    lab = Lab(conf, options=mode.flags)
    labs.append(lab)
    lab.start("dataplane", "dataplane")
    assert lab.pods[0].ping(lab.pods[1], 6, count=10).ok
    assert (lab.daemons[0].status() or {})["problems"] == []


def test_systemd_is_told_of_start_life_and_end(labs: list[Lab], tmp_path: Path) -> None:
    lab = kernel.lab(ipv6=False)
    labs.append(lab)
    node = lab.add("dataplane")
    assert isinstance(node, DaemonNode)
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as service:
        service.bind(str(path))
        service.settimeout(200)
        node.start_daemon(environment={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "400000"})

        def told(wanted: str) -> str:
            while True:
                text = service.recv(4096).decode()
                if text.startswith(wanted):
                    return text

        assert told("READY=1").splitlines()[1] == f"STATUS=lease {str(node.pod_net().ipv4).replace('/', '-')}, 0 peers"
        assert told("WATCHDOG=1") and told("WATCHDOG=1")
        assert node.process is not None
        node.process.terminate()
        assert told("STOPPING=1")
        assert node.process.wait(30) == 0
