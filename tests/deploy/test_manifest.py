"""deploy/kubernetes/dataplane.yml: current, taken by kubectl, in itself consistent, and in flannel's place."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from ipaddress import ip_network
from pathlib import Path

import pytest

from dataplane.cli import commands
from dataplane.observe.health import health_app
from dataplane.observe.state import NodeState
from tests.apiserver.access import Rule, read_rules
from tests.apiserver.process import flannel_rules, service_account
from tests.deploy.kube_server import KubeServer, kube_server
from tests.deploy.rendering import (
    Document,
    by_kind,
    check_model,
    daemon,
    install_options,
    installer,
    options,
    pod_spec,
    render,
    root,
)

manifest = root / "deploy/kubernetes/dataplane.yml"


@cache
def documents() -> dict[str, Document]:
    return by_kind(manifest.read_text())


@pytest.fixture
def server(tmp_path: Path) -> Iterator[KubeServer]:
    with kube_server(tmp_path) as server:
        yield server


def test_it_is_what_the_chart_says() -> None:
    made = subprocess.run(["bash", str(root / "tools/manifest.sh")], capture_output=True, text=True, check=True)
    assert manifest.read_text() == made.stdout, "run: make gen"


def test_with_default_values_the_chart_differs_by_the_namespace_alone() -> None:
    without = {kind: document for kind, document in documents().items() if kind != "Namespace"}
    assert render() == without


@pytest.mark.parametrize(
    "kind", ["Namespace", "ServiceAccount", "ConfigMap", "ClusterRole", "ClusterRoleBinding", "DaemonSet"]
)
def test_kubernetes_knows_every_field_of(kind: str) -> None:
    check_model(documents()[kind])


@pytest.mark.parametrize("kubectl", [shutil.which("kubectl") or "kubectl", str(root / "build/tools/kubectl")])
def test_kubectl_takes_it(kubectl: str, server: KubeServer) -> None:
    words = ("apply", "--dry-run=client", "--validate=false", "--output=name", "-f", str(manifest))
    done = server.kubectl(*words, kubectl=kubectl)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [
        "namespace/flannel-dataplane",
        "serviceaccount/flannel-dataplane",
        "configmap/flannel-dataplane",
        "clusterrole.rbac.authorization.k8s.io/flannel-dataplane",
        "clusterrolebinding.rbac.authorization.k8s.io/flannel-dataplane",
        "daemonset.apps/flannel-dataplane",
    ]


def test_the_namespace_admits_the_pod() -> None:
    """Host network, host paths and our capabilities are above the level "baseline" of the pod security standards."""
    labels = documents()["Namespace"]["metadata"]["labels"]
    assert labels["pod-security.kubernetes.io/enforce"] == "privileged"
    for kind in ("ServiceAccount", "ConfigMap", "DaemonSet"):
        assert documents()[kind]["metadata"]["namespace"] == documents()["Namespace"]["metadata"]["name"]


def test_the_pod_stays_where_the_network_is_not_there_yet() -> None:
    """A node without a network is tainted, NoSchedule and later NoExecute; cluster DNS is behind our own network."""
    spec = pod_spec(documents())
    tolerated = {row["effect"] for row in spec["tolerations"] if row["operator"] == "Exists" and "key" not in row}
    assert tolerated == {"NoSchedule", "NoExecute"}
    assert spec["priorityClassName"] == "system-node-critical"
    assert (spec["hostNetwork"], spec["dnsPolicy"], spec["enableServiceLinks"]) == (True, "Default", False)
    assert spec["securityContext"] == {"seccompProfile": {"type": "RuntimeDefault"}}


def test_only_the_pod_has_the_accounts_token() -> None:
    assert documents()["ServiceAccount"]["automountServiceAccountToken"] is False
    assert pod_spec(documents())["automountServiceAccountToken"] is True


def test_an_update_starts_the_next_pod_beside_the_one_that_it_takes_over_from() -> None:
    spec = documents()["DaemonSet"]["spec"]
    rolling = {"maxSurge": "10%", "maxUnavailable": 0}
    assert spec["updateStrategy"] == {"type": "RollingUpdate", "rollingUpdate": rolling}
    assert options(daemon(documents())).takeover
    # Both pods are in the host's network: a declared port would keep the second one from the node.
    assert "ports" not in daemon(documents())
    assert spec["minReadySeconds"] >= 10


def test_rights_are_those_that_are_used() -> None:
    """The clusters of tests/netns and tests/stores/kube have an API server that allows just these rules."""
    granted = read_rules(documents().values())
    assert {user: [_plain(rule) for rule in rules] for user, rules in granted.items()} == {
        service_account: [_plain(rule) for rule in flannel_rules]
    }
    binding = documents()["ClusterRoleBinding"]
    assert binding["roleRef"]["name"] == documents()["ClusterRole"]["metadata"]["name"]
    account = documents()["ServiceAccount"]["metadata"]
    assert binding["subjects"] == [
        {"kind": "ServiceAccount", "name": account["name"], "namespace": account["namespace"]}
    ]
    assert pod_spec(documents())["serviceAccountName"] == account["name"]
    # Knowing its Node the daemon does not look up its pod.
    (node_name,) = daemon(documents())["env"]
    assert node_name == {"name": "NODE_NAME", "valueFrom": {"fieldRef": {"fieldPath": "spec.nodeName"}}}


def _plain(rule: Rule) -> tuple[tuple[str, ...], ...]:
    return tuple(rule.groups), tuple(rule.resources), tuple(rule.verbs), tuple(rule.names)


def test_privileges_are_those_that_are_needed() -> None:
    context = daemon(documents())["securityContext"]
    assert context["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW", "BPF"]}
    assert installer(documents())["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    for container in (daemon(documents()), installer(documents())):
        asked = container["securityContext"]
        assert (asked["privileged"], asked["allowPrivilegeEscalation"], asked["readOnlyRootFilesystem"]) == (
            False,
            False,
            True,
        )


def test_every_volume_is_mounted_and_every_mount_has_a_volume() -> None:
    volumes = [volume["name"] for volume in pod_spec(documents())["volumes"]]
    mounted = {
        mount["name"]
        for container in (daemon(documents()), installer(documents()))
        for mount in container["volumeMounts"]
    }
    assert set(volumes) == mounted and len(volumes) == len(mounted)


def test_what_the_daemon_writes_lies_on_the_node() -> None:
    """With a read-only root every path that a flag names must be mounted, and from the same path of the node."""
    given = options(daemon(documents()))
    sources = {
        volume["name"]: volume["hostPath"]["path"]
        for volume in pod_spec(documents())["volumes"]
        if "hostPath" in volume
    }
    mounted = {mount["mountPath"]: sources.get(mount["name"]) for mount in daemon(documents())["volumeMounts"]}
    for directory in (given.subnet_file.parent, given.run_dir):
        assert mounted[str(directory)] == str(directory)
    assert mounted["/run/xtables.lock"] == "/run/xtables.lock"  # iptables(8), the default of XTABLES_LOCKFILE


def test_files_of_the_configmap_are_where_they_are_read() -> None:
    data = documents()["ConfigMap"]["data"]
    read = options(daemon(documents())).net_config_path
    (where,) = (mount for mount in daemon(documents())["volumeMounts"] if mount["name"] == "flannel-cfg")
    assert str(read.parent) == where["mountPath"] and read.name in data
    install = install_options(installer(documents()))
    assert install.runtime and install.conf.name in data
    places = {mount["mountPath"] for mount in installer(documents())["volumeMounts"]}
    assert places == {str(install.bin_dir), str(install.conf_dir), str(install.conf.parent)}
    assert ip_network(json.loads(data["net-conf.json"])["Network"])


def test_probes_ask_what_the_daemon_serves() -> None:
    container = daemon(documents())
    assert container["command"] == ["dataplane", "run"]
    assert {"run", installer(documents())["command"][1]} <= set(commands)
    assert options(container).healthz_port == 8081
    served = {
        resource.canonical for resource in health_app(NodeState(now=lambda: 0.0, subnet_file="")).router.resources()
    }
    paths = {"startupProbe": "/healthz", "livenessProbe": "/healthz", "readinessProbe": "/readyz"}
    for probe, path in paths.items():
        assert container[probe]["httpGet"] == {"path": path, "port": 8081}
        assert path in served
    # A slow board has a minute to load the program; a loop that is held for a moment is no reason to kill it.
    startup = container["startupProbe"]
    assert startup["periodSeconds"] * startup["failureThreshold"] >= 60
    assert all(container[probe]["timeoutSeconds"] >= 5 for probe in paths)
