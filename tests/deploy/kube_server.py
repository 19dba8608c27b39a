"""A server on loopback that knows what kinds there are, holds the objects it is given and notes what is to be patched.

Enough for `kubectl apply`: its dry run finds no object, and what it wants to change in one can be looked at.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import kube_discovery

Document = dict[str, Any]


@contextmanager
def kube_server(objects: Mapping[str, Document] | None = None) -> Iterator[tuple[str, list[Document]]]:
    """Serve objects by their path; yields the URL, and the patches that were sent so far."""
    documents = {**kube_discovery.documents(), **(objects or {})}
    patches: list[Document] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            path = self.path.partition("?")[0]
            missing = {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404}
            body = json.dumps(documents.get(path, missing)).encode()
            self.send_response(200 if path in documents else 404)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_PATCH(self) -> None:
            assert self.headers["Content-Type"] == "application/strategic-merge-patch+json"
            patches.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.do_GET()

        def log_message(self, format: str, *args: object) -> None:
            """Keep the tests' output clean."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", patches
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
