"""Where the Kubernetes API is, which node we are, and how our annotations are called: flags and environment, checked.

Apart from the client so that reading flags needs no HTTP library. What must stay true: a prefix that passes here makes
annotation names that flannel would make of it, so that both read each other.
Source: flannel pkg/subnet/kube/annotations.go (prefix), kube.go (environment); flannel.md sections 3.1 and 3.3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from dataplane.errors import BadInput

default_prefix = "flannel.alpha.coreos.com"
_prefix_form = re.compile(r"(?:[a-z0-9_-]+\.)+[a-z0-9_-]+/(?:[a-z0-9_.-]+-)?")
_prefix_allowed = (
    'allowed are such as "flannel.alpha.coreos.com", "example.org/overlay": a domain, and after one "/" a word'
)


@dataclass(frozen=True, slots=True)
class KubeAccess:
    """The cluster and our place in it.

    Attributes:
        api_url: of the API server, in place of the kubeconfig's; "" for none.
        kubeconfig: its path, None for none; with neither of the two we are a pod of the cluster.
        prefix: what an annotation's name begins with, its last "/" or "-" included.
        node_name: the Node that we are; "" to look it up by our pod.
        pod_namespace, pod_name: our pod.
        set_network_unavailable: say on the Node that its network is there.
    """

    api_url: str = ""
    kubeconfig: Path | None = None
    prefix: str = f"{default_prefix}/"
    node_name: str = ""
    pod_namespace: str = ""
    pod_name: str = ""
    set_network_unavailable: bool = True


def read_access(
    environment: Mapping[str, str],
    *,
    api_url: str = "",
    kubeconfig: str = "",
    prefix: str = default_prefix,
    set_network_unavailable: bool = True,
) -> KubeAccess:
    """Return flags and environment (NODE_NAME, POD_NAME, POD_NAMESPACE) as one value.

    Raises:
        BadInput: with the flag or variable, its value and what is allowed.
    """
    if api_url and not re.match("https?://[^/]", api_url):
        raise BadInput(f'--kube-api-url {api_url!r} is no URL; allowed are such as "https://192.0.2.1:6443"')
    node, namespace, pod = (environment.get(name, "") for name in ("NODE_NAME", "POD_NAMESPACE", "POD_NAME"))
    if not node and not (namespace and pod):
        raise BadInput(
            "env variables POD_NAME and POD_NAMESPACE must be set, or NODE_NAME: "
            "--kube-subnet-mgr has to know which Node this is"
        )
    for name, value in (("NODE_NAME", node), ("POD_NAMESPACE", namespace), ("POD_NAME", pod)):
        # They become parts of a URL's path. A Node's name is a DNS subdomain (RFC 1123).
        if not re.fullmatch("[A-Za-z0-9.-]*", value) or value in (".", ".."):
            raise BadInput(
                f"{name} is {value!r}, which no Kubernetes object is called; allowed are letters, digits, - and ."
            )
    return KubeAccess(
        api_url,
        Path(kubeconfig) if kubeconfig else None,
        read_prefix(prefix),
        node,
        namespace,
        pod,
        set_network_unavailable,
    )


def read_prefix(text: str) -> str:
    """Return what every annotation's name begins with: "example.org/", or "example.org/word-".

    Raises:
        BadInput: more than one "/", or not a domain with an optional word.
    """
    if text.count("/") > 1:
        raise BadInput(f'--kube-annotation-prefix {text!r} has more than one "/"; {_prefix_allowed}')
    prefix = text if "/" in text else f"{text}/"
    if not prefix.endswith(("/", "-")):
        prefix += "-"
    if not _prefix_form.fullmatch(prefix):
        raise BadInput(f"--kube-annotation-prefix {text!r} is not of the form domain/word; {_prefix_allowed}")
    return prefix
