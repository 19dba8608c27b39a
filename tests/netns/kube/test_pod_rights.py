"""The daemon with what the manifest's pod has and no more: a read-only root, the mounted paths, four capabilities.

All else of the file system is read-only here, /proc/sys and /sys as in any container without privileges. What must stay
true: mounts, capabilities and arguments are read from the manifest, so that it cannot promise what was not tried.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from dataplane.lab.commands import run, wait_for
from tests.netns.kube.as_pod import add_pod_node, as_in_the_pod, pod, probe
from tests.netns.kube.kube_cluster import KubeCluster

admission = {"kernel": "full", "userspace": None}  # of the kernel's device; ours is checked by the core


@pytest.mark.parametrize("tables", ["iptables", "nftables"])
@pytest.mark.parametrize("datapath", [pytest.param("kernel", marks=pytest.mark.long), "userspace"])
def test_the_daemon_works_with_what_the_pod_has(tmp_path: Path, datapath: str, tables: str) -> None:
    """Packets flow, senders are checked, a store that is away is no reason to kill the daemon, and it ends in time."""
    with KubeCluster(tmp_path, "vxlan", ipv6=True) as cluster:
        server, lab = cluster.server, cluster.lab
        lab.configure({**lab.conf, "EnableNFTables": tables == "nftables"})
        node, environment = add_pod_node(cluster, tmp_path / "node", f"--datapath={datapath}")
        lab.add("kernel")
        node.start_daemon(environment=environment)
        node.wait_ready()
        for one in lab.nodes:
            one.add_pod()
        lab.wait_converged()
        ours, other = lab.pods
        assert ours.ping(other).ok and other.ping(ours).ok and ours.ping(other, 6).ok
        assert {device["admission"] for device in (node.status() or {})["devices"]} == {admission[datapath]}
        wait_for(lambda: probe(node, "/readyz") == (200, "flanneld is ready"), 90, "the pod to be ready")

        server.kill()
        wait_for(lambda: probe(node, "/readyz") == (503, "flanneld is not ready yet"), 90, "the store to be missed")
        assert probe(node, "/healthz") == (200, "flanneld is running")
        server.start()
        wait_for(lambda: probe(node, "/readyz")[0] == 200, 90, "the store to be found again")
        assert node.stop_daemon(pod["terminationGracePeriodSeconds"]) == 0
        refused = [line for line in node.log().splitlines() if re.search("Read-only|not permitted|denied", line)]
        assert refused == []


@pytest.mark.parametrize("path", ["/", "/root", "/run", "/etc", "/proc/sys/net/ipv4/ip_forward"])
def test_here_as_there_nothing_else_can_be_written(tmp_path: Path, path: str) -> None:
    (container,) = pod["containers"]
    tried = 'test -d "$1" && exec touch "$1/written" || exec sh -c \'echo 1 > "$1"\' sh "$1"'
    done = run(None, *as_in_the_pod(container, tmp_path), "sh", "-c", tried, "sh", path, check=False)
    assert done.returncode != 0 and "Read-only file system" in done.stderr


def test_the_init_container_works_with_what_it_has(tmp_path: Path) -> None:
    (container,) = pod["initContainers"]
    wrapper = as_in_the_pod(container, tmp_path)
    binaries, configuration, source = tmp_path / "cni-plugin", tmp_path / "cni", tmp_path / "cni-conf.json"
    source.write_text('{"name": "cbr0", "cniVersion": "0.3.1", "plugins": [{"type": "flannel"}]}')
    (flag,) = (word for word in container["args"] if word == "--runtime")
    words = (f"--bin-dir={binaries}", flag, f"--conf={source}", f"--conf-dir={configuration}")
    run(None, *wrapper, sys.executable, "-m", "dataplane", "install-cni", *words)
    assert (configuration / "10-flannel.conflist").read_text() == source.read_text()
    assert (binaries / "flannel").exists()
