"""Pods made by our CNI plugin with Debian's bridge, host-local and portmap, on two nodes that run our daemon."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.commands import inside_of, wait_for
from dataplane.lab.node import DaemonNode
from tests.netns.cni.network import CniError, CniNetwork, CniPod, install, manifest_conflist
from tests.programs import program

port = 7000  # transfer.py's


@dataclass(frozen=True, slots=True)
class Cluster:
    """Two nodes, their network configurations, and a pod on each; the first one's port 7000 is its node's too."""

    lab: Lab
    bin_dir: Path
    nets: tuple[CniNetwork, CniNetwork]
    pods: tuple[CniPod, CniPod]

    @property
    def node(self) -> DaemonNode:
        return self.nets[0].node


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with Lab(net_conf("vxlan", ipv6=True), options=("--ip-masq",)) as lab:
        lab.add("dataplane")
        lab.add("dataplane")
        for node in lab.daemons:
            node.start_daemon()
        bin_dir = install(lab.directory / "bin")
        for node in lab.daemons:
            node.wait_ready()
        one, two = (CniNetwork(node, bin_dir) for node in lab.daemons)
        lab.wait_converged()
        yield Cluster(
            lab,
            bin_dir,
            (one, two),
            (
                one.add_pod(port_mappings=[{"hostPort": port, "containerPort": port, "protocol": "tcp"}]),
                two.add_pod(),
            ),
        )
        print(lab.logs(lines=60))


def left_on(net: CniNetwork) -> dict[str, object]:
    """Everything that an ADD leaves on the node."""
    node = net.node
    rules = [node.run(f"{command}-save").stdout.splitlines() for command in ("iptables", "ip6tables")]
    listings = [Path(directory).iterdir() for directory in (net.data_dir, net.ipam_dir / "cbr0")]
    return {
        "ports": node.run("ip", "-br", "link", "show", "master", "cni0").stdout,
        "rules": [line for lines in rules for line in lines if line.startswith("-A")],
        "files": sorted(path.name for listing in listings for path in listing if not path.name.startswith("l")),
    }


def received(server: CniPod, client: str, address: str) -> bool:
    """Send from namespace `client` to `address`, and say whether the pod received just that."""
    words = inside_of(server.name, program("transfer", "receive", "tcp", server.address, 20000))
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None and receiver.stdout.readline() == "ready\n"
        sender = inside_of(client, program("transfer", "send", "tcp", address, 20000))
        sent = subprocess.run(sender, capture_output=True, text=True, check=False)
        assert sent.returncode == 0, sent.stderr
        return receiver.stdout.readline() == sent.stdout


def test_pods_of_two_nodes_reach_each_other(cluster: Cluster) -> None:
    one, two = cluster.pods
    for version in (4, 6):
        assert one.ping(two, version).ok
    mtu = one.network.node.pod_net().mtu
    assert f" mtu {mtu} " in one.run("ip", "link", "show", "eth0").stdout
    assert one.ping(two, size=mtu, whole=True).ok
    gateway = one.network.node.pod_net().ipv4
    assert gateway is not None
    assert f"default via {gateway[1]} dev eth0" in one.run("ip", "route").stdout
    assert "default via " in one.run("ip", "-6", "route").stdout


def test_a_host_port_is_reached_from_elsewhere_and_from_the_pod_itself(cluster: Cluster) -> None:
    one, two = cluster.pods
    here, other = (net.node for net in cluster.nets)
    assert received(one, other.name, str(here.address))
    assert received(one, two.name, str(here.address))
    assert received(one, one.name, str(here.address))  # hairpin


def test_check_tells_that_somebody_broke_the_pod(cluster: Cluster) -> None:
    pod = cluster.nets[0].add_pod()
    pod.check()
    pod.run("ip", "address", "delete", f"{pod.address}/24", "dev", "eth0")
    with pytest.raises(CniError, match="flannel CHECK"):
        pod.check()
    pod.run("ip", "link", "delete", "eth0")
    with pytest.raises(CniError, match="flannel CHECK"):
        pod.check()


def test_del_leaves_nothing_and_may_come_again(cluster: Cluster) -> None:
    net = cluster.nets[0]
    before = left_on(net)
    pod = net.add_pod(port_mappings=[{"hostPort": 8080, "containerPort": 80, "protocol": "tcp"}])
    grown = left_on(net)
    assert all(grown[name] != before[name] for name in before)
    pod.delete()
    assert left_on(net) == before
    pod.delete()
    assert left_on(net) == before


def test_del_works_without_subnet_env_and_without_the_namespace(cluster: Cluster) -> None:
    net = cluster.nets[0]
    before = left_on(net)
    pod = net.add_pod()
    aside = net.node.subnet_file.rename(net.node.subnet_file.with_suffix(".aside"))
    try:
        with pytest.raises(CniError, match="failed to load flannel 'subnet.env' file") as refused:
            net.add("another", pod.netns, "eth1")
        assert refused.value.code == 11
        pod.run("ip", "link", "delete", "eth0")
        net.delete(pod.container, "")
    finally:
        aside.rename(net.node.subnet_file)
    assert left_on(net) == before


def test_a_plugin_that_is_killed_leaves_what_del_needs(cluster: Cluster) -> None:
    """The delegate is a FIFO's reader that waits; the plugin, which it has become, is killed there."""
    net = cluster.nets[0]
    before = left_on(net)
    directory = net.node.directory / "slow"
    directory.mkdir()
    entered = directory / "entered"
    # The real bridge, but later: it starts once somebody reads the FIFO, which nobody does.
    os.mkfifo(directory / "never")
    bridge = directory / "bridge"
    bridge.write_text(f"#!/bin/sh\ntouch {entered}\necho > {directory}/never\nexec /usr/lib/cni/bridge\n")
    bridge.chmod(0o755)
    words, environment = net.invocation("ADD", "flannel", "killed", "/run/netns/none", "eth0")
    slow = environment | {"CNI_PATH": f"{directory}:{environment['CNI_PATH']}"}
    plugin = subprocess.Popen(words, env=slow, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert plugin.stdin is not None
    plugin.stdin.write(json.dumps(net.plugin()).encode())
    plugin.stdin.close()
    wait_for(entered.exists, 90, "the delegate")
    plugin.send_signal(signal.SIGKILL)
    plugin.wait()
    assert (net.data_dir / "killed").stat().st_mode & 0o777 == 0o600
    assert net.data_dir.stat().st_mode & 0o777 == 0o700
    net.delete("killed", "")
    assert left_on(net) == before


@pytest.mark.parametrize("version", ["0.3.1", "0.4.0"])
def test_older_configurations(cluster: Cluster, version: str) -> None:
    """0.3.1 is what flannel's manifest has."""
    node = cluster.node
    net = CniNetwork(node, cluster.bin_dir, {**manifest_conflist, "cniVersion": version})
    before = left_on(net)
    pod = net.add_pod()
    assert pod.result["cniVersion"] == version
    assert pod.ping(cluster.pods[1], count=1).ok
    pod.delete()
    assert left_on(net) == before


def test_a_node_with_ipv6_alone(cluster: Cluster) -> None:
    node = cluster.node
    flannel = {"type": "flannel", "delegate": {"isDefaultGateway": True, "bridge": "cni6"}}
    net = CniNetwork(node, cluster.bin_dir, {**manifest_conflist, "name": "six", "plugins": [flannel]})
    subnet_file = node.directory / "ipv6.env"
    subnet_file.write_text(
        "FLANNEL_IPV6_NETWORK=fd00:6::/48\nFLANNEL_IPV6_SUBNET=fd00:6:0:7::1/64\nFLANNEL_MTU=1430\nFLANNEL_IPMASQ=true\n"
    )
    net.conf["plugins"][0]["subnetFile"] = str(subnet_file)
    pod, other = net.add_pod(), net.add_pod()
    assert (pod.address, pod.address6) == ("", "fd00:6:0:7::2")
    assert pod.ping(other, 6).ok
    pod.check()
    assert " mtu 1430 " in pod.run("ip", "link", "show", "eth0").stdout


def test_flannels_plugin_can_delete_what_ours_added(cluster: Cluster) -> None:
    """It gives the delegate the state file as it is, and removes it."""
    net = cluster.nets[0]
    before = left_on(net)
    pod = net.add_pod()
    state = net.data_dir / pod.container
    net.command("DEL", json.loads(state.read_text()), pod.container, pod.netns, "eth0")
    state.unlink()
    assert left_on(net) == before


def test_ten_at_once_get_ten_addresses(cluster: Cluster) -> None:
    net = cluster.nets[1]
    before = left_on(net)
    with ThreadPoolExecutor(10) as pool:
        pods = list(pool.map(lambda _: net.add_pod(), range(10)))
        assert len({pod.address for pod in pods}) == len({pod.address6 for pod in pods}) == 10
        assert all(pool.map(lambda pod: pod.ping(cluster.pods[0], count=1).ok, pods))
        list(pool.map(lambda pod: pod.delete(), pods))
    assert left_on(net) == before
