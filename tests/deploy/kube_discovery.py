"""What a Kubernetes API server says of itself to kubectl: which groups, versions and kinds there are.

kubectl asks this before anything else, to learn at which path an object of some kind lives. What must stay true: every
kind of deploy/kubernetes/dataplane.yml is here, and nodes with their status, which the daemon uses.

Source: Kubernetes API concepts, "API discovery" (unaggregated); the shapes are APIVersions, APIGroupList and
APIResourceList of meta/v1.
"""

from __future__ import annotations

from typing import Any

Document = dict[str, Any]

_everything = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"]
_status = ["get", "patch", "update"]


def documents() -> dict[str, Document]:
    """Return the JSON documents by the path at which they are served."""
    core = _resources(
        "v1",
        _resource("configmaps", "ConfigMap", "cm", namespaced=True),
        _resource("namespaces", "Namespace", "ns", namespaced=False),
        _resource("nodes", "Node", "no", namespaced=False),
        _part("nodes/status", "Node", namespaced=False),
        _resource("pods", "Pod", "po", namespaced=True),
        _resource("serviceaccounts", "ServiceAccount", "sa", namespaced=True),
    )
    apps = _resources(
        "apps/v1",
        _resource("daemonsets", "DaemonSet", "ds", namespaced=True),
        _part("daemonsets/status", "DaemonSet", namespaced=True),
    )
    rbac = _resources(
        "rbac.authorization.k8s.io/v1",
        _resource("clusterroles", "ClusterRole", namespaced=False),
        _resource("clusterrolebindings", "ClusterRoleBinding", namespaced=False),
    )
    groups = {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [_group("apps"), _group("rbac.authorization.k8s.io")],
    }
    return {
        "/version": {"major": "1", "minor": "33", "gitVersion": "v1.33.0", "platform": "linux/amd64"},
        "/api": {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []},
        "/api/v1": core,
        "/apis": groups,
        "/apis/apps/v1": apps,
        "/apis/rbac.authorization.k8s.io/v1": rbac,
    }


def _group(name: str) -> Document:
    version = {"groupVersion": f"{name}/v1", "version": "v1"}
    return {"name": name, "versions": [version], "preferredVersion": version}


def _resources(group_version: str, *resources: Document) -> Document:
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": group_version,
        "resources": list(resources),
    }


def _resource(name: str, kind: str, *short: str, namespaced: bool) -> Document:
    return {
        "name": name,
        "singularName": kind.lower(),
        "namespaced": namespaced,
        "kind": kind,
        "verbs": _everything,
        "shortNames": list(short),
    }


def _part(name: str, kind: str, *, namespaced: bool) -> Document:
    return {"name": name, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": _status}
