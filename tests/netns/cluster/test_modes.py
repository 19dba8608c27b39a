"""Each way that is not the TUN alone: the kernel's vxlan device, DirectRouting, host-gw, and clusters that mix them."""

from __future__ import annotations

import json
import socket
import sqlite3
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.commands import run, wait_for
from dataplane.lab.node import DaemonNode, Node
from dataplane.lab.topology import Place
from dataplane.lab.traffic import LongPing, ping
from dataplane.model import LeaseAttrs

versions = pytest.mark.parametrize("version", [4, 6])


@dataclass(frozen=True)
class Mode:
    """A backend with its options, and the daemons' flags."""

    backend: str
    options: tuple[tuple[str, object], ...] = ()
    flags: tuple[str, ...] = ()

    def lab(self, *, ipv6: bool = True) -> Lab:
        return Lab(net_conf(self.backend, ipv6=ipv6, options=dict(self.options)), options=self.flags)


kernel = Mode("vxlan", flags=("--datapath=kernel",))
direct = (("DirectRouting", True),)
modes = {
    "kernel": kernel,
    "kernel-direct": Mode("vxlan", direct, ("--datapath=kernel",)),
    "userspace-direct": Mode("vxlan", direct),
    "host-gw": Mode("host-gw"),
}
every_mode = pytest.mark.parametrize("name", modes)


@pytest.fixture
def labs() -> Iterator[list[Lab]]:
    """Labs put in here are removed at the end."""
    made: list[Lab] = []
    try:
        yield made
    finally:
        for lab in made:
            print(lab.logs(lines=60))  # pytest shows it with a test that failed
            lab.close()


@pytest.fixture(scope="module", params=modes)
def cluster(request: pytest.FixtureRequest) -> Iterator[tuple[str, Lab]]:
    with modes[request.param].lab() as lab:
        lab.start("dataplane", "dataplane")
        yield request.param, lab


def two(labs: list[Lab], mode: Mode, *, ipv6: bool = False) -> Lab:
    labs.append(mode.lab(ipv6=ipv6))
    labs[-1].start("dataplane", "dataplane")
    return labs[-1]


def routes(node: Node, version: int = 4) -> dict[str, str]:
    """What `ip route` shows behind each prefix."""
    lines = node.run("ip", f"-{version}", "route", "show").stdout.splitlines()
    return {line.split(" ", 1)[0]: line.split(" ", 1)[1].strip() for line in lines}


def subnet(node: Node) -> str:
    assert node.net is not None
    return str(node.net.ipv4)


def peers(node: DaemonNode) -> dict[str, dict[str, object]]:
    return {peer["subnet"]: peer for peer in (node.status() or {})["peers"]}


# Traffic


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
    sent = one.iperf3(other, version, amount=500_000, reverse=reverse, udp_mbps=4, length=1000)
    assert sent.packets >= 500
    assert sent.lost_percent < 1


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


# Mixed


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


# Which way


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


# Peers and routes that come and go


@every_mode
def test_peers_come_and_go_with_all_that_they_need(labs: list[Lab], name: str) -> None:
    lab = two(labs, modes[name])
    near = lab.daemons[0]
    data = {"VNI": 1, "VtepMAC": "02:00:00:00:00:77"}
    attrs = LeaseAttrs(IPv4Address("192.0.2.77"), None, "vxlan", data)
    if name == "host-gw":
        attrs = LeaseAttrs(IPv4Address("192.0.2.77"), None, "host-gw")
    going_on = LongPing(lab.pods[0].name, lab.pods[1].address)
    lease = lab.book.acquire(attrs, ttl=2.0)
    wait_for(lambda: str(lease.subnet) in routes(near), 90, "the peer's route")

    def fdb() -> str:
        return near.run("bridge", "fdb", "show").stdout

    if name == "kernel":
        wait_for(lambda: "02:00:00:00:00:77 dev flannel.1 dst 192.0.2.77 self permanent" in fdb(), 90, "the entry")
    wait_for(lambda: str(lease.subnet) not in routes(near), 90, "the route to go")
    wait_for(lambda: "02:00:00:00:00:77" not in fdb(), 90, "the entry to go")
    wait_for(lambda: str(lease.subnet) not in peers(near), 90, "the peer to go")
    seen = going_on.stop()
    assert seen.received >= seen.sent - 1, seen.text


def test_a_vtep_mac_that_another_lease_claims_stays_with_its_peer(labs: list[Lab]) -> None:
    """The kernel finds the peer by the MAC alone, so whoever claims it would get the traffic: the older lease keeps it."""
    lab = two(labs, kernel)
    near, far = lab.daemons
    mac = peers(near)[subnet(far)]["vtep_mac"]
    thief = lab.book.acquire(LeaseAttrs(IPv4Address("192.0.2.66"), None, "vxlan", {"VNI": 1, "VtepMAC": mac}))
    wait_for(lambda: f"lease {thief.key} is not used" in near.log(), 90, "the thief's refusal")
    assert str(thief.subnet) not in routes(near)
    entries = near.run("bridge", "fdb", "show", "dev", "flannel.1").stdout
    assert f"{mac} dst 192.0.2.2 self permanent" in entries
    assert "192.0.2.66" not in entries
    assert lab.pods[0].ping(lab.pods[1]).ok


@every_mode
def test_a_removed_route_is_back(labs: list[Lab], name: str) -> None:
    lab = two(labs, modes[name])
    near, far = lab.daemons
    before = routes(near)[subnet(far)]
    near.run("ip", "route", "delete", subnet(far))
    wait_for(lambda: routes(near).get(subnet(far)) == before, 90, "the route")
    assert lab.pods[0].ping(lab.pods[1]).ok
    assert near.log().count("put back routes that were gone or changed") == 1


@every_mode
def test_routes_come_back_after_a_link_flap(labs: list[Lab], name: str) -> None:
    lab = two(labs, modes[name])
    near, far = lab.daemons
    before = routes(near)[subnet(far)]
    near.run("ip", "link", "set", "eth0", "down")
    near.run("ip", "link", "set", "eth0", "up")
    wait_for(lambda: routes(near).get(subnet(far)) == before, 90, "the route")
    wait_for(lambda: lab.pods[0].ping(lab.pods[1], count=1, wait_s=0.2).ok, 90, "the peer to answer")
    wait_for(lambda: bool((near.status() or {}).get("ready")), 90, "readiness")


def test_a_deleted_kernel_device_comes_back_with_its_peers(labs: list[Lab]) -> None:
    """flannel makes the device anew, and leaves it without peers (BUG E)."""
    lab = two(labs, kernel)
    near, far = lab.daemons
    (before,) = json.loads(near.run("ip", "-j", "link", "show", "flannel.1").stdout)
    near.run("ip", "link", "delete", "flannel.1")
    wait_for(lambda: subnet(far) in routes(near), 90, "the device and its routes")
    (after,) = json.loads(near.run("ip", "-j", "link", "show", "flannel.1").stdout)
    assert after["address"] == before["address"]
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


@pytest.mark.parametrize("name", ["kernel", "kernel-direct", "host-gw"])
def test_traffic_goes_on_while_the_daemon_restarts(labs: list[Lab], name: str) -> None:
    lab = two(labs, modes[name])
    near = lab.daemons[0]
    going_on = LongPing(lab.pods[0].name, lab.pods[1].address)
    assert near.stop_daemon() == 0
    near.start_daemon()
    near.wait_ready()
    lab.wait_converged()
    seen = going_on.stop()
    assert seen.sent > 20
    assert seen.received >= seen.sent - 1, seen.text


@pytest.mark.parametrize("name", ["kernel", "userspace-direct", "host-gw"])
def test_a_lost_lease_takes_everything_away(labs: list[Lab], name: str) -> None:
    lab = two(labs, modes[name])
    near, far = lab.daemons
    (database,) = Path(lab.lease_dir).glob("*.sqlite3")
    with sqlite3.connect(database) as connection:
        connection.execute("DELETE FROM lease WHERE node = '192.0.2.1'")
    connection.close()
    assert near.process is not None
    assert near.process.wait(30) == 1
    assert "is gone: it expired or was deleted" in near.log()
    assert subnet(far) not in routes(near)
    assert "flannel.1" not in near.run("ip", "link").stdout


# DirectRouting


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


# The external interface


@pytest.mark.parametrize("name", ["userspace-direct", "kernel", "host-gw"])
def test_a_new_address_is_told_and_the_subnet_stays(labs: list[Lab], name: str) -> None:
    lab = two(labs, modes[name])
    near, far = lab.daemons
    before = subnet(far)
    far.batch("address delete 192.0.2.2/24 dev eth0", "address add 192.0.2.52/24 dev eth0")
    wait_for(lambda: peers(near).get(before, {}).get("public_ip") == "192.0.2.52", 90, "the peer's new address")
    far.wait_ready()
    assert far.pod_net() == far.net
    wait_for(lambda: lab.pods[0].ping(lab.pods[1], count=1, wait_s=0.2).ok, 90, "the pods to reach each other")
    assert lab.pods[1].ping(lab.pods[0]).ok


@pytest.mark.parametrize("name", ["userspace-direct", "kernel", "host-gw"])
def test_a_new_mtu_is_taken_up(labs: list[Lab], name: str) -> None:
    lab = two(labs, modes[name])
    node = lab.daemons[0]
    assert node.net is not None
    before = node.net.mtu
    node.run("ip", "link", "set", "eth0", "mtu", "1400")
    wait_for(lambda: node.pod_net().mtu == before - 100, 90, "subnet.env to say so")
    node.wait_ready()
    if name != "host-gw":
        (link,) = json.loads(node.run("ip", "-j", "link", "show", "flannel.1").stdout)
        assert link["mtu"] == 1350
    assert lab.pods[0].ping(lab.pods[1]).ok


# IPv6 alone, and systemd


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
        service.settimeout(60)
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
