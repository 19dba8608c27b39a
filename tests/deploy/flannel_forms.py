"""The forms in which flannel's daemon is installed in clusters: what of their objects matters beside ours.

Names, namespaces, labels, selectors and rights only; flannel's own words are not here. What must stay true: a form that
people are found to have is added here, and with that to the tests.
Sources: flannel's releases (kustomization), Documentation/kube-flannel.yml, chart/kube-flannel, their history (v0.11,
v0.13 to v0.18 in kube-system); kubespray roles/network_plugin/flannel; kOps addons/networking.flannel; Canal of rke2-charts.
k3s runs flannel in its own process: it has no objects.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Document = dict[str, Any]

_nodes = [
    {"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]},
    {"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "list", "watch"]},
    {"apiGroups": [""], "resources": ["nodes/status"], "verbs": ["patch"]},
]
_tier = {"tier": "node"}
_app = {"app": "flannel"}
_k8s_app = {"k8s-app": "flannel"}
_chart = {**_app, **_tier, "app.kubernetes.io/name": "flannel", "app.kubernetes.io/instance": "flannel"}
_kops = {"role.kubernetes.io/networking": "1"}


@dataclass(frozen=True, slots=True)
class Form:
    """One way to install flannel.

    Attributes:
        selector: of its DaemonSets.
        labels: of their pods.
    """

    namespace: str
    selector: dict[str, str]
    labels: dict[str, str]
    daemonsets: tuple[str, ...] = ("kube-flannel-ds",)
    name: str = "flannel"
    config: str = "kube-flannel-cfg"

    def documents(self) -> list[Document]:
        """Return its objects, in the order of flannel's manifest."""
        made: list[Document] = []
        if self.namespace != "kube-system":
            made.append({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self.namespace}})
        rbac = "rbac.authorization.k8s.io"
        inside = {"namespace": self.namespace}
        role = {"apiGroup": rbac, "kind": "ClusterRole", "name": self.name}
        made += [
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "ClusterRole",
                "metadata": {"name": self.name},
                "rules": _nodes,
            },
            {
                "apiVersion": f"{rbac}/v1",
                "kind": "ClusterRoleBinding",
                "metadata": {"name": self.name},
                "roleRef": role,
                "subjects": [{"kind": "ServiceAccount", "name": self.name, **inside}],
            },
            {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": self.name, **inside}},
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": self.config, **inside},
                "data": {"net-conf.json": '{"Network": "10.42.0.0/16", "Backend": {"Type": "host-gw"}}'},
            },
        ]
        spec = {
            "hostNetwork": True,
            "serviceAccountName": self.name,
            "containers": [{"name": "kube-flannel", "image": "flannel", "command": ["/opt/bin/flanneld"]}],
        }
        return made + [
            {
                "apiVersion": "apps/v1",
                "kind": "DaemonSet",
                "metadata": {"name": name, **inside},
                "spec": {
                    "selector": {"matchLabels": self.selector},
                    "template": {"metadata": {"labels": self.labels}, "spec": spec},
                },
            }
            for name in self.daemonsets
        ]


forms = {
    "release": Form("kube-flannel", {**_app, **_k8s_app}, {**_app, **_k8s_app, **_tier}),
    "in the repository": Form("kube-flannel", _app, {**_app, **_tier}),
    "chart": Form("kube-flannel", _chart, _chart),
    "older chart": Form("kube-flannel", _app, {**_app, **_tier}),
    "0.13 to 0.19": Form("kube-system", _app, {**_app, **_tier}),
    "0.12 and before": Form(
        "kube-system",
        {**_app, **_tier},
        {**_app, **_tier},
        tuple(f"kube-flannel-ds-{name}" for name in ("amd64", "arm64", "arm", "ppc64le", "s390x")),
    ),
    "0.9 and before": Form("kube-system", {**_app, **_tier}, {**_app, **_tier}),
    "kubespray": Form("kube-system", {**_k8s_app, **_tier}, {**_k8s_app, **_tier}, ("kube-flannel",)),
    "kOps": Form("kube-system", {**_app, **_tier, **_kops}, {**_app, **_tier, **_kops}),
    "Canal": Form("kube-system", {"k8s-app": "canal"}, {"k8s-app": "canal"}, ("canal",), "canal", "canal-config"),
}
