"""Requests to the Kubernetes API: typed answers, and one kind of error.

The requests are our own, since lightkube's watch has no bookmarks, begins again by itself without a list, and waits for ever on
a connection that is dead (docs/decisions/0014). What must stay true: every failure is a `StoreError`, and costs no other request
anything; after one the next request uses a new connection (connections.py); a peer that vanished is noticed by TCP within
half a minute, a watch in which nothing comes within little more than the minute in which a bookmark is due.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx2
import msgspec
from lightkube.core.exceptions import ConfigError

from dataplane.errors import BadInput, StoreError, printable
from dataplane.stores.kube.access import KubeAccess
from dataplane.stores.kube.connections import Connections, look_s
from dataplane.stores.kube.objects import Marked, Metadata, Node, NodeList, Pod, Status, WatchEvent

Answer = TypeVar("Answer")

page_size = 200  # Nodes; some ten kilobytes each, but up to 260, and a page is decoded in one go
longest_line = 16 << 20  # of a watch; an object has 1.5 MB at most (etcd --max-request-bytes), with its escapes
connected, listed = "CONNECTED", "LISTED"  # beside the API's own types of events
any_version = "0"  # whatever the server's cache has; no question to etcd
gone = 410
forbidden = 403
invalid = 422
not_found = 404
timed_out = 504
unauthorized = 401
_list_ends = "k8s.io/initial-events-end"
_too_new = "Too large resource version"  # apiserver pkg/storage/errors.go; as old as the answer itself


@dataclass(frozen=True, slots=True)
class Timing:
    """Seconds.

    Attributes:
        call: that one request may take, and a watch to be taken.
        page: the same for a page of a list.
        silence: in which a watch may bring nothing, bookmarks neither; one is due every minute (kube-apiserver, cacher.go).
        settle: in which a server that has just started may refuse what it will allow: it does not know its RBAC rules yet.
        look: between two looks at the files with credentials.
    """

    call: float = 10.0
    page: float = 60.0
    silence: float = 75.0
    settle: float = 10.0
    look: float = look_s


class Refused(StoreError):
    """The API server answered with an error; `code` is HTTP's. `within`: by an event of a watch that it had taken."""

    def __init__(self, code: int, text: str, *, within: bool = False) -> None:
        super().__init__(text)
        self.code = code
        self.within = within

    @property
    def is_too_new(self) -> bool:
        """Whether the server has not got to the version that was asked for. A proxy's 504 says nothing of that."""
        return self.code == timed_out and _too_new in str(self)


class Silent(StoreError):
    """A watch stood and brought nothing."""


class KubeClient:
    """One connection pool to one API server.

    Args:
        access: where it is; files are read now.
    Raises:
        BadInput: the kubeconfig cannot be used, or there is none and we are no pod.
    """

    def __init__(self, access: KubeAccess, timing: Timing) -> None:
        self._timing = timing
        self._forbidden_since: float | None = None
        try:
            self._connections = Connections(access, timing.look)
        except StoreError as error:
            raise BadInput(str(error)) from error

    async def node(self, name: str, version: str = "") -> Node:
        """Return a Node; raises `Refused` 404 where there is none.

        Args:
            version: not older than this, from the server's cache; "": as it is now.
        Raises:
            Refused: 504: the server's own version is older.
        """
        params = {"resourceVersion": version} if version else None
        return await self._call("GET", f"/api/v1/nodes/{name}", Node, params=params)

    async def pod(self, namespace: str, name: str) -> Pod:
        """Return a Pod."""
        return await self._call("GET", f"/api/v1/namespaces/{namespace}/pods/{name}", Pod)

    async def nodes(self, floor: str) -> tuple[list[Node], str]:
        """Return every Node, and the version from which a watch goes on; page by page, all of one version.

        Args:
            floor: not older than this, from the server's cache; `any_version`; "": as it is now.
        Raises:
            Refused: 504: the server's own version is older than `floor`.
        """
        nodes: list[Node] = []
        params = {"limit": str(page_size), **_not_older(floor)}
        while True:
            page = await self._call("GET", "/api/v1/nodes", NodeList, params=params, limit_s=self._timing.page)
            nodes += page.items or ()
            if not page.metadata.continue_:
                return nodes, page.metadata.resource_version
            params = {"limit": str(page_size), "continue": page.metadata.continue_}

    async def patch_status(self, name: str, document: Mapping[str, Any]) -> Node:
        """Merge into a Node's status subresource as its types say (conditions by type); return the Node."""
        return await self._call(
            "PATCH",
            f"/api/v1/nodes/{name}/status",
            Node,
            content=msgspec.json.encode(document),
            headers={"Content-Type": "application/strategic-merge-patch+json"},
        )

    async def watch(
        self, version: str, seconds: int, *, with_list: bool = False
    ) -> AsyncGenerator[tuple[str, Metadata, msgspec.Raw], None]:
        """Yield (type, metadata, object) of each change of a Node after `version`, bookmarks too, for `seconds`.

        The first is no change: it says, with the type `connected`, that the server has taken the request.

        Args:
            with_list: begin with every Node as if it were added, and after the last say the type `listed`; `version` is then
                the least that the list may have, or `any_version`, or "" for the present one.
        Raises:
            Refused: 410, as a status or as an event: the version is too old, list again; 504: the server's own is older than
                the list may be; 422: it knows of no lists in watches.
            Silent: nothing came for as long as may be.
        """
        params = {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        if with_list:
            params |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "resourceVersion": version}
        else:
            params["resourceVersion"] = version
        limits = httpx2.Timeout(self._timing.call, read=self._timing.silence)
        request = "watch nodes"
        async with self._reported(request), self._connections.use() as http:
            stream = http.stream("GET", "/api/v1/nodes", params=params, timeout=limits)
            async with asyncio.timeout(self._timing.call):
                response = await stream.__aenter__()
            try:
                if response.is_error:
                    async with asyncio.timeout(self._timing.call):
                        raise self._refused(request, response.status_code, await response.aread())
                self._forbidden_since = None
                yield connected, Metadata(), msgspec.Raw()
                async with aclosing(self._events(response, request)) as events:
                    async for event in events:
                        yield event
            finally:
                with suppress(httpx2.HTTPError):
                    await stream.__aexit__(None, None, None)

    async def _events(
        self, response: httpx2.Response, request: str
    ) -> AsyncGenerator[tuple[str, Metadata, msgspec.Raw], None]:
        try:
            async with aclosing(_lines(response)) as lines:
                while line := await self._next(lines):
                    event = msgspec.json.decode(line, type=WatchEvent)
                    if event.type == "ERROR":
                        raise self._refused(request, 0, bytes(event.object))
                    metadata = msgspec.json.decode(event.object, type=Marked).metadata
                    ends = event.type == "BOOKMARK" and _list_ends in (metadata.annotations or {})
                    yield listed if ends else event.type, metadata, event.object
        except (TimeoutError, httpx2.ReadTimeout) as error:
            await self._connections.renew()
            seconds = self._timing.silence
            raise Silent(
                f"{request}: nothing came for {seconds:g} s, not even the bookmark that is due every minute; something between "
                "the API server and here may keep it back"
            ) from error

    async def _next(self, lines: AsyncGenerator[bytes, None]) -> bytes:
        """Return the next line, b"" after the last one. Silence is of events, not of bytes: half a line is nothing."""
        async with asyncio.timeout(self._timing.silence):
            return await anext(lines, b"")

    async def close(self) -> None:
        """Close all connections."""
        await self._connections.close()

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
        async with self._reported(request), self._connections.use() as http:
            async with asyncio.timeout(limit_s or self._timing.call):
                response = await http.request(method, path, params=params, content=content, headers=headers)
            if response.is_error:
                raise self._refused(request, response.status_code, response.content)
            self._forbidden_since = None
            return msgspec.json.decode(response.content, type=kind)

    @asynccontextmanager
    async def _reported(self, request: str) -> AsyncGenerator[None, None]:
        """Make every failure of the network, the files or the answer's form a `StoreError` that names the request."""
        try:
            yield
        except Refused as error:
            if error.code == unauthorized:
                await self._connections.renew()
            raise
        except (msgspec.MsgspecError, RecursionError) as error:
            reason = f"what the API server answered cannot be read: {printable(str(error))}"
            raise StoreError(f"{request}: {reason}") from error
        except (TimeoutError, httpx2.TimeoutException) as error:
            await self._connections.renew()
            raise StoreError(f"{request}: the API server does not answer in time") from error
        except (httpx2.HTTPError, ConfigError, OSError) as error:
            await self._connections.renew()
            raise StoreError(f"{request}: {printable(str(error) or type(error).__name__)}") from error

    def _refused(self, request: str, code: int, body: bytes) -> Refused:
        """Read the Status that stands for an error; not all that answers is an API server."""
        try:
            status = msgspec.json.decode(body, type=Status)
        except (msgspec.MsgspecError, RecursionError):
            status = Status()
        within = not code
        code = code or status.code
        text = printable(status.message or body[:200].decode("utf-8", "replace"))
        if code == forbidden:
            now = time.monotonic()
            self._forbidden_since = self._forbidden_since or now
            if now - self._forbidden_since < self._timing.settle:
                text += "; a server that has just started refuses for some seconds what it will allow"
            else:
                text += f"; our ClusterRole must allow to {_right(request)}"
        return Refused(code, f"{request}: the API server says {code}: {text}", within=within)


def _not_older(floor: str) -> dict[str, str]:
    if floor in ("", any_version):
        return {"resourceVersion": floor} if floor else {}
    return {"resourceVersion": floor, "resourceVersionMatch": "NotOlderThan"}


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
            if len(rest) > longest_line:
                raise StoreError(f"watch nodes: an event has more than {longest_line} bytes")
            continue
        *lines, last = bytes(rest).split(b"\n")
        rest = bytearray(last)
        for line in lines:
            if line:
                yield line
