"""A cluster's life, over both backends: peers come and go, things are broken by hand, daemons start, stop and die."""

from __future__ import annotations

import json
import signal
from ipaddress import IPv4Address

import pytest

from dataplane.lab.cluster import Lab
from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode
from dataplane.lab.topology import Place, PodNet
from dataplane.lab.traffic import ping
from dataplane.model import LeaseAttrs
from tests.lab_fixtures import MakeLab
from tests.traffic import LongPing

backends = pytest.mark.parametrize("backend", ["udp", "vxlan"])
versions = pytest.mark.parametrize("version", [4, 6])
device_of = {"udp": "flannel0", "vxlan": "flannel.1"}


def attrs(lab: Lab, public: str, mac: str = "02:00:00:00:00:77") -> LeaseAttrs:
    """What a node at this address would publish."""
    if lab.conf["Backend"]["Type"] == "udp":
        return LeaseAttrs(public_ip=IPv4Address(public))
    return LeaseAttrs(IPv4Address(public), None, "vxlan", {"VNI": 1, "VtepMAC": mac})


def links(node: DaemonNode) -> set[str]:
    return {link["ifname"] for link in json.loads(node.run("ip", "-j", "link").stdout)}


def overlay_routes(node: DaemonNode) -> str:
    shown = node.run("ip", "-4", "route", "show", "10.244.0.0/16").stdout
    return shown + node.run("ip", "-6", "route", "show", "fd00:244::/48").stdout


# Peers coming and going


@pytest.mark.parametrize("backend", ["vxlan", pytest.param("udp", marks=pytest.mark.long)])
def test_peers_come_and_go_without_a_lost_ping(make_lab: MakeLab, backend: str) -> None:
    lab = make_lab(backend, "dataplane", "dataplane", ipv6=False)
    watched = lab.daemons[0]
    going_on = LongPing(lab.pods[0].name, lab.pods[1].address)

    def peers() -> int:
        return len({peer["public_ip"] for peer in (watched.status() or {}).get("peers", ())})

    before = peers()
    for wave in range(2):
        for number in range(20):
            lab.book.acquire(attrs(lab, f"192.0.2.{100 + number}", f"02:00:00:00:{wave:02x}:{number:02x}"), ttl=10.0)
        wait_for(lambda: peers() == before + 20, 90, "peers to come")
        wait_for(lambda: peers() == before, 90, "peers to go")
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
        wait_for(lambda: not (node.status() or {"peers": [1]})["peers"], 90, "the peer to go")
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
    wait_for(lambda: network in overlay_routes(node), 90, "the route to be back")
    assert lab.pods[0].ping(lab.pods[1], version).ok


@backends
def test_a_deleted_device_is_put_back(make_lab: MakeLab, backend: str) -> None:
    lab = make_lab(backend, "dataplane", "dataplane")
    node = lab.daemons[0]
    device = device_of[backend]
    node.run("ip", "link", "delete", device)
    wait_for(lambda: device in links(node) and "10.244.0.0/16" in overlay_routes(node), 90, "the device to be back")
    lab.wait_converged()
    for version in (4, 6):
        assert lab.pods[0].ping(lab.pods[1], version).ok
        assert lab.pods[1].ping(lab.pods[0], version).ok


@backends
def test_a_device_set_down_comes_up_again(make_lab: MakeLab, backend: str) -> None:
    lab = make_lab(backend, "dataplane", "dataplane")
    node = lab.daemons[0]
    node.run("ip", "link", "set", device_of[backend], "down")
    wait_for(lambda: "10.244.0.0/16" in overlay_routes(node), 90, "the route to be back")
    assert lab.pods[0].ping(lab.pods[1]).ok


# Start and stop


@backends
def test_subnet_env_is_flannels(make_lab: MakeLab, backend: str) -> None:
    lab = make_lab(backend)
    node = lab.add("dataplane")
    assert isinstance(node, DaemonNode)
    node.start_daemon()
    wait_for(node.subnet_file.exists, 90, "subnet.env")
    node.wait_ready()
    text = node.subnet_file.read_text()
    assert "FLANNEL_NETWORK=10.244.0.0/16\n" in text and "FLANNEL_IPV6_NETWORK=fd00:244::/48\n" in text
    mtu = {"udp": 1472, "vxlan": 1450}[backend]
    assert node.pod_net().mtu == mtu and f"FLANNEL_MTU={mtu}\n" in text


@backends
def test_sigterm_leaves_the_device_and_its_routes_for_the_next_daemon(make_lab: MakeLab, backend: str) -> None:
    lab = make_lab(backend, "dataplane")
    node = lab.daemons[0]
    devices = {name for name in links(node) - {"lo", "eth0", "cni0", "pod1"} if "gso" not in name}
    assert device_of[backend] in devices
    routes = overlay_routes(node)
    assert node.stop_daemon() == 0
    assert links(node) == {"lo", "eth0", "cni0", "pod1", *devices}
    assert overlay_routes(node).replace(" linkdown", "") == routes
    assert node.subnet_file.exists()
    assert node.status() is None


@backends
@pytest.mark.parametrize("ends", ["stops", "is killed"])
def test_the_device_goes_with_a_daemon_that_is_to_leave_none(make_lab: MakeLab, backend: str, ends: str) -> None:
    lab = make_lab(backend, "dataplane", options=("--leave-tun=false",))
    node = lab.daemons[0]
    assert device_of[backend] in links(node)
    (node.stop_daemon if ends == "stops" else node.kill_daemon)()
    # A command that the daemon was about to start when it was killed has its descriptors until it runs.
    wait_for(lambda: links(node) == {"lo", "eth0", "cni0", "pod1"}, 10, "the device to go")
    assert overlay_routes(node) == ""


@backends
def test_a_killed_daemon_starts_again_where_it_was(make_lab: MakeLab, backend: str) -> None:
    lab = make_lab(backend, "dataplane", "dataplane")
    node = lab.daemons[0]
    before: PodNet = node.pod_net()
    mac = (node.status() or {})["lease"].get("vtep_mac")
    node.kill_daemon()
    assert device_of[backend] in links(node)
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
    wait_for(lambda: sum(peer["rx_packets"] for peer in (node.status() or {"peers": []})["peers"]) > 100, 90, "traffic")
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
        assert node.process.wait(timeout=200) == 1
    finally:
        node.process = first
    assert "is in use by another daemon" in node.log()
    assert first.poll() is None
    first.send_signal(signal.SIGTERM)
    assert first.wait(timeout=200) == 0


@backends
@pytest.mark.parametrize("what", ["overlay", "subnet file"])
def test_a_second_daemon_of_the_same_overlay_or_subnet_file_is_refused(
    make_lab: MakeLab, backend: str, what: str
) -> None:
    lab = make_lab(backend, "dataplane")
    node = lab.daemons[0]
    first, run_dir, subnet_file = node.process, node.run_dir, node.subnet_file
    assert first is not None
    node.process = None
    another = {"--run-dir": str(node.directory / "second"), "--healthz-port": "0"}
    if what == "overlay":
        another["--subnet-file"] = str(node.directory / "second.env")
    else:
        conf = node.directory / "second.json"
        conf.write_text(json.dumps({"Network": "10.99.0.0/16", "Backend": {"Type": backend, "VNI": 99}}))
        another["--net-config-path"] = str(conf)
    try:
        node.start_daemon(*(f"{flag}={value}" for flag, value in another.items()))
        assert node.process is not None
        assert node.process.wait(timeout=200) == 1
    finally:
        node.process = first
    refused = str(subnet_file) if what == "subnet file" else "flannel.1" if backend == "vxlan" else "10.244.0.0/16"
    assert f"{refused} is in use by another daemon (pid {first.pid})" in node.log()
    assert first.poll() is None and subnet_file.exists() and (run_dir / "status.sock").exists()
