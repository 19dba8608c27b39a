"""A server on loopback that knows what kinds there are, keeps the objects it is given, and refuses what Kubernetes would.

Enough for `kubectl apply` and `kubectl delete`: an object of a namespace needs the namespace and goes with it; the
selector of a DaemonSet and the role of a binding never change. A patch is merged as JSON merge does: what it comes to in
lists is not looked at here.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

import yaml

from tests.apiserver.merge import json_merge
from tests.deploy import kube_discovery
from tests.deploy.rendering import root

Document = dict[str, Any]

_unchangeable = {"DaemonSet": ("spec", "selector"), "ClusterRoleBinding": ("roleRef",)}


class Refused(Exception):
    """What the server answers in place of an object."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = {
            "kind": "Status",
            "apiVersion": "v1",
            "status": "Failure",
            "code": code,
            "reason": reason,
            "message": message,
        }
        self.code = code


class KubeServer:
    """The objects, by path, and kubectl to work on them.

    Args:
        directory: of kubectl's own files.
    """

    def __init__(self, directory: Path) -> None:
        self.url = ""
        self.objects: dict[str, Document] = {"/api/v1/namespaces/kube-system": {"kind": "Namespace"}}
        self._directory = directory

    def kubectl(
        self, *words: str, kubectl: str = str(root / "build/tools/kubectl")
    ) -> subprocess.CompletedProcess[str]:
        """Run kubectl against this server."""
        environment = {**os.environ, "HOME": str(self._directory), "KUBECONFIG": ""}
        return subprocess.run(
            [kubectl, "--server", self.url, *words], capture_output=True, text=True, check=False, env=environment
        )

    def apply(self, documents: Sequence[Mapping[str, Any]]) -> subprocess.CompletedProcess[str]:
        """`kubectl apply` of these, in this order."""
        return self.kubectl("apply", "--validate=false", "-f", self._file(documents))

    def delete(self, documents: Sequence[Mapping[str, Any]]) -> subprocess.CompletedProcess[str]:
        """`kubectl delete` of these, in this order."""
        # What went with its namespace is not there any more.
        return self.kubectl("delete", "--wait=false", "--ignore-not-found", "-f", self._file(documents))

    def _file(self, documents: Sequence[Mapping[str, Any]]) -> str:
        file = self._directory / "manifest.yml"
        file.write_text(yaml.safe_dump_all(documents))
        return str(file)

    def answer(self, method: str, path: str, given: Any) -> Document:
        """Return what the server says; raises `Refused`."""
        path = path.partition("?")[0]
        if method == "GET":
            return kube_discovery.documents().get(path) or self._held(path)
        if method == "POST":
            name = given["metadata"]["name"]
            namespace = given["metadata"].get("namespace")
            if namespace and f"/api/v1/namespaces/{namespace}" not in self.objects:
                raise Refused(404, "NotFound", f'namespaces "{namespace}" not found')
            self.objects[f"{path}/{name}"] = given
            return self.objects[f"{path}/{name}"]
        held = self._held(path)
        if method == "PATCH":
            merged = json_merge(held, given)
            place = _unchangeable.get(held["kind"], ())
            if place and _at(merged, place) != _at(held, place):
                text = f"{held['kind']} {path.rpartition('/')[2]!r} is invalid: {'.'.join(place)}: field is immutable"
                raise Refused(422, "Invalid", text)
            self.objects[path] = merged
        else:
            inside = f"/namespaces/{path.rpartition('/')[2]}/"
            gone = [other for other in self.objects if held["kind"] == "Namespace" and inside in other]
            for other in (path, *gone):
                del self.objects[other]
        return held

    def _held(self, path: str) -> Document:
        try:
            return self.objects[path]
        except KeyError:
            raise Refused(404, "NotFound", f"{path} not found") from None


Served = TypeVar("Served", bound=KubeServer)


def _at(document: Any, place: Sequence[str]) -> Any:
    for name in place:
        document = document[name]
    return document


@contextmanager
def kube_server(directory: Path) -> Iterator[KubeServer]:
    """Serve objects until the block ends."""
    with serving(KubeServer(directory)) as held:
        yield held


@contextmanager
def serving(held: Served) -> Iterator[Served]:
    """Serve these until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers["Content-Length"] or 0)
            given = json.loads(self.rfile.read(length)) if length else None
            try:
                code, document = 200, held.answer(self.command, self.path, given)
            except Refused as refused:
                code, document = refused.code, refused.status
            body = json.dumps(document).encode()
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PATCH = do_DELETE = _answer

        def log_message(self, format: str, *args: object) -> None:
            """Keep the tests' output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    held.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield held
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
