"""The API server as a process of its own, and an administrator's hand on it.

What must stay true: it speaks TLS with a certificate of its own making, on one port for its whole life; killed and started
again it has all that was written; it is ended by its process id.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import datetime
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from typing import Any, Self

from dataplane.lab.commands import LabError, run, wait_for
from dataplane.model import Lease, LeaseAttrs
from tests import environment
from tests.apiserver.access import Rule, admin

service_account = "system:serviceaccount:flannel-dataplane:flannel-dataplane"
flannel_rules = (Rule(("",), ("nodes",), ("get", "list", "watch")), Rule(("",), ("nodes/status",), ("patch",)))
_admin_token = "admins-token"  # noqa: S105 - of a server in a lab
first_token = "flannels-token"  # noqa: S105


class Refusal(LabError):
    """The API server refused what the administrator asked; `code` is HTTP's."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code


class Server:
    """A context manager.

    Args:
        directory: for journal, certificate and log.
        host: address to listen on.
        rules: what service accounts may do.
        settings: as levers.Settings says; those in the attribute of this name are in force from the next start on.
    """

    def __init__(
        self,
        directory: Path,
        host: str = "127.0.0.1",
        *,
        rules: Mapping[str, Sequence[Rule]] | None = None,
        settings: Mapping[str, object] | None = None,
    ) -> None:
        self.directory = directory
        self.settings = dict(settings or {})
        self.journal = directory / "journal"
        self.certificate = directory / "ca.crt"
        self._process: subprocess.Popen[bytes] | None = None
        key = directory / "tls.key"
        run(
            None, "openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes",
            "-days", "2", "-subj", "/CN=kube-apiserver", "-addext", f"subjectAltName=IP:{host}",
            "-keyout", str(key), "-out", str(self.certificate),
        )  # fmt: skip
        family = socket.AF_INET6 if ip_address(host).version == 6 else socket.AF_INET
        with socket.socket(family) as held:
            held.bind((host, 0))
            self.port = held.getsockname()[1]
        self.host = f"[{host}]" if ":" in host else host
        self.url = f"https://{self.host}:{self.port}"
        self._config = directory / "server.json"
        self._given = {
            "journal": str(self.journal),
            "host": host,
            "port": self.port,
            "certificate": str(self.certificate),
            "key": str(key),
            "tokens": {_admin_token: admin, first_token: service_account},
            "rules": {
                user: [[*map(list, (rule.groups, rule.resources, rule.verbs, rule.names))] for rule in listed]
                for user, listed in (rules or {service_account: flannel_rules}).items()
            },
        }
        self._trust = ssl.create_default_context(cafile=str(self.certificate))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def start(self) -> None:
        """Start it and return when it answers."""
        self._config.write_text(json.dumps({**self._given, "settings": self.settings}))
        words = (sys.executable, "-m", "tests.apiserver", str(self._config))
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment())

        def answers() -> bool:
            if self._running().poll() is not None:
                raise LabError(f"the API server ended:\n{(self.directory / 'log').read_text()[-2000:]}")
            try:
                self._ask("GET", "/livez")
            except OSError:
                return False
            return True

        try:
            wait_for(answers, 90, "the API server to answer")
        except BaseException:
            self.kill()
            raise

    def kill(self) -> None:
        """End it with SIGKILL."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    @property
    def pid(self) -> int:
        """The process id of the one that runs."""
        return self._running().pid

    def freeze(self) -> None:
        """Stop it, and return when all its threads stand still."""
        process = self._running()
        process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, process.pid, os.WSTOPPED)

    def thaw(self) -> None:
        """Let it go on."""
        self._running().send_signal(signal.SIGCONT)

    def snapshot(self) -> bytes:
        """Return a backup of all that was written."""
        text = self.journal.read_bytes()
        return text[: text.rfind(b"\n") + 1]

    def restore(self, snapshot: bytes, past: int = 0) -> None:
        """Have a server with what was in a backup, in place of this one.

        Args:
            past: a version that writes to other objects pass before anybody is answered.
        """
        self.kill()
        self.journal.write_bytes(snapshot)
        settings = self.settings
        self.settings = {**settings, "advance_to": past}
        try:
            self.start()
        finally:
            self.settings = settings

    def version(self) -> int:
        """Return the version of the last write."""
        return int(self._ask("GET", "/api/v1/nodes?limit=1")["metadata"]["resourceVersion"])

    def kubeconfig(self, path: Path, token: str = first_token) -> Path:
        """Write a kubeconfig with this token, and return its path."""
        path.write_text(
            json.dumps(
                {
                    "apiVersion": "v1",
                    "kind": "Config",
                    "current-context": "lab",
                    "clusters": [
                        {
                            "name": "lab",
                            "cluster": {"server": self.url, "certificate-authority": str(self.certificate)},
                        }
                    ],
                    "users": [{"name": "flannel", "user": {"token": token}}],
                    "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "flannel"}}],
                }
            )
        )
        return path

    def add_node(self, name: str, *cidrs: str, annotations: Mapping[str, str] | None = None) -> dict[str, Any]:
        """Register a Node with these pod subnets, as a kubelet and the controller manager would."""
        spec = {"podCIDR": cidrs[0], "podCIDRs": list(cidrs)} if cidrs else {}
        ready = {
            "type": "Ready",
            "status": "True",
            "reason": "KubeletReady",
            "lastHeartbeatTime": "2026-01-01T00:00:00Z",
        }
        absent = {"type": "NetworkUnavailable", "status": "True", "reason": "NoRouteCreated"}
        document = {
            "metadata": {"name": name, "annotations": {"volumes.kubernetes.io/x": "y", **(annotations or {})}},
            "spec": spec,
            "status": {"conditions": [ready, absent], "addresses": [{"type": "Hostname", "address": name}]},
        }
        return self._ask("POST", "/api/v1/nodes", document)

    def node(self, name: str) -> dict[str, Any]:
        """Return a Node; raises `Refusal` 404."""
        return self._ask("GET", f"/api/v1/nodes/{name}")

    def nodes(self) -> list[dict[str, Any]]:
        """Return all."""
        listed: list[dict[str, Any]] = self._ask("GET", "/api/v1/nodes")["items"]
        return listed

    def annotate(self, name: str, annotations: Mapping[str, str | None]) -> dict[str, Any]:
        """Set annotations of a Node; None takes one away."""
        return self.patch(name, {"metadata": {"annotations": annotations}})

    def patch(self, name: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Merge (RFC 7386) into a Node."""
        return self._ask("PATCH", f"/api/v1/nodes/{name}", document, "application/merge-patch+json")

    def annotate_as_flannel(self, name: str, attrs: LeaseAttrs) -> Lease:
        """Write on a Node what flanneld with the vxlan backend was seen to write there; return it as a lease."""
        prefix = "flannel.alpha.coreos.com/"
        texts = {"kube-subnet-manager": "true", "backend-type": "vxlan", "public-ip": str(attrs.public_ip)}
        texts["backend-data"] = f'{{"VNI":1,"VtepMAC":"{attrs.backend_data["VtepMAC"]}"}}'
        if attrs.backend_v6_data is not None:
            texts["backend-v6-data"] = f'{{"VNI":1,"VtepMAC":"{attrs.backend_v6_data["VtepMAC"]}"}}'
            texts["public-ipv6"] = str(attrs.public_ipv6)
        node = self.annotate(name, {prefix + item: text for item, text in texts.items()})
        subnet, *ipv6_subnet = node["spec"]["podCIDRs"]
        created = datetime.fromisoformat(node["metadata"]["creationTimestamp"]).timestamp()
        ipv6 = IPv6Network(ipv6_subnet[0]) if ipv6_subnet else None
        return Lease(IPv4Network(subnet), ipv6, attrs, born=(created, name))

    def delete_node(self, name: str) -> None:
        """Delete a Node."""
        self._ask("DELETE", f"/api/v1/nodes/{name}")

    def add_pod(self, namespace: str, name: str, node: str) -> None:
        """Register a Pod that runs on a node."""
        document = {"metadata": {"name": name, "namespace": namespace}, "spec": {"nodeName": node}}
        self._ask("POST", f"/api/v1/namespaces/{namespace}/pods", document)

    def pull(self, lever: str, **arguments: object) -> None:
        """Pull a lever of the server's (server.ApiServer._pull)."""
        self._ask("POST", f"/stub/{lever}", arguments)

    def replace_token(self, token: str) -> None:
        """Let the service account in by this token alone."""
        self.pull("tokens", **{_admin_token: admin, token: service_account})

    def requests(self) -> list[dict[str, Any]]:
        """Return the requests since the start that were not the administrator's.

        Each has user, method, url, time (Unix), verb (RBAC's), source (of a read: "quorum" or "cache"), status (0 until it
        is known) and bytes (of a watch: so far).
        """
        told: Any = self._ask("GET", "/stub/requests")
        return [request for request in told if request["user"] != admin]

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise LabError("the API server does not run")
        return self._process

    def _ask(self, method: str, path: str, document: object = None, kind: str = "application/json") -> dict[str, Any]:
        request = urllib.request.Request(  # noqa: S310 - to our own server
            self.url + path,
            method=method,
            data=None if document is None else json.dumps(document).encode(),
            headers={"Authorization": f"Bearer {_admin_token}", "Content-Type": kind},
        )
        try:
            with urllib.request.urlopen(request, timeout=10, context=self._trust) as response:  # noqa: S310
                body = response.read()
        except urllib.error.HTTPError as error:
            raise Refusal(error.code, error.read().decode("utf-8", "replace")) from error
        answer: dict[str, Any] = {} if body == b"ok" else json.loads(body)
        return answer
