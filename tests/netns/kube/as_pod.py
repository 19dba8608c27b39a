"""Runs the daemon with what the manifest's pod has and no more: a read-only root, the mounted paths, its capabilities.

What must stay true: mounts, capabilities and arguments are read from the manifest, so that it cannot promise what was not tried.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import yaml

from dataplane.lab.commands import run
from dataplane.lab.node import DaemonNode, healthz_port
from tests.apiserver.process import first_token
from tests.netns.kube.kube_cluster import KubeCluster, address, manifest

account = Path("/run/secrets/kubernetes.io/serviceaccount")
(workload,) = (row for row in yaml.safe_load_all(manifest.read_text()) if row and row["kind"] == "DaemonSet")
pod = workload["spec"]["template"]["spec"]
build = manifest.parents[2] / "build" / f"cp{sys.version_info.major}{sys.version_info.minor}"


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


def add_pod_node(cluster: KubeCluster, files: Path, *flags: str) -> tuple[DaemonNode, dict[str, str]]:
    """Add a node whose daemon has what its pod has, not started; returns it and the pod's environment.

    Args:
        files: the node's own, by the volume's name.
    """
    server = cluster.server
    account.mkdir(parents=True, exist_ok=True)
    (account / "ca.crt").write_bytes(server.certificate.read_bytes())
    (account / "namespace").write_text("flannel-dataplane")
    (account / "token").write_text(first_token)
    files.mkdir()
    ours = (
        *flags,
        "--kubeconfig-file=",
        "--run-dir=/run/dataplane",
        "--subnet-file=/run/flannel/subnet.env",
        "--ip-masq",
    )
    node = cluster.lab.add("dataplane", *ours)
    assert isinstance(node, DaemonNode)
    node.run_dir, node.subnet_file = files / "run-dataplane", files / "run" / "subnet.env"
    (container,) = pod["containers"]
    node.wrapper = as_in_the_pod(container, files)
    place = {"KUBERNETES_SERVICE_HOST": address, "KUBERNETES_SERVICE_PORT": str(server.port)}
    return node, {**place, "PYTHONDONTWRITEBYTECODE": "1"}
