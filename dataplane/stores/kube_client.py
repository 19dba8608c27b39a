"""Requests to the Kubernetes API: typed answers, and one kind of error.

kubeconfig, TLS and credentials are lightkube's; the requests are our own, since its watch has no bookmarks, begins again
by itself without a list, and waits for ever on a connection that is dead (docs/decisions/0014). What must stay true:
every failure is a `StoreError`; after one the files with certificates and credentials are read anew, so that what was
renewed on the disk is taken up (a token already when the server refuses the old one); a peer that vanished is noticed by
TCP within half a minute.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
import msgspec
import yaml
from lightkube.config.client_adapter import user_auth, verify_cluster
from lightkube.config.kubeconfig import KubeConfig, SingleConfig
from lightkube.config.models import User
from lightkube.core.exceptions import ConfigError

from dataplane.errors import BadInput, StoreError, printable
from dataplane.stores.kube_access import KubeAccess
from dataplane.stores.kube_objects import Marked, Node, NodeList, Pod, Status, WatchEvent

Answer = TypeVar("Answer")

page_size = 200  # Nodes; some ten kilobytes each, but up to 260, and a page is decoded in one go
connected = "CONNECTED"
gone = 410
forbidden = 403
not_found = 404
unauthorized = 401
_keepalive = (
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 15),
    (socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 5),
    (socket.IPPROTO_TCP, socket.TCP_KEEPCNT, 3),
)

# What lightkube and the parsers below it raise for a file of another form.
_malformed = (
    KeyError,
    TypeError,
    ValueError,
    AttributeError,
    AssertionError,
    httpx2.InvalidURL,
    yaml.YAMLError,
    msgspec.MsgspecError,
)


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds.

    Attributes:
        call: that one request may take.
        ping: the same for the question whether the server is there.
        page: the same for a page of a list.
        grace: by which a watch may outlive what it was asked for.
    """

    call: float = 10.0
    ping: float = 2.0
    page: float = 60.0
    grace: float = 10.0


class Refused(StoreError):
    """The API server answered with an error; `code` is HTTP's."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class KubeClient:
    """One connection pool to one API server.

    Args:
        access: where it is; files are read now.
    Raises:
        BadInput: the kubeconfig cannot be used, or there is none and we are no pod.
    """

    def __init__(self, access: KubeAccess, timing: Timing) -> None:
        self._access = access
        self._timing = timing
        try:
            self._http: httpx2.AsyncClient | None = _connect(access)
        except StoreError as error:
            raise BadInput(str(error)) from error

    async def node(self, name: str, limit_s: float | None = None) -> Node:
        """Return a Node, within `limit_s` if that is given; raises `Refused` 404 where there is none."""
        return await self._call("GET", f"/api/v1/nodes/{name}", Node, limit_s=limit_s)

    async def pod(self, namespace: str, name: str) -> Pod:
        """Return a Pod."""
        return await self._call("GET", f"/api/v1/namespaces/{namespace}/pods/{name}", Pod)

    async def nodes(self) -> tuple[list[Node], str]:
        """Return every Node, and the version from which a watch goes on; page by page, all of one version."""
        nodes: list[Node] = []
        params = {"limit": str(page_size)}
        while True:
            page = await self._call("GET", "/api/v1/nodes", NodeList, params=params, limit_s=self._timing.page)
            nodes += page.items
            if not page.metadata.continue_:
                return nodes, page.metadata.resource_version
            params["continue"] = page.metadata.continue_

    async def patch_status(self, name: str, document: Mapping[str, Any]) -> Node:
        """Merge into a Node's status subresource as its types say (conditions by type); return the Node."""
        return await self._call(
            "PATCH",
            f"/api/v1/nodes/{name}/status",
            Node,
            content=msgspec.json.encode(document),
            headers={"Content-Type": "application/strategic-merge-patch+json"},
        )

    async def watch(self, version: str, seconds: int) -> AsyncGenerator[tuple[str, str, msgspec.Raw], None]:
        """Yield (type, version, object) of each change of a Node after `version`, bookmarks too, for `seconds`.

        The first is no change: it says, with the type `connected`, that the server has taken the request.

        Raises:
            Refused: 410, as a status or as an event: the version is too old, list again.
        """
        params = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": version,
            "timeoutSeconds": str(seconds),
        }
        limits = httpx2.Timeout(self._timing.call, read=seconds + self._timing.grace)
        request = "watch nodes"
        async with (
            self._reported(request),
            self._client().stream("GET", "/api/v1/nodes", params=params, timeout=limits) as response,
        ):
            if response.is_error:
                raise _refused(request, response.status_code, await response.aread())
            yield connected, version, msgspec.Raw()
            async with aclosing(_lines(response)) as lines:
                async for line in lines:
                    event = msgspec.json.decode(line, type=WatchEvent)
                    if event.type == "ERROR":
                        raise _refused(request, 0, bytes(event.object))
                    marked = msgspec.json.decode(event.object, type=Marked)
                    yield event.type, marked.metadata.resource_version, event.object

    async def close(self) -> None:
        """Close all connections."""
        http, self._http = self._http, None
        if http is not None:
            await http.aclose()

    async def _call(
        self,
        method: str,
        path: str,
        kind: type[Answer],
        *,
        limit_s: float | None = None,
        params: Mapping[str, str] | None = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        request = f"{method} {path}"
        async with self._reported(request):
            async with asyncio.timeout(limit_s or self._timing.call):
                response = await self._client().request(method, path, params=params, content=content, headers=headers)
            if response.is_error:
                raise _refused(request, response.status_code, response.content)
            return msgspec.json.decode(response.content, type=kind)

    def _client(self) -> httpx2.AsyncClient:
        if self._http is None:
            self._http = _connect(self._access)
        return self._http

    @asynccontextmanager
    async def _reported(self, request: str) -> AsyncGenerator[None, None]:
        """Make every failure of the network, the files or the answer's form a `StoreError` that names the request."""
        try:
            yield
        except Refused as error:
            if error.code == unauthorized:
                await self._reread()
            raise
        except msgspec.MsgspecError as error:
            reason = f"what the API server answered cannot be read: {printable(str(error))}"
            raise StoreError(f"{request}: {reason}") from error
        except (TimeoutError, httpx2.TimeoutException) as error:
            await self._reread()
            raise StoreError(f"{request}: the API server does not answer in time") from error
        except (httpx2.HTTPError, ConfigError, OSError) as error:
            await self._reread()
            raise StoreError(f"{request}: {printable(str(error) or type(error).__name__)}") from error

    async def _reread(self) -> None:
        """Read certificates and credentials again with the next request."""
        with suppress(Exception):  # the connections are of no use any more
            await self.close()


def _connect(access: KubeAccess) -> httpx2.AsyncClient:
    try:
        config = _config(access)
        user = config.user or User()
        return httpx2.AsyncClient(
            base_url=config.cluster.server,
            auth=user_auth(user),
            headers={"User-Agent": "flannel-dataplane", "Accept": "application/json"},
            transport=httpx2.AsyncHTTPTransport(
                verify=verify_cluster(config.cluster, user, config.abs_file), socket_options=_keepalive
            ),
            timeout=None,  # each call has a limit of its own
        )
    except OSError as error:
        what = error.filename or "a certificate or key that it names"
        raise StoreError(f"cannot use {_source(access)}: {what}: {error.strerror or error}") from error
    except ConfigError as error:
        raise StoreError(f"cannot use {_source(access)}: {printable(str(error))}") from error
    except _malformed as error:
        text = (
            f"it is no kubeconfig ({printable(repr(error))}); allowed is one with clusters, contexts, current-context"
        )
        raise StoreError(f"cannot use {_source(access)}: {text}") from error


def _config(access: KubeAccess) -> SingleConfig:
    """As client-go's BuildConfigFromFlags: a kubeconfig, an URL that goes before its server, or a pod's own account."""
    if access.kubeconfig is not None:
        loaded = KubeConfig.from_file(access.kubeconfig)
    elif access.api_url:
        loaded = KubeConfig.from_server(access.api_url)
    elif "KUBERNETES_SERVICE_HOST" in os.environ:
        loaded = KubeConfig.from_service_account()
    else:
        raise ConfigError(
            "KUBERNETES_SERVICE_HOST is not set; allowed outside of a pod: --kubeconfig-file, --kube-api-url"
        )
    config = loaded.get()
    if config is None:
        raise ConfigError("it has no current context")
    if access.api_url:
        config.cluster.server = access.api_url
    if not config.cluster.server.startswith(("http://", "https://")):
        raise ConfigError(f"server {config.cluster.server!r} is no URL; allowed are http:// and https://")
    return config


def _source(access: KubeAccess) -> str:
    if access.kubeconfig is not None:
        return f"--kubeconfig-file {access.kubeconfig}"
    return f"--kube-api-url {access.api_url}" if access.api_url else "the service account of our pod"


def _refused(request: str, code: int, body: bytes) -> Refused:
    """Read the Status that stands for an error; not all that answers is an API server."""
    try:
        status = msgspec.json.decode(body, type=Status)
    except msgspec.MsgspecError:
        status = Status()
    code = code or status.code
    text = printable(status.message or body[:200].decode("utf-8", "replace"))
    if code == forbidden:
        text += f"; our ClusterRole must allow to {_right(request)}"
    return Refused(code, f"{request}: the API server says {code}: {text}")


def _right(request: str) -> str:
    """Return the verb and the resource that a request takes, as a ClusterRole names them; see deploy's."""
    verb, _, path = request.partition(" ")
    parts = path.removeprefix("/api/v1/").split("/")
    if parts[0] == "namespaces":
        parts = parts[2:]
    resource = "/".join((parts[0], *parts[2:]))
    if verb == "GET":
        verb = "get" if len(parts) > 1 else "list"
    return f"{verb.lower()} {resource}"


async def _lines(response: httpx2.Response) -> AsyncGenerator[bytes, None]:
    rest = bytearray()
    async for piece in response.aiter_bytes():
        rest += piece
        if b"\n" not in piece:
            continue
        *lines, last = bytes(rest).split(b"\n")
        rest = bytearray(last)
        for line in lines:
            if line:
                yield line
