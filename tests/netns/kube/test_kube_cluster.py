"""Clusters whose leases are Nodes: our daemon and our CNI plugin beside a node of flannel's, through restarts and churn."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode
from dataplane.model import LeaseAttrs
from tests.apiserver.process import Server
from tests.netns.cni.network import CniNetwork, CniPod, install
from tests.netns.kube.kube_cluster import KubeCluster, address
from tests.traffic import LongPing

prefix = "flannel.alpha.coreos.com/"
mac_form = "[0-9a-f]{2}(:[0-9a-f]{2}){5}"
service_account = Path("/run/secrets/kubernetes.io/serviceaccount")


def annotations(server: Server, name: str) -> dict[str, str]:
    texts = server.node(name)["metadata"]["annotations"]
    return {item.removeprefix(prefix): text for item, text in texts.items() if item.startswith(prefix)}


def pod_on(node: DaemonNode, bin_dir: Path) -> CniPod:
    return CniNetwork(node, bin_dir).add_pod()


def all_reach_all(cluster: KubeCluster, versions: tuple[int, ...]) -> None:
    pods = cluster.lab.pods
    for one in pods:
        for other in pods:
            for version in versions:
                assert one is other or one.ping(other, version).ok, f"{one.name} {other.name} IPv{version}"


@dataclass(frozen=True, slots=True)
class Mode:
    """A cluster to be: flannel's backend, flags, and what it writes on a Node beside the addresses."""

    backend: str
    flags: tuple[str, ...]
    data: str


vxlan_data = rf'\{{"VNI":1,"VtepMAC":"{mac_form}"\}}'
modes = {
    "vxlan": Mode("vxlan", (), vxlan_data),
    "vxlan-kernel": Mode("vxlan", ("--datapath=kernel",), vxlan_data),
    "host-gw": Mode("host-gw", (), "null"),
}


@pytest.mark.parametrize("mode", modes)
def test_pods_made_by_cni_reach_each_other(tmp_path: Path, mode: str) -> None:
    """Dual stack, with a node of flannel's where the backend is vxlan; our annotations are flannel's byte for byte."""
    given = modes[mode]
    with KubeCluster(tmp_path, given.backend, ipv6=True, flags=given.flags) as cluster:
        lab = cluster.lab
        bin_dir = install(lab.directory / "bin")
        flannels = () if given.backend == "host-gw" else (lab.add("kernel"),)
        ours = [lab.add("dataplane") for _ in range(3 - len(flannels))]
        for node in lab.daemons:
            node.start_daemon()
        for node in lab.daemons:
            node.wait_ready()
            pod_on(node, bin_dir)
        for node in flannels:
            node.add_pod()
        lab.wait_converged()
        all_reach_all(cluster, (4, 6))
        for node in ours:
            texts = annotations(cluster.server, node.label)
            assert texts == {
                "kube-subnet-manager": "true",
                "backend-type": given.backend,
                "backend-data": texts["backend-data"],
                "backend-v6-data": texts["backend-v6-data"],
                "public-ip": str(node.address),
                "public-ipv6": str(node.address6),
            }
            assert re.fullmatch(given.data, texts["backend-data"])
            assert re.fullmatch(given.data, texts["backend-v6-data"])
            wait_for(
                lambda node=node: (
                    [  # type: ignore[misc]
                        condition["reason"]
                        for condition in cluster.server.node(node.label)["status"]["conditions"]
                        if condition["type"] == "NetworkUnavailable"
                    ]
                    == ["FlannelIsUp"]
                ),
                10,
                "the network to be announced",
            )


def test_a_pod_of_the_cluster_uses_its_service_account(tmp_path: Path) -> None:
    """In-cluster credentials, re-read as they rotate; the Node by our pod; the address by an annotation."""
    with KubeCluster(tmp_path, "vxlan") as cluster:
        server, lab = cluster.server, cluster.lab
        service_account.mkdir(parents=True)
        (service_account / "ca.crt").write_bytes(server.certificate.read_bytes())
        (service_account / "namespace").write_text("flannel-dataplane")
        (service_account / "token").write_text("first")
        server.replace_token("first")
        lab.add("dataplane", "--kubeconfig-file=")
        node = lab.daemons[0]
        server.annotate("node1", {f"{prefix}node-public-ip": str(node.address)})
        node.start_daemon(environment={"KUBERNETES_SERVICE_HOST": address, "KUBERNETES_SERVICE_PORT": str(server.port)})
        node.wait_ready()
        assert annotations(server, "node1")["public-ip"] == str(node.address)
        (service_account / "token").write_text("second")
        server.replace_token("second")
        server.kill()
        server.start()
        server.replace_token("second")
        attrs = LeaseAttrs(IPv4Address("192.0.2.9"), backend_data={"VtepMAC": "02:00:00:00:00:09"})
        server.add_node("other", "10.244.9.0/24")
        server.annotate_as_flannel("other", attrs)
        wait_for(lambda: peers(node) == {"10.244.9.0/24"}, 90, "a change to come with the new token")


def test_a_pod_subnet_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    with KubeCluster(tmp_path, "vxlan") as cluster:
        server, lab = cluster.server, cluster.lab
        lab.add("dataplane")
        node = lab.daemons[0]
        server.delete_node("node1")
        server.add_node("node1")
        node.start_daemon()
        missing = 'no lease yet: node "node1" pod cidr not assigned'
        wait_for(
            lambda: missing in json.dumps((node.status() or {}).get("problems")).replace("\\", ""), 10, "the reason"
        )
        server.patch("node1", {"spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24"]}})
        node.wait_ready()


# Two clusters at a time would have one address on two bridges: from here on there is this one alone


@pytest.fixture(scope="module", params=["vxlan", "host-gw"])
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KubeCluster]:
    """Three nodes with a pod each, made by CNI."""
    with KubeCluster(tmp_path_factory.mktemp("kube"), request.param) as cluster:
        lab = cluster.lab
        bin_dir = install(lab.directory / "bin")
        for _ in range(3):
            lab.add("dataplane")
        for node in lab.daemons:
            node.start_daemon()
        for node in lab.daemons:
            node.wait_ready()
            pod_on(node, bin_dir)
        lab.wait_converged()
        yield cluster


def test_a_daemon_restarts_under_traffic(cluster: KubeCluster) -> None:
    one, two, three = cluster.lab.pods
    node = cluster.lab.daemons[2]
    before = annotations(cluster.server, node.label)
    others, through = LongPing(one.name, two.address), LongPing(one.name, three.address)
    node.kill_daemon()
    node.start_daemon()
    node.wait_ready()
    assert one.ping(three).ok
    seen = others.stop()
    assert seen.received >= seen.sent - 1, seen.text
    assert through.stop().received > 0
    assert annotations(cluster.server, node.label) == before  # the VTEP MAC too


def test_the_api_server_restarts_and_has_to_be_listed_again(cluster: KubeCluster) -> None:
    """While it is away a node changes, and the history with the change is gone when it is back."""
    server, lab = cluster.server, cluster.lab
    one, _, three = lab.pods
    ping = LongPing(one.name, three.address)
    server.kill()
    wait_for(lambda: not (lab.daemons[0].status() or {})["ready"], 90, "readiness to tell that the store is away")
    # As if another API server had taken the writes meanwhile.
    text = server.journal.read_text().splitlines()
    entry = json.loads(text[-1])
    entry["version"] += 100
    entry["document"]["metadata"]["resourceVersion"] = str(entry["version"])
    server.journal.write_text("\n".join([*text, json.dumps(entry)]) + "\n")
    server.start()
    back = time.monotonic()
    for node in lab.daemons:
        node.wait_ready()
    wait_for(
        lambda: sum("sendInitialEvents=" in request["url"] for request in server.requests()) >= len(lab.daemons),
        30,
        "everybody to list again",
    )
    print(f"listed again {time.monotonic() - back:.2f} s after its return")
    add_and_remove(cluster, 77)
    seen = ping.stop()
    assert seen.received >= seen.sent - 1, seen.text


def test_a_node_comes_and_goes_under_traffic(cluster: KubeCluster) -> None:
    one, two, _ = cluster.lab.pods
    ping = LongPing(one.name, two.address)
    for number in range(200, 205):
        add_and_remove(cluster, number)
    seen = ping.stop()
    assert seen.received >= seen.sent - 1, seen.text


def add_and_remove(cluster: KubeCluster, number: int) -> None:
    """Register a Node, have it annotated, and delete it; every daemon follows."""
    subnet = f"10.244.{number}.0/24"
    cluster.server.add_node(f"extra{number}", subnet)
    attrs = LeaseAttrs(IPv4Address("192.0.2.0") + number, backend_data={"VtepMAC": f"02:00:00:00:01:{number:02x}"})
    cluster.server.annotate_as_flannel(f"extra{number}", attrs)
    cluster.server.annotate(
        f"extra{number}", {f"{prefix}backend-type": annotations(cluster.server, "node1")["backend-type"]}
    )
    wait_for(lambda: all(subnet in peers(node) for node in cluster.lab.daemons), 90, "the new node to be known")
    cluster.server.delete_node(f"extra{number}")
    wait_for(lambda: not any(subnet in peers(node) for node in cluster.lab.daemons), 90, "it to be forgotten")


def peers(node: DaemonNode) -> set[str]:
    return {peer["subnet"] for peer in (node.status() or {}).get("peers", ())}


def test_our_annotations_are_put_back(cluster: KubeCluster) -> None:
    before = annotations(cluster.server, "node1")
    cluster.server.annotate("node1", {f"{prefix}public-ip": "192.0.2.199", f"{prefix}kube-subnet-manager": None})
    wait_for(lambda: annotations(cluster.server, "node1") == before, 90, "our annotations to be put back")
    # Between the two, peers may have been told that this node has no lease.
    wait_for(lambda: cluster.lab.pods[1].ping(cluster.lab.pods[0]).ok, 90, "the node to be reached again")


def test_a_hostile_node_is_named_and_touches_no_other(cluster: KubeCluster) -> None:
    bad = {f"{prefix}kube-subnet-manager": "true", f"{prefix}public-ip": "\x1b[2J", f"{prefix}backend-data": "[" * 2000}
    cluster.server.add_node("evil", "10.244.99.0/24", annotations=bad)
    node = cluster.lab.daemons[0]
    wait_for(lambda: "node evil" in json.dumps(node.status()), 90, "the bad Node to be named")
    assert cluster.lab.pods[0].ping(cluster.lab.pods[1]).ok
    cluster.server.delete_node("evil")
    wait_for(lambda: "node evil" not in json.dumps(node.status()), 90, "the bad Node to be forgotten")
