"""The daemon with what the manifest's pod has and no more: a read-only root, the mounted paths, four capabilities.

All else of the file system is read-only here, /proc/sys and /sys as in any container without privileges. What must stay
true: mounts, capabilities and arguments are read from the manifest, so that it cannot promise what was not tried.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from dataplane.lab.commands import run, wait_for
from dataplane.lab.node import DaemonNode, healthz_port
from tests.apiserver.process import first_token
from tests.netns.kube.kube_cluster import KubeCluster, address, manifest

account = Path("/run/secrets/kubernetes.io/serviceaccount")
(workload,) = (row for row in yaml.safe_load_all(manifest.read_text()) if row and row["kind"] == "DaemonSet")
pod = workload["spec"]["template"]["spec"]
build = manifest.parents[2] / "build" / f"cp{sys.version_info.major}{sys.version_info.minor}"
admission = {"kernel": "full", "userspace": None}  # of the kernel's device; ours is checked by the core


def as_in_the_pod(container: dict[str, Any], directory: Path) -> tuple[str, ...]:
    """Return the words before a command that take from it what the container has not.

    Args:
        directory: where the node's files are; they appear at the container's paths.
    """
    hosts = {volume["name"]: volume["hostPath"] for volume in pod["volumes"] if "hostPath" in volume}
    lines = ["set -e", "mount --make-rprivate /"]
    # An editable installation brings itself up to date when it is imported.
    kept = [str(build)] if build.exists() else []
    lines += [f"mount --bind {place} {place}" for place in kept]
    for mount in container["volumeMounts"]:
        if mount.get("readOnly") or mount["name"] not in hosts or mount["name"] == "tun":
            continue
        path, kind = Path(mount["mountPath"]), hosts[mount["name"]]["type"]
        source = directory / mount["name"]
        if kind == "FileOrCreate":
            source.touch()
        else:
            source.mkdir(exist_ok=True)
        if not path.is_relative_to("/run"):
            kept.append(str(source))  # a place for it may not be made on the machine: flags name the source
            lines.append(f"mount --bind {source} {source}")
            continue
        if kind == "FileOrCreate":
            path.touch()
        else:
            path.mkdir(exist_ok=True)
        kept.append(str(path))
        lines.append(f"mount --bind {source} {path}")
    skip = "|".join([*kept, "/proc", "/proc/[!s]*", "/dev", "/dev/*"])
    lines += [
        "mount --bind /proc/sys /proc/sys",
        f"while read -r _ _ _ _ place _; do case $place in {skip}) ;; *) mount -o remount,bind,ro $place ;; esac; done "
        "< /proc/self/mountinfo",
        "for place in / /tmp /run /var/tmp /etc /root; do ! touch $place/written 2>/dev/null; done",
    ]
    asked = container["securityContext"]["capabilities"]
    assert asked["drop"] == ["ALL"]
    rights = ",".join(["-all", *(f"+{name.lower()}" for name in asked.get("add", []))])
    lines.append(f'exec setpriv --no-new-privs --bounding-set={rights} --inh-caps=-all "$@"')
    return ("unshare", "--mount", "bash", "-c", "\n".join(lines), "pod")


def probe(node: DaemonNode, path: str) -> tuple[int, str]:
    """Return the code and first line that a probe of the kubelet would get."""
    words = ("curl", "-s", "-w", "\n%{http_code}", f"http://127.0.0.1:{healthz_port}{path}")
    first, *_, code = run(node.name, *words).stdout.splitlines()
    return int(code), first


@pytest.mark.parametrize("tables", ["iptables", "nftables"])
@pytest.mark.parametrize("datapath", ["kernel", "userspace"])
def test_the_daemon_works_with_what_the_pod_has(tmp_path: Path, datapath: str, tables: str) -> None:
    """Packets flow, senders are checked, a store that is away is no reason to kill the daemon, and it ends in time."""
    (container,) = pod["containers"]
    with KubeCluster(tmp_path, "vxlan", ipv6=True) as cluster:
        server, lab = cluster.server, cluster.lab
        lab.configure({**lab.conf, "EnableNFTables": tables == "nftables"})
        account.mkdir(parents=True, exist_ok=True)
        (account / "ca.crt").write_bytes(server.certificate.read_bytes())
        (account / "namespace").write_text("flannel-dataplane")
        (account / "token").write_text(first_token)
        flags = (f"--datapath={datapath}", "--kubeconfig-file=", "--run-dir=/run/dataplane")
        lab.add("dataplane", *flags, "--subnet-file=/run/flannel/subnet.env", "--ip-masq")
        lab.add("kernel")
        (node,) = lab.daemons
        files = tmp_path / "node"
        files.mkdir()
        node.run_dir, node.subnet_file = files / "run-dataplane", files / "run" / "subnet.env"
        node.wrapper = as_in_the_pod(container, files)
        place = {"KUBERNETES_SERVICE_HOST": address, "KUBERNETES_SERVICE_PORT": str(server.port)}
        node.start_daemon(environment={**place, "PYTHONDONTWRITEBYTECODE": "1"})
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
