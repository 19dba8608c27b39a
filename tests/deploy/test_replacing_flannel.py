"""`kubectl apply` over a flannel that runs, and back: what kubectl asks the API server to change, computed by kubectl itself.

The DaemonSet of flannel here is written from the names in its manifest (flannel Documentation/kube-flannel.yml): what
matters is which containers, variables, volumes and labels there are, since kubectl merges these by name.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from kube_server import kube_server
from rendering import Document, by_kind, daemon, root

kubectl = root / "build/tools/kubectl"
ours = by_kind((root / "deploy/kubernetes/dataplane.yml").read_text())["DaemonSet"]
path = "/apis/apps/v1/namespaces/kube-flannel/daemonsets/kube-flannel-ds"


def flannels() -> Document:
    def mount(name: str, where: str) -> Document:
        return {"name": name, "mountPath": where}

    def host(name: str, where: str) -> Document:
        return {"name": name, "hostPath": {"path": where}}

    labels = {"app": "flannel", "k8s-app": "flannel"}
    spec = {
        "hostNetwork": True,
        "serviceAccountName": "flannel",
        "initContainers": [
            {
                "name": "install-cni-plugin",
                "image": "flannel-cni-plugin",
                "command": ["cp"],
                "volumeMounts": [mount("cni-plugin", "/opt/cni/bin")],
            },
            {
                "name": "install-cni",
                "image": "flannel",
                "command": ["/opt/bin/install-conf"],
                "args": ["/etc/kube-flannel/cni-conf.json", "/etc/cni/net.d/10-flannel.conflist"],
                "volumeMounts": [mount("cni", "/etc/cni/net.d"), mount("flannel-cfg", "/etc/kube-flannel/")],
            },
        ],
        "containers": [
            {
                "name": "kube-flannel",
                "image": "flannel",
                "command": ["/opt/bin/flanneld"],
                "args": ["--ip-masq", "--kube-subnet-mgr"],
                "securityContext": {"privileged": False, "capabilities": {"add": ["NET_ADMIN", "NET_RAW"]}},
                "env": [
                    {"name": "POD_NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "EVENT_QUEUE_DEPTH", "value": "5000"},
                ],
                "volumeMounts": [mount("run", "/run/flannel"), mount("flannel-cfg", "/etc/kube-flannel/")],
            }
        ],
        "volumes": [
            host("run", "/run/flannel"),
            host("cni-plugin", "/opt/cni/bin"),
            host("cni", "/etc/cni/net.d"),
            {"name": "flannel-cfg", "configMap": {"name": "kube-flannel-cfg"}},
        ],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "DaemonSet",
        "metadata": {"name": "kube-flannel-ds", "namespace": "kube-flannel", "labels": {**labels, "tier": "node"}},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": {**labels, "tier": "node"}}, "spec": spec},
        },
    }


def applied(document: Document) -> Document:
    """As `kubectl apply` leaves it on the server."""
    last = json.dumps(document)
    metadata = {**document["metadata"], "annotations": {"kubectl.kubernetes.io/last-applied-configuration": last}}
    return {**document, "metadata": metadata}


def patch(before: Document, after: Document, tmp_path: Path) -> Document:
    """Return what kubectl sends when `after` is applied where `before` was."""
    file = tmp_path / "manifest.json"
    file.write_text(json.dumps(after))
    with kube_server({path: applied(before)}) as (url, patches):
        words = [str(kubectl), "--server", url, "apply", "--validate=false", "-f", str(file)]
        environment = {**os.environ, "HOME": str(tmp_path), "KUBECONFIG": ""}
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
        assert done.returncode == 0, done.stderr
        (sent,) = patches
    return sent


def deleted(rows: list[dict[str, Any]], key: str = "name") -> set[str]:
    return {row[key] for row in rows if row.get("$patch") == "delete"}


@pytest.fixture
def there(tmp_path: Path) -> Document:
    return patch(flannels(), ours, tmp_path)


def test_the_selector_is_left_alone(there: Document) -> None:
    assert "selector" not in there["spec"]
    assert "labels" not in there["spec"]["template"].get("metadata", {})


def test_what_only_flannel_has_is_taken_away(there: Document) -> None:
    spec = there["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert deleted(spec["initContainers"]) == {"install-cni-plugin"}
    assert deleted(container["env"]) == {"POD_NAME", "EVENT_QUEUE_DEPTH"}
    assert (container["name"], container["command"]) == ("kube-flannel", daemon({"DaemonSet": ours})["command"])
    (installer,) = (row for row in spec["initContainers"] if row["name"] == "install-cni" and "$patch" not in row)
    assert installer["command"] == ["dataplane", "install-cni"]


def test_what_only_we_have_is_taken_away_on_the_way_back(tmp_path: Path) -> None:
    back = patch(ours, flannels(), tmp_path)
    assert "selector" not in back["spec"]
    spec = back["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    assert deleted(spec["volumes"]) == {"run-dataplane", "tun", "xtables-lock"}
    assert deleted(container["env"]) == {"NODE_NAME"}
    assert {"/dev/net/tun", "/run/dataplane"} <= deleted(container["volumeMounts"], "mountPath")
    assert container["command"] == ["/opt/bin/flanneld"]
    context = container["securityContext"]
    assert (context["allowPrivilegeEscalation"], context["readOnlyRootFilesystem"]) == (None, None)
    assert context["capabilities"] == {"drop": None, "add": ["NET_ADMIN", "NET_RAW"]}
