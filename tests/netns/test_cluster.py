"""The data plane in clusters of our own daemons: traffic, edges, errors, and life with failures. Both backends.

`cluster` is shared by tests that only send traffic; tests that break something make a lab of their own.
"""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from lab_fixtures import MakeLab

from dataplane.lab.cluster import Lab
from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode
from dataplane.lab.topology import Place, Pod, PodNet
from dataplane.lab.traffic import LongPing, ping
from dataplane.model import LeaseAttrs

backends = pytest.mark.parametrize("backend", ["udp", "vxlan"])
versions = pytest.mark.parametrize("version", [4, 6])
device_of = {"udp": "flannel0", "vxlan": "flannel.1"}


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
    wait_for(lambda: one.ping(other, 6, size=size, count=1, wait_s=0.2).ok, 5, "path MTU discovery")


def free_subnet(lab: Lab) -> IPv4Network:
    """A subnet of the overlay that no node holds."""
    taken = {lease.subnet for lease in lab.book.leases().values()}
    return next(
        net
        for net in IPv4Network("10.244.0.0/16").subnets(new_prefix=24)
        if net not in taken and net[0] != IPv4Address("10.244.0.0")
    )


def attrs(lab: Lab, public: str, mac: str = "02:00:00:00:00:77") -> LeaseAttrs:
    """What a node at this address would publish."""
    if backend_of(lab) == "udp":
        return LeaseAttrs(public_ip=IPv4Address(public))
    return LeaseAttrs(IPv4Address(public), None, "vxlan", {"VNI": 1, "VtepMAC": mac})


def links(node: DaemonNode) -> set[str]:
    return {link["ifname"] for link in json.loads(node.run("ip", "-j", "link").stdout)}


def overlay_routes(node: DaemonNode) -> str:
    shown = node.run("ip", "-4", "route", "show", "10.244.0.0/16").stdout
    return shown + node.run("ip", "-6", "route", "show", "fd00:244::/48").stdout


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
    assert one.iperf3(other, version, seconds=1, reverse=reverse).gbps > 0.05


@versions
@pytest.mark.parametrize("reverse", [False, True])
def test_udp_arrives_whole(cluster: Lab, version: int, reverse: bool) -> None:
    one, other = cluster.pods
    sent = one.iperf3(other, version, seconds=1, reverse=reverse, udp_mbps=10, length=1000)
    assert sent.packets > 1000
    assert sent.lost_percent < 1


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
    """After all the traffic above, only multicast, and what tests provoked, may have been dropped."""
    one, other = cluster.pods
    before = cluster.daemons[0].drops()
    assert one.ping(other, count=50, interval=0.005).ok
    assert one.iperf3(other, seconds=1).gbps > 0.05
    after = cluster.daemons[0].drops()
    grown = {reason for reason in after if after[reason] > before.get(reason, 0)}
    assert grown <= {"send_multicast"}


# Peers coming and going


@backends
def test_peers_come_and_go_without_a_lost_ping(make_lab: MakeLab, backend: str) -> None:
    lab = make_lab(backend, "dataplane", "dataplane", ipv6=False)
    watched = lab.daemons[0]
    going_on = LongPing(lab.pods[0].name, lab.pods[1].address)

    def peers() -> int:
        return len({peer["public_ip"] for peer in (watched.status() or {}).get("peers", ())})

    before = peers()
    for wave in range(2):
        for number in range(20):
            lab.book.acquire(attrs(lab, f"192.0.2.{100 + number}", f"02:00:00:00:{wave:02x}:{number:02x}"), ttl=2.0)
        wait_for(lambda: peers() == before + 20, 5, "peers to come")
        wait_for(lambda: peers() == before, 10, "peers to go")
    seen = going_on.stop()
    assert seen.sent > 100
    # The last request may have been under way.
    assert seen.received >= seen.sent - 1, seen.text


@backends
def test_an_expired_lease_stops_forwarding(make_lab: MakeLab, backend: str) -> None:
    lab = make_lab(backend, "dataplane", ipv6=False)
    # A host on the underlay that holds no daemon: its kernel counts what arrives for no socket.
    host = Place(f"{lab.underlay.prefix}-host")
    try:
        lab.underlay.attach(host, 77)

        def arrived() -> int:
            return sum(json.loads(host.run("nstat", "-asj", "UdpNoPorts").stdout)["kernel"].values())

        lease = lab.book.acquire(attrs(lab, "192.0.2.77"), ttl=1.5)
        assert lease.subnet is not None
        address = str(lease.subnet[2])
        node, pod = lab.daemons[0], lab.pods[0]
        wait_for(
            lambda: str(lease.subnet) in {peer["subnet"] for peer in (node.status() or {})["peers"]}, 1, "the peer"
        )
        assert "Unreachable" not in ping(pod.name, address, count=3, wait_s=0.2).text
        assert arrived() >= 3
        wait_for(lambda: not (node.status() or {"peers": [1]})["peers"], 10, "the peer to go")
        before = arrived()
        assert "Destination Net Unreachable" in ping(pod.name, address, count=3, wait_s=0.2).text
        assert arrived() == before
    finally:
        lab.underlay.detach(77)
        host.close()


# Repair


@backends
@versions
def test_a_deleted_route_is_put_back(make_lab: MakeLab, backend: str, version: int) -> None:
    lab = make_lab(backend, "dataplane", "dataplane")
    node = lab.daemons[0]
    network = {4: "10.244.0.0/16", 6: "fd00:244::/48"}[version]
    node.run("ip", f"-{version}", "route", "delete", network)
    wait_for(lambda: network in overlay_routes(node), 5, "the route to be back")
    assert lab.pods[0].ping(lab.pods[1], version).ok


@backends
def test_a_deleted_device_is_put_back(make_lab: MakeLab, backend: str) -> None:
    lab = make_lab(backend, "dataplane", "dataplane")
    node = lab.daemons[0]
    device = device_of[backend]
    node.run("ip", "link", "delete", device)
    wait_for(lambda: device in links(node) and "10.244.0.0/16" in overlay_routes(node), 10, "the device to be back")
    lab.wait_converged()
    for version in (4, 6):
        assert lab.pods[0].ping(lab.pods[1], version).ok
        assert lab.pods[1].ping(lab.pods[0], version).ok


@backends
def test_a_device_set_down_comes_up_again(make_lab: MakeLab, backend: str) -> None:
    lab = make_lab(backend, "dataplane", "dataplane")
    node = lab.daemons[0]
    node.run("ip", "link", "set", device_of[backend], "down")
    wait_for(lambda: "10.244.0.0/16" in overlay_routes(node), 5, "the route to be back")
    assert lab.pods[0].ping(lab.pods[1]).ok


# Start and stop


@backends
def test_subnet_env_is_there_within_a_second(make_lab: MakeLab, backend: str) -> None:
    lab = make_lab(backend)
    node = lab.add("dataplane")
    assert isinstance(node, DaemonNode)
    node.start_daemon()
    wait_for(node.subnet_file.exists, 1.0, "subnet.env")
    node.wait_ready()
    text = node.subnet_file.read_text()
    assert "FLANNEL_NETWORK=10.244.0.0/16\n" in text and "FLANNEL_IPV6_NETWORK=fd00:244::/48\n" in text
    mtu = {"udp": 1472, "vxlan": 1450}[backend]
    assert node.pod_net().mtu == mtu and f"FLANNEL_MTU={mtu}\n" in text


@backends
def test_sigterm_leaves_no_device_and_no_route(make_lab: MakeLab, backend: str) -> None:
    lab = make_lab(backend, "dataplane")
    node = lab.daemons[0]
    assert device_of[backend] in links(node)
    assert node.stop_daemon() == 0
    assert links(node) == {"lo", "eth0", "cni0", "pod1"}
    assert overlay_routes(node) == ""
    assert node.subnet_file.exists()
    assert node.status() is None


@backends
def test_a_killed_daemon_starts_again_where_it_was(make_lab: MakeLab, backend: str) -> None:
    lab = make_lab(backend, "dataplane", "dataplane")
    node = lab.daemons[0]
    before: PodNet = node.pod_net()
    mac = (node.status() or {})["lease"].get("vtep_mac")
    node.kill_daemon()
    assert device_of[backend] not in links(node)
    assert not lab.pods[0].ping(lab.pods[1], wait_s=0.2).ok
    node.start_daemon()
    node.wait_ready()
    lab.wait_converged()
    assert node.pod_net() == before
    assert (node.status() or {})["lease"].get("vtep_mac") == mac
    for version in (4, 6):
        assert lab.pods[0].ping(lab.pods[1], version).ok
        assert lab.pods[1].ping(lab.pods[0], version).ok


@backends
def test_a_stop_in_the_middle_of_traffic_is_clean(make_lab: MakeLab, backend: str) -> None:
    lab = make_lab(backend, "dataplane", "dataplane")
    flood = LongPing(lab.pods[0].name, lab.pods[1].address, interval=0.002)
    node = lab.daemons[1]
    wait_for(lambda: sum(peer["rx_packets"] for peer in (node.status() or {"peers": []})["peers"]) > 100, 5, "traffic")
    assert node.stop_daemon() == 0
    node.start_daemon()
    node.wait_ready()
    lab.wait_converged()
    assert lab.pods[0].ping(lab.pods[1]).ok
    assert flood.stop().received > 0


@backends
def test_a_second_daemon_in_the_same_run_dir_is_refused(make_lab: MakeLab, backend: str) -> None:
    lab = make_lab(backend, "dataplane")
    node = lab.daemons[0]
    first = node.process
    assert first is not None
    node.process = None
    try:
        node.start_daemon()
        assert node.process is not None
        assert node.process.wait(timeout=10) == 1
    finally:
        node.process = first
    assert "is in use by another daemon" in node.log()
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=10) == 0
