"""The lease store goes and comes back, or its nodes sleep, with traffic all the while: nothing is lost, and the leases live on."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from dataplane.lab.cluster import Lab
from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode
from tests.netns.cluster.etcd_cluster import EtcdCluster
from tests.netns.kube.kube_cluster import KubeCluster
from tests.netns.life.exchanges import exchange, ways
from tests.netns.life.shifted_clock import ShiftedClock, day_s, stopped

pytestmark = pytest.mark.long

away_s = 3.0
back_s = 5.0


def ready(node: DaemonNode) -> bool:
    return bool((node.status() or {}).get("ready"))


def renewals(node: DaemonNode) -> int:
    return int((node.status() or {"events": {}})["events"].get("lease_renewals", 0))


def start_two(lab: Lab, clock: ShiftedClock) -> None:
    """Two nodes with a pod each, known to each other."""
    for _ in range(2):
        lab.add("dataplane")
    for node in lab.daemons:
        node.start_daemon(environment=clock.environment)
    for node in lab.daemons:
        node.wait_ready()
        node.add_pod()
    lab.wait_converged()


def gone_for_a_while(lab: Lab) -> None:
    """Return when every node says that its store is not there, and has said so for a while."""
    for node in lab.daemons:
        wait_for(lambda n=node: not ready(n), 90, f"{node.label} to miss its store")  # type: ignore[misc]
    time.sleep(away_s)


@pytest.mark.parametrize("way", ways)
def test_etcd_restarts(way: str, tmp_path: Path) -> None:
    """With all that it had; with vxlan the nodes' leases were to be renewed while it was away."""
    overdue = way == "vxlan"
    backend, datapath = ways[way]
    clock = ShiftedClock(tmp_path)
    with EtcdCluster(tmp_path, backend, ipv6=True, flags=(f"--datapath={datapath}",)) as cluster:
        lab, server = cluster.lab, cluster.server
        start_two(lab, clock)
        stored = cluster.stored()
        before = [renewals(node) for node in lab.daemons]
        with exchange(*lab.pods) as talk:
            server.kill()
            clock.set(day_s if overdue else 0)
            gone_for_a_while(lab)
            server.start()
            for node, count in zip(lab.daemons, before, strict=True):
                node.wait_ready()
                wait_for(lambda n=node: cluster.is_equal(n), 90, f"{node.label} to equal the store")  # type: ignore[misc]
                assert not overdue or renewals(node) > count
            talk.untouched()
        assert cluster.stored() == stored


@pytest.mark.parametrize("sleepers", ["the nodes", "the nodes and etcd"])
def test_machines_sleep_that_have_etcd(sleepers: str, tmp_path: Path) -> None:
    """For five minutes: their connections are given up meanwhile, where the other end is awake."""
    clock = ShiftedClock(tmp_path)
    with EtcdCluster(tmp_path, "vxlan", ipv6=True) as cluster:
        lab = cluster.lab
        start_two(lab, clock)
        processes = [node.process for node in lab.daemons]
        with exchange(*lab.pods) as talk:
            with stopped(lab.daemons, *((cluster.server.signal,) if "etcd" in sleepers else ())):
                clock.sleep(300)
                time.sleep(away_s)
                if "etcd" not in sleepers:
                    cluster.tell(lambda relay: relay.cut())
            for node in lab.daemons:
                node.wait_ready()
                wait_for(lambda n=node: cluster.is_equal(n), 90, f"{node.label} to equal the store")  # type: ignore[misc]
            talk.untouched(away_s + back_s)
        assert [node.process for node in lab.daemons] == processes


@pytest.mark.parametrize("way", ways)
def test_the_api_server_restarts(way: str, tmp_path: Path) -> None:
    """With a version far ahead; with vxlan also with all that it had, and from a backup, with a version of long ago."""
    backend, datapath = ways[way]
    clock = ShiftedClock(tmp_path)
    with KubeCluster(tmp_path, backend, ipv6=True, flags=(f"--datapath={datapath}",)) as cluster:
        lab, server = cluster.lab, cluster.server
        start_two(lab, clock)
        with exchange(*lab.pods) as talk:
            backup = server.snapshot()
            for number in range(5):
                server.annotate("node1", {"example.com/passed": str(number)})
            ahead = server.version() + 1000
            ways_back: list[Callable[[], None]] = [lambda: server.restore(server.snapshot(), ahead)]
            if way == "vxlan":
                ways_back = [server.start, lambda: server.restore(backup), *ways_back]
            for come_back in ways_back:
                server.kill()
                gone_for_a_while(lab)
                come_back()
                for node in lab.daemons:
                    node.wait_ready()
                lab.wait_converged()
            assert server.version() > ahead
            talk.untouched()
