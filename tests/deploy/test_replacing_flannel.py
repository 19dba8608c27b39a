"""Our manifest beside every form of flannel that people have, and away again: applied and deleted by kubectl itself.

What must stay true: no apply or delete of ours touches an object of flannel's, none of flannel's touches ours, and no
node has both daemons (docs/decisions/0028).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.deploy.flannel_forms import forms
from tests.deploy.kube_server import KubeServer, kube_server
from tests.deploy.rendering import Document, by_kind, pod_spec, render, root

text = (root / "deploy/kubernetes/dataplane.yml").read_text()
ours = [document for document in yaml.safe_load_all(text) if document]


@pytest.fixture
def server(tmp_path: Path) -> Iterator[KubeServer]:
    with kube_server(tmp_path) as server:
        yield server


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """As the API machinery's LabelSelector, of the operator that is used."""
    for row in selector.get("matchExpressions", ()):
        assert row["operator"] == "In"
        if labels.get(row["key"]) not in row["values"]:
            return False
    return all(labels.get(key) == value for key, value in selector.get("matchLabels", {}).items())


def kept_apart(spec: Document, labels: Mapping[str, str]) -> bool:
    """Say whether the scheduler keeps a pod of this spec and one with these labels, of any namespace, off one node.

    Whichever of the two came first: required anti-affinity of a running pod holds against a new one too.
    """
    terms = spec["affinity"].get("podAntiAffinity", {}).get("requiredDuringSchedulingIgnoredDuringExecution", [])
    for term in terms:
        assert (term["topologyKey"], term["namespaceSelector"]) == ("kubernetes.io/hostname", {})
    return any(selects(term["labelSelector"], labels) for term in terms)


@pytest.mark.parametrize("form", forms)
def test_beside_flannel_ours_comes_whole_and_goes_whole(server: KubeServer, form: str) -> None:
    done = server.apply(forms[form].documents())
    assert done.returncode == 0, done.stderr
    before = copy.deepcopy(server.objects)
    done = server.apply(ours)
    assert done.returncode == 0, done.stderr
    assert len(server.objects) == len(before) + len(ours)
    assert {path: server.objects[path] for path in before} == before
    done = server.delete(ours)
    assert done.returncode == 0, done.stderr
    assert server.objects == before


@pytest.mark.parametrize("form", forms)
def test_beside_ours_flannel_comes_whole_and_goes_whole(server: KubeServer, form: str) -> None:
    """The way back, and what is left of flannel taken away once it is replaced."""
    assert server.apply(ours).returncode == 0
    before = copy.deepcopy(server.objects)
    done = server.apply(forms[form].documents())
    assert done.returncode == 0, done.stderr
    assert {path: server.objects[path] for path in before} == before
    done = server.delete(forms[form].documents())
    assert done.returncode == 0, done.stderr
    assert server.objects == before


@pytest.mark.parametrize("form", forms)
def test_no_node_has_both_daemons(form: str) -> None:
    assert kept_apart(pod_spec(by_kind(text)), forms[form].labels)


@pytest.mark.parametrize("form", forms)
def test_neither_takes_the_others_pods_for_its_own(form: str) -> None:
    """A DaemonSet adopts pods without an owner that its selector finds, such as those left by --cascade=orphan."""
    spec = by_kind(text)["DaemonSet"]["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert selects(spec["selector"], labels)
    assert not selects(spec["selector"], forms[form].labels)
    assert not selects({"matchLabels": forms[form].selector}, labels)


def test_our_pods_are_not_kept_off_by_each_other() -> None:
    labels = by_kind(text)["DaemonSet"]["spec"]["template"]["metadata"]["labels"]
    assert not kept_apart(pod_spec(by_kind(text)), labels)


def test_where_there_is_no_flannel_the_scheduler_need_not_compare() -> None:
    affinity = pod_spec(render("flannel.waitForFlannel=false"))["affinity"]
    assert set(affinity) == {"nodeAffinity"}


def test_in_flannels_place_no_order_would_help(server: KubeServer) -> None:
    """Why names are our own: kubectl goes on after an object that was refused."""
    form = forms["in the repository"]
    assert server.apply(form.documents()).returncode == 0
    before = copy.deepcopy(server.objects)
    other = copy.deepcopy(form.documents())
    *rest, workload = other
    workload["spec"]["selector"] = {"matchLabels": {"app": "flannel", "k8s-app": "flannel"}}
    (config,) = (document for document in rest if document["kind"] == "ConfigMap")
    config["data"]["net-conf.json"] = "{}"
    done = server.apply([workload, config])
    assert done.returncode != 0 and "spec.selector: field is immutable" in done.stderr
    changed = {path for path in before if server.objects[path] != before[path]}
    assert changed == {"/api/v1/namespaces/kube-flannel/configmaps/kube-flannel-cfg"}
