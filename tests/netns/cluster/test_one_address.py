"""Two nodes with one public address: both say so while both live, and nothing that one node does alone looks like it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode
from tests.netns.cluster.etcd_cluster import EtcdCluster
from tests.netns.kube.kube_cluster import KubeCluster

pytestmark = pytest.mark.long

words = "two nodes have our public address 192.0.2.1: somebody else writes our lease "
limit_s = 120.0


@pytest.fixture(params=["embedded", "etcd"])
def lab(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Lab]:
    with ExitStack() as stack:
        if request.param == "etcd":
            yield stack.enter_context(EtcdCluster(tmp_path, "vxlan")).lab
        else:
            lab = stack.enter_context(Lab(net_conf("vxlan")))
            yield lab
            print(lab.logs(lines=60))


def lease(node: DaemonNode) -> tuple[str, str]:
    """Subnet and VTEP MAC."""
    held = (node.status() or {})["lease"]
    return held["subnet"], held["vtep_mac"]


def contested(node: DaemonNode) -> str:
    """What the status says of a second node; "" for nothing."""
    status = node.status() or {"problems": []}
    found = next((text for text in status["problems"] if text.startswith(words)), "")
    assert not found or not status["ready"]
    return found


def test_both_say_it_until_one_of_them_ends(lab: Lab) -> None:
    one, other = lab.add("dataplane"), lab.add("dataplane", "--public-ip=192.0.2.1")
    assert isinstance(one, DaemonNode) and isinstance(other, DaemonNode)
    one.start_daemon()
    one.wait_ready()
    held = lease(one)
    for end in (one.stop_daemon, one.kill_daemon):
        end()
        one.start_daemon()
        one.wait_ready()
    assert lease(one) == held
    assert "two nodes" not in one.log()
    assert "foreign_lease_writes" not in (one.status() or {})["events"]

    other.start_daemon()
    for node in (one, other):
        said = wait_for(lambda node=node: contested(node), limit_s, f"{node.label} to say it")  # type: ignore[misc]
        assert "says the same as we do, VTEP MAC included" in said
    assert lease(one) == lease(other) == held

    def exchanged() -> bool:
        return all((node.status() or {})["events"]["foreign_lease_writes"] >= 2 for node in (one, other))

    wait_for(exchanged, limit_s, "each to answer the other's answer")
    assert all(f"WARNING dataplane.leases.contest: {words}" in node.log() for node in (one, other))

    other.stop_daemon()
    wait_for(lambda: (one.status() or {}).get("ready"), limit_s, "the one that is left to be ready")
    assert not contested(one)
    assert lease(one) == held


def test_flannel_at_our_address_is_told_and_answered_once(tmp_path: Path) -> None:
    """It writes its own VTEP MAC under an etcd lease of its own, and is never bothered by what we write."""
    with EtcdCluster(tmp_path, "vxlan") as cluster:
        node = cluster.lab.add("dataplane")
        assert isinstance(node, DaemonNode)
        node.start_daemon()
        node.wait_ready()
        subnet, mac = lease(node)
        ours = cluster.place.raw()
        theirs = ours.splitlines()[1].replace(mac, "02:bb:bb:bb:bb:bb")
        cluster.write({subnet.replace("/", "-"): theirs})
        said = wait_for(lambda: contested(node), limit_s, "the node to say it")
        assert '"VtepMAC": "02:bb:bb:bb:bb:bb"' in said and f'"VtepMAC": "{mac}"' in said
        wait_for(lambda: cluster.place.raw() == ours, limit_s, "our lease to be what it was")
        wait_for(lambda: (node.status() or {}).get("ready"), limit_s, "the node to be ready")
        events = (node.status() or {})["events"]
        assert (events["foreign_lease_writes"], events["lease_renewals"]) == (1, 1)


def test_two_nodes_of_kubernetes_with_one_address(tmp_path: Path) -> None:
    """Two leases: the older Node keeps the address, and the younger says that nobody uses its lease."""
    with KubeCluster(tmp_path, "vxlan") as cluster:
        lab = cluster.lab
        older, younger, third = (
            lab.add("dataplane"),
            lab.add("dataplane", "--public-ip=192.0.2.1"),
            lab.add("dataplane"),
        )
        assert isinstance(older, DaemonNode) and isinstance(younger, DaemonNode) and isinstance(third, DaemonNode)
        for node in lab.daemons:
            node.start_daemon()

        def problems(node: DaemonNode) -> str:
            return "\n".join((node.status() or {"problems": []})["problems"])

        said = "lease 10.244.2.0-24 is not used: PublicIP 192.0.2.1 is our own, so two nodes have one public address"
        wait_for(lambda: said in problems(older), limit_s, "the older node to say it")
        said = "other nodes refuse our lease 10.244.2.0-24: lease 10.244.1.0-24 was there first, and PublicIP 192.0.2.1 is our own"
        wait_for(lambda: said in problems(younger), limit_s, "the younger node to say it")
        said = "lease 10.244.2.0-24 is not used: its public address 192.0.2.1 is that of lease 10.244.1.0-24, which was there first"
        wait_for(lambda: said in problems(third), limit_s, "the third node to refuse the younger")
        for node in (older, third):
            node.wait_ready()
        peers = [peer["subnet"] for peer in (third.status() or {})["peers"]]
        assert peers == ["10.244.1.0/24"]
        assert not (younger.status() or {})["ready"]

        # Mended: another address is told, and everybody takes it.
        younger.stop_daemon()
        younger.start_daemon("--public-ip=192.0.2.2")
        for node in lab.daemons:
            node.wait_ready()
        wait_for(lambda: "not used" not in problems(older) + problems(third), limit_s, "nothing to be refused any more")
