"""A rolling update of the manifest's DaemonSet on a node: both pods are there for a while, and nobody notices.

The test is kubelet and controller: it starts the next pod's container, probes the port as the kubelet does, starts a container
again that has ended, and ends the old pod once the next one is available.
"""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest

from dataplane.lab.commands import run, wait_for
from dataplane.lab.steady import Steady
from tests.netns.kube.as_pod import add_pod_node, pod, probe, workload
from tests.netns.kube.kube_cluster import KubeCluster

(strategy,) = (workload["spec"]["updateStrategy"]["rollingUpdate"],)


def end_pod(container: subprocess.Popen[bytes]) -> int:
    """Send SIGTERM to the container's process, which is the first of its PID namespace, as seen from here a child."""
    (child,) = run(None, "pgrep", "-P", str(container.pid)).stdout.split()
    os.kill(int(child), signal.SIGTERM)
    return container.wait(pod["terminationGracePeriodSeconds"])


@pytest.mark.parametrize(
    ("backend", "flags", "times"),
    [
        ("vxlan", ("--datapath=userspace",), 2),
        pytest.param("vxlan", ("--datapath=kernel",), 2, marks=pytest.mark.long),
        *(
            pytest.param(backend, ("--datapath=userspace", f"--workers={workers}"), 20, marks=pytest.mark.long)
            for backend in ("udp", "vxlan")
            for workers in (1, 2)
        ),
    ],
)
def test_nobody_notices(tmp_path: Path, backend: str, flags: tuple[str, ...], times: int) -> None:
    assert strategy["maxUnavailable"] == 0
    with KubeCluster(tmp_path, backend, ipv6=True) as cluster:
        lab = cluster.lab
        node, environment = add_pod_node(cluster, tmp_path / "node", *flags)
        node.wrapper = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *node.wrapper)
        node.start_daemon("--takeover", environment=environment)
        node.wait_ready()
        node.add_pod()
        lab.start("kernel" if backend == "vxlan" else "dataplane")
        with Steady(*lab.pods) as steady:
            for _ in range(times):
                old, node.process = node.process, None
                assert old is not None
                started = wait_for(node.status, 30, "the status")["started"]
                node.start_daemon("--takeover", environment=environment)

                def is_next(before: float = started) -> bool:
                    assert probe(node, "/healthz") == (200, "flanneld is running")
                    status = node.status() or {"started": 0.0}  # it may take longer than a caller waits
                    return bool(status["started"] > before and status["ready"])

                wait_for(is_next, 90, "the next pod to have taken over")
                # The pod before is still there: had its container ended, the kubelet would start it again, to take over.
                assert old.poll() is None
                assert end_pod(old) == 0
                assert probe(node, "/readyz")[0] == 200
            seen = steady.stop()
        print(f"{backend} {flags}: {times} updates, {seen}")
        assert (seen.lost, seen.reordered, seen.tcp_broken, seen.tcp_missing) == ((), 0, "", 0), f"{seen}\n{lab.logs()}"
        assert "waiting to be told to end" in node.log()
        refused = [line for line in node.log().splitlines() if "Read-only" in line or "not permitted" in line]
        assert refused == []
        last = node.process
        assert last is not None and end_pod(last) == 0


@pytest.mark.long
def test_an_update_that_is_taken_back(tmp_path: Path) -> None:
    """The next pod goes, and the one before carries again: its container ends, and is started anew."""
    with KubeCluster(tmp_path, "vxlan", ipv6=False) as cluster:
        lab = cluster.lab
        node, environment = add_pod_node(cluster, tmp_path / "node", "--datapath=userspace")
        node.wrapper = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child", *node.wrapper)
        node.start_daemon("--takeover", environment=environment)
        node.wait_ready()
        node.add_pod()
        lab.start("kernel")
        old, node.process = node.process, None
        assert old is not None
        node.start_daemon("--takeover", environment=environment)
        wait_for(lambda: "waiting to be told to end" in node.log(), 90, "the next pod to have taken over")
        node.wait_ready()
        assert old.poll() is None
        assert node.process is not None and end_pod(node.process) == 0
        wait_for(lambda: old.poll() == 0, 30, "the container before to end")
        node.start_daemon("--takeover", environment=environment)
        node.wait_ready()
        lab.wait_converged()
        assert lab.pods[0].ping(lab.pods[1]).ok
