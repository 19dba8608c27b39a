"""The steps of docs/kubernetes.md from flannel to ours, run by bash and kubectl as they stand there.

Behind kubectl is a cluster of three nodes as controllers and scheduler would make it: a pod of ours runs on a node once
flannel's has gone from it. What must stay true: no step takes two nodes at once, and a node that does not become ready is
the last one that was touched.
"""

from __future__ import annotations

import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from tests.deploy.flannel_forms import Form, forms
from tests.deploy.kube_server import Document, KubeServer, Refused, serving
from tests.deploy.rendering import root

nodes = ("a", "b", "c")
labels = {
    "release": "app=flannel",
    "chart": "app=flannel",
    "0.13 to 0.19": "app=flannel",
    "kubespray": "k8s-app=flannel",
}
section = (root / "docs/kubernetes.md").read_text().partition("\n## Replacing flannel")[2].partition("\n### ")[0]


def commands(step: int) -> str:
    """Return the indented lines of one numbered step."""
    text = section.partition(f"\n**{step}. ")[2].partition("\n**")[0]
    return "\n".join(re.findall(r"^    (.*)$", text, re.MULTILINE))


class Cluster(KubeServer):
    """Three nodes with flannel of some form.

    Attributes:
        unfit: nodes on which ours does not become ready.
        taken: in which order nodes lost flannel's pod.
    """

    def __init__(self, directory: Path, form: Form) -> None:
        super().__init__(directory)
        self.unfit: set[str] = set()
        self.taken: list[str] = []
        self.stuck = threading.Event()
        self._form = form
        self._left = {f"flannel-{node}": node for node in nodes}
        self._asked = 0

    def answer(self, method: str, path: str, given: Any) -> Document:
        """As the objects' server, with pods."""
        url = urlsplit(path)
        found = re.fullmatch(r"/api/v1/namespaces/([^/]+)/pods(?:/(.+))?", url.path)
        if not found:
            return super().answer(method, path, given)
        namespace, name = found.groups()
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        fields = dict(pair.split("=", 1) for pair in query.get("fieldSelector", "").split(",") if pair)
        if name is not None:
            if name not in self._left:
                raise Refused(404, "NotFound", f'pods "{name}" not found')
            pod = self._pod(name, namespace, self._left[name], ready=True)
            if method == "DELETE":
                self.taken.append(self._left.pop(name))
            return pod
        if namespace == "flannel-dataplane":
            node = fields["spec.nodeName"]
            assert node not in self._left.values(), "both daemons on one node"
            self._asked += node in self.unfit
            if self._asked == 3:
                self.stuck.set()
            pods = [self._pod(f"ours-{node}", namespace, node, ready=node not in self.unfit)]
        else:
            assert namespace == self._form.namespace
            asked = query.get("labelSelector")
            assert asked is None or asked.partition("=")[2] == self._form.labels[asked.partition("=")[0]]
            wanted = {name: node for name, node in self._left.items() if fields.get("metadata.name", name) == name}
            pods = [self._pod(name, namespace, node, ready=True) for name, node in wanted.items()]
        return {"kind": "PodList", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": pods}

    @staticmethod
    def _pod(name: str, namespace: str, node: str, *, ready: bool) -> Document:
        conditions = [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": str(ready)}]
        return {
            "kind": "Pod",
            "apiVersion": "v1",
            "metadata": {"name": name, "namespace": namespace, "uid": name},
            "spec": {"nodeName": node},
            "status": {"conditions": conditions},
        }

    @contextmanager
    def bash(self, form: str, script: str, directory: Path) -> Iterator[subprocess.Popen[str]]:
        """Run lines of the documentation, with the names of a form."""
        tools = directory / "tools"
        tools.mkdir(exist_ok=True)
        tool = tools / "kubectl"
        tool.write_text(f'#!/bin/sh\nexec {root}/build/tools/kubectl --server {self.url} "$@"\n')
        tool.chmod(0o755)
        given = {"ns": forms[form].namespace, "ds": forms[form].daemonsets[0], "label": labels[form]}
        path = f"{tools}:{os.environ['PATH']}"
        environment = {**os.environ, **given, "HOME": str(directory), "KUBECONFIG": "", "PATH": path}
        words = ["bash", "-eu", "-c", script]
        with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE, text=True) as process:
            try:
                yield process
            finally:
                process.kill()


@pytest.mark.parametrize("form", labels)
def test_every_node_is_taken_over_one_after_the_other(tmp_path: Path, form: str) -> None:
    with serving(Cluster(tmp_path, forms[form])) as cluster:
        assert cluster.apply(forms[form].documents()).returncode == 0
        with cluster.bash(form, f"{commands(3)}\n{commands(4)}", tmp_path) as process:
            _, said = process.communicate(timeout=200)
        assert (process.returncode, said) == (0, "")
        assert cluster.taken == list(nodes)
        assert not [path for path in cluster.objects if "daemonsets" in path]


def test_a_node_that_does_not_become_ready_is_the_last_one(tmp_path: Path) -> None:
    with serving(Cluster(tmp_path, forms["release"])) as cluster:
        cluster.unfit = {"b"}
        with cluster.bash("release", commands(4), tmp_path) as process:
            assert cluster.stuck.wait(60)
            assert process.poll() is None
            assert cluster.taken == ["a", "b"]
