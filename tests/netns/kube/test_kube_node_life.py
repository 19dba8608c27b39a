"""Our own Node goes and comes back under a living daemon: nothing is carried meanwhile, and what it is then is taken up."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from dataplane.lab.commands import CommandFailed, wait_for
from dataplane.lab.node import DaemonNode, healthz_port
from tests.apiserver.process import Server
from tests.netns.cni.network import CniNetwork, CniPod, install
from tests.netns.kube.kube_cluster import KubeCluster

prefix = "flannel.alpha.coreos.com/"
modes = {
    "vxlan": ("vxlan", ()),
    "vxlan-kernel": ("vxlan", ("--datapath=kernel",)),
    "host-gw": ("host-gw", ()),
}
first = "10.244.1.0/24"  # the subnet of the peer, node1
probe = f"""
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen("http://127.0.0.1:{healthz_port}/" + sys.argv[1], timeout=5).status)
except urllib.error.HTTPError as error:
    print(error.code, error.read().decode())
"""


def peers(node: DaemonNode) -> set[str]:
    return {peer["subnet"] for peer in (node.status() or {}).get("peers", ())}


def problems(node: DaemonNode) -> str:
    return "\n".join((node.status() or {}).get("problems", ()))


def test_what_a_start_reads_of_the_node_is_read_anew(tmp_path: Path) -> None:
    """The administrator's address; and the blackhole route of a subnet that is no longer ours goes."""
    with KubeCluster(tmp_path, "vxlan", flags=("--ip-blackhole-route", "--iptables-resync=1")) as cluster:
        server, lab = cluster.server, cluster.lab
        lab.add("dataplane")
        node = lab.daemons[0]
        node.start_daemon()
        node.wait_ready()
        blackholes = ("ip", "route", "show", "type", "blackhole")
        wait_for(lambda: node.run(*blackholes).stdout.split() == ["blackhole", first], 90, "the blackhole route")
        server.delete_node("node1")
        wait_for(lambda: "until there is another" in problems(node), 90, "the daemon to wait for its Node")
        wait_for(lambda: node.run(*blackholes).stdout == "", 90, "the blackhole route to be gone")
        # What cannot be used is waited for too: once there was a daemon here that was ready.
        server.add_node("node1", "172.31.0.0/24", annotations={f"{prefix}node-public-ip": "nowhere"})
        wait_for(lambda: 'node-public-ip: "nowhere"' in problems(node), 90, "the wrong address to be told")
        server.annotate("node1", {f"{prefix}node-public-ip": "192.0.2.99"})
        wait_for(lambda: "doesn't contain" in problems(node), 90, "the wrong subnet to be told")
        server.patch("node1", {"spec": {"podCIDR": "10.244.7.0/24", "podCIDRs": ["10.244.7.0/24"]}})
        node.wait_ready()
        assert server.node("node1")["metadata"]["annotations"][f"{prefix}public-ip"] == "192.0.2.99"
        expected = ["blackhole", "10.244.7.0/24"]
        wait_for(lambda: node.run(*blackholes).stdout.split() == expected, 90, "the new blackhole route")
        server.delete_node("node1")
        wait_for(lambda: "no lease yet" in problems(node), 90, "the daemon to wait again")
        assert node.stop_daemon() == 0


# Two clusters at a time would have one address on two bridges: from here on there is this one alone


class Pair:
    """A peer that stays, node1, and node2, whose Node goes and comes back; a pod on each, made by CNI."""

    def __init__(self, cluster: KubeCluster) -> None:
        self.server = cluster.server
        bin_dir = install(cluster.lab.directory / "bin")
        for _ in range(2):
            cluster.lab.add("dataplane")
        self.peer, self.node = cluster.lab.daemons
        for node in cluster.lab.daemons:
            node.start_daemon()
        for node in cluster.lab.daemons:
            node.wait_ready()
        self.peers_pod, self.pod = (CniNetwork(node, bin_dir).add_pod() for node in cluster.lab.daemons)
        cluster.lab.wait_converged()
        self.bin_dir = bin_dir

    def subnet(self) -> str:
        """Return the subnet that the Node has."""
        text: str = self.server.node("node2")["spec"]["podCIDR"]
        return text

    def pod_anew(self) -> CniPod:
        """Put a pod of the present subnet in the place of the one that there is; the bridge has a subnet's address too."""
        self.pod.close()
        self.node.pods.remove(self.pod)
        self.node.run("ip", "link", "delete", "cni0")
        self.pod = CniNetwork(self.node, self.bin_dir).add_pod()
        return self.pod


@pytest.fixture(scope="module", params=modes)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    backend, flags = modes[request.param]
    directory = tmp_path_factory.mktemp("kube")
    with KubeCluster(directory, backend, flags=("--ip-masq", *flags)) as cluster:
        yield Pair(cluster)


def network_said(server: Server, name: str) -> bool:
    conditions = server.node(name)["status"]["conditions"]
    return [one["status"] for one in conditions if one["type"] == "NetworkUnavailable"] == ["False"]


def wait_route_gone(node: DaemonNode, subnet: str) -> None:
    """The kernel's routes follow the peers that status shows, a moment later."""
    wait_for(lambda: f"{subnet} " not in node.run("ip", "route").stdout, 90, f"the route of {subnet} to go")


def wait_withdrawn(pair: Pair, subnet: str, reason: str = 'nodes "node2" not found') -> None:
    """Wait until node2's daemon waits for its Node, and see that nothing is left that would carry a packet."""
    node = pair.node
    told = f"lease {subnet.replace('/', '-')} is gone: there is no node node2 any more; nothing is carried until"
    wait_for(lambda: told in problems(node) and reason in problems(node), 90, "the daemon to wait for its Node")
    assert node.process is not None
    assert node.process.poll() is None
    assert node.run(sys.executable, "-c", probe, "readyz").stdout.startswith("503 ")
    assert node.run(sys.executable, "-c", probe, "healthz").stdout == "200\n"  # the kubelet lets it live
    assert (node.status() or {})["lease"] is None
    assert "flannel.1" not in node.run("ip", "link").stdout
    assert first not in node.run("ip", "route").stdout
    assert not node.subnet_file.exists()
    wait_for(lambda: subnet not in peers(pair.peer), 90, "its peer to forget it")
    wait_route_gone(pair.peer, subnet)
    assert not pair.pod.ping(pair.peers_pod, count=1, wait_s=1.0).ok


def wait_taken_up(pair: Pair, subnet: str) -> None:
    """Wait until node2 is ready with this subnet, everything as after a start."""
    node, server = pair.node, pair.server
    wait_for(lambda: peers(pair.peer) == {subnet}, 90, "its peer to know it")
    node.wait_ready()
    assert str(node.pod_net().ipv4) == subnet
    texts = server.node("node2")["metadata"]["annotations"]
    assert texts[f"{prefix}kube-subnet-manager"] == "true"
    assert texts[f"{prefix}public-ip"] == str(node.address)
    wait_for(lambda: network_said(server, "node2"), 90, "the network to be announced")
    if "flannel.1" in node.run("ip", "link").stdout:
        addresses = json.loads(node.run("ip", "-json", "address", "show", "dev", "flannel.1").stdout)
        own = [one["local"] for one in addresses[0]["addr_info"] if one["family"] == "inet"]
        assert own == [subnet.replace("/24", "")]


def both_ways(pair: Pair) -> None:
    assert pair.peers_pod.ping(pair.pod).ok
    assert pair.pod.ping(pair.peers_pod).ok


def test_a_deleted_node_is_waited_for_and_taken_up_again(pair: Pair) -> None:
    subnet = pair.subnet()
    mac = (pair.node.status() or {})["lease"]["vtep_mac"]
    pair.server.delete_node("node2")
    wait_withdrawn(pair, subnet)
    pair.server.add_node("node2")
    wait_withdrawn(pair, subnet, "pod cidr not assigned")
    pair.server.patch("node2", {"spec": {"podCIDR": subnet, "podCIDRs": [subnet]}})
    wait_taken_up(pair, subnet)
    assert (pair.node.status() or {})["lease"]["vtep_mac"] == mac
    both_ways(pair)


def test_a_node_made_anew_with_the_same_subnet_is_announced(pair: Pair) -> None:
    """Within milliseconds: mostly nothing is lost at all."""
    subnet = pair.subnet()
    pair.server.delete_node("node2")
    pair.server.add_node("node2", subnet)
    wait_for(lambda: network_said(pair.server, "node2"), 90, "the network of the new Node to be announced")
    wait_taken_up(pair, subnet)
    both_ways(pair)


def test_a_node_made_anew_with_another_subnet(pair: Pair) -> None:
    old, new = pair.subnet(), "10.244.33.0/24"
    old_pod = pair.pod.address
    pair.server.delete_node("node2")
    pair.server.add_node("node2", new)
    wait_taken_up(pair, new)
    wait_for(lambda: old not in pair.node.run("nft", "list", "ruleset").stdout, 90, "rules of the new subnet alone")
    assert new in pair.node.run("nft", "list", "ruleset").stdout
    wait_route_gone(pair.peer, old)
    pod = pair.pod_anew()
    assert pod.address.startswith("10.244.33.")
    both_ways(pair)
    with pytest.raises(CommandFailed):
        pair.peers_pod.run("ping", "-c1", "-W1", old_pod)


def test_a_node_deleted_twice(pair: Pair) -> None:
    subnet = pair.subnet()
    for _ in range(2):
        pair.server.delete_node("node2")
        wait_withdrawn(pair, subnet)
        pair.server.add_node("node2", subnet)
        wait_taken_up(pair, subnet)
    both_ways(pair)


def test_a_node_deleted_while_the_api_server_is_away(pair: Pair) -> None:
    subnet, server = pair.subnet(), pair.server
    server.kill()
    # As if another API server had taken the write meanwhile.
    text = server.journal.read_text().splitlines()
    version = json.loads(text[-1])["version"] + 1
    entry = {"version": version, "kind": "nodes", "key": "node2", "document": None}
    server.journal.write_text("\n".join([*text, json.dumps(entry)]) + "\n")
    server.start()
    wait_withdrawn(pair, subnet)
    server.kill()
    wait_for(lambda: "refused" in problems(pair.node) or "attempts" in problems(pair.node), 90, "that to be told")
    server.start()
    server.add_node("node2", subnet)
    wait_taken_up(pair, subnet)
    both_ways(pair)
