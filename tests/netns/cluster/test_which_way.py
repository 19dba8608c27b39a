"""Which way packets are carried: what `auto` takes, what an explicit datapath refuses, and what was left from another."""

from __future__ import annotations

import json
import sys

import pytest

from dataplane.lab.cluster import Lab
from dataplane.lab.commands import run, wait_for
from dataplane.lab.node import DaemonNode
from tests.netns.cluster.modes import Mode, kernel, routes, subnet, two


def test_auto_takes_the_kernel_where_it_has_vxlan(labs: list[Lab]) -> None:
    lab = two(labs, Mode("vxlan", flags=("--datapath=auto",)))
    status = lab.daemons[0].status()
    assert status is not None
    assert status["datapath"] == {"kind": "kernel", "reason": "--datapath auto, and the kernel has vxlan"}


def test_auto_falls_back_visibly(labs: list[Lab]) -> None:
    """The kernel refuses a second device with this VNI and port; the first is not up, so the port is free."""
    lab = Mode("vxlan", flags=("--datapath=auto",)).lab(ipv6=False)
    labs.append(lab)
    node = lab.add("dataplane")
    assert isinstance(node, DaemonNode)
    node.batch("link add other type vxlan id 1 dev eth0 dstport 8472 local 192.0.2.1")
    node.start_daemon()
    node.wait_ready()
    status = node.status()
    assert status is not None
    assert status["datapath"]["kind"] == "userspace"
    assert "the kernel's vxlan is not to be had" in status["datapath"]["reason"]
    assert "the device other has its VNI 1 and port 8472" in status["datapath"]["reason"]
    assert "the kernel's vxlan is not to be had" in node.log()


def test_the_kernel_asked_for_and_refused_ends_the_start(labs: list[Lab]) -> None:
    lab = kernel.lab(ipv6=False)
    labs.append(lab)
    node = lab.add("dataplane")
    assert isinstance(node, DaemonNode)
    node.batch("link add other type vxlan id 1 dev eth0 dstport 8472 local 192.0.2.1")
    node.start_daemon()
    assert node.process is not None
    assert node.process.wait(30) == 1
    assert "cannot make the vxlan device flannel.1: the device other has its VNI 1 and port 8472" in node.log()


def test_a_port_that_a_socket_has_is_named(labs: list[Lab]) -> None:
    lab = kernel.lab(ipv6=False)
    labs.append(lab)
    node = lab.add("dataplane")
    assert isinstance(node, DaemonNode)
    hold = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 8472)); s.recv(1)"
    listener = node.start(sys.executable, "-c", hold)
    try:
        wait_for(lambda: ":8472" in node.run("ss", "-lun").stdout, 90, "the listener")
        node.start_daemon()
        assert node.process is not None
        node.process.wait(30)
    finally:
        listener.kill()
        listener.wait()
    assert "cannot bring up flannel.1: UDP port 8472 is in use" in node.log()


@pytest.mark.parametrize("flag", ["--datapath=kernel", "--datapath=userspace"])
def test_a_node_behind_a_nat_has_overlay_traffic(labs: list[Lab], flag: str) -> None:
    """Its cable's other end translates: peers know the node by an address that it does not have itself."""
    lab = kernel.lab(ipv6=False)
    labs.append(lab)
    near, public = lab.add("dataplane"), "198.51.100.1"
    inside = lab.add("dataplane", f"--public-ip={public}", flag)
    (link,) = json.loads(inside.run("ip", "-j", "link", "show", "eth0").stdout)
    near.batch(
        f"route add {public} dev eth0", f"neigh replace {public} lladdr {link['address']} dev eth0 nud permanent"
    )
    port = lab.underlay.port(2)
    lines = (
        f"add table netdev {port}",
        f"add chain netdev {port} out {{ type filter hook ingress device {port} priority 0; }}",
        f"add rule netdev {port} out ip saddr {inside.address} udp dport 8472 ip saddr set {public}",
        f"add chain netdev {port} in {{ type filter hook egress device {port} priority 0; }}",
        f"add rule netdev {port} in ip daddr {public} ip daddr set {inside.address}",
    )
    run(None, "nft", "; ".join(lines))
    for node in lab.daemons:
        node.start_daemon()
    for node in lab.daemons:
        node.wait_ready()
        node.add_pod()
    lab.wait_converged()
    assert lab.pods[0].ping(lab.pods[1]).ok
    assert lab.pods[1].ping(lab.pods[0]).ok


def test_userspace_takes_the_place_of_a_device_that_was_left(labs: list[Lab]) -> None:
    lab = two(labs, kernel)
    node = lab.daemons[0]
    node.stop_daemon()
    assert subnet(lab.daemons[1]) in routes(node)
    node.start_daemon("--datapath=userspace")
    node.wait_ready()
    assert "removed vxlan devices of the kernel that an earlier life left: flannel.1" in node.log()
    assert node.run("tc", "filter", "show", "dev", "eth0", "ingress").stdout == ""
    lab.wait_converged()
    assert lab.pods[0].ping(lab.pods[1]).ok


def test_what_an_earlier_life_left_goes_and_the_rest_stays(labs: list[Lab]) -> None:
    lab = kernel.lab(ipv6=False)
    labs.append(lab)
    node = lab.add("dataplane")
    assert isinstance(node, DaemonNode)
    node.start_daemon()
    node.wait_ready()
    node.stop_daemon()
    node.batch(
        "neigh add 10.244.200.0 lladdr 02:00:00:00:00:99 dev flannel.1 nud permanent",
        "route add 10.244.200.0/24 via 10.244.200.0 dev flannel.1 onlink",
        "route add 10.244.201.0/24 via 192.0.2.99",
        "route add 10.244.202.0/24 via 192.0.2.99 proto static",
        "route add 198.51.100.0/24 via 192.0.2.99",
        "route add blackhole 10.244.203.0/24",
    )
    node.run("bridge", "fdb", "add", "02:00:00:00:00:99", "dev", "flannel.1", "dst", "192.0.2.99", "self", "permanent")
    node.start_daemon()
    node.wait_ready()
    shown = node.run("ip", "route").stdout
    assert "10.244.200.0" not in shown and "10.244.201.0" not in shown
    assert "10.244.202.0/24 via 192.0.2.99" in shown
    assert "198.51.100.0/24 via 192.0.2.99" in shown
    assert "blackhole 10.244.203.0/24" in shown
    assert "10.244.200.0" not in node.run("ip", "neigh").stdout
    assert "02:00:00:00:00:99" not in node.run("bridge", "fdb").stdout
