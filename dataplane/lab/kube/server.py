"""The HTTP side: Nodes and Pods of API group "" v1, with list, watch, get, create, patch, status patch and delete.

Below /stub/ are the levers that tests pull (an administrator's token opens them): compact the history, replace tokens,
answer an expired version in the other of the two ways, list the requests so far. What must stay true: a watch from a version
that does not exist yet is silent until it does; the others send a bookmark before they end.
Source: Kubernetes API concepts (efficient detection of changes); kube-apiserver, staging/src/k8s.io/apiserver
(pkg/storage/cacher, pkg/endpoints/handlers).
"""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from typing import Any

from aiohttp import web

from dataplane.lab.kube.access import Access, admin
from dataplane.lab.kube.merge import BadPatch, json_merge, strategic_merge
from dataplane.lab.kube.objects import Document, Expired, NotFound, Objects

kinds = {"nodes": "Node", "pods": "Pod"}
bookmark_s = 60.0  # between two bookmarks
last_bookmark_s = 2.0  # before the end of a watch
default_watch_s = 1800
user_key = web.AppKey("user", str)


class ApiServer:
    """One API server over one set of objects."""

    def __init__(self, objects: Objects, access: Access) -> None:
        self._objects = objects
        self._access = access
        self._pages: dict[str, tuple[int, list[Document]]] = {}
        self._requests: list[Document] = []
        self._gone_as_status = False

    def app(self) -> web.Application:
        """Return it for aiohttp to serve."""
        app = web.Application(middlewares=[self._guard], client_max_size=4 << 20)
        app.add_routes(
            [
                web.get("/livez", self._alive),
                web.get("/readyz", self._alive),
                web.get("/api/v1/{kind:nodes}", self._list),
                web.post("/api/v1/{kind:nodes}", self._create),
                web.get("/api/v1/{kind:nodes}/{name}", self._get),
                web.patch("/api/v1/{kind:nodes}/{name}", self._patch),
                web.patch("/api/v1/{kind:nodes}/{name}/{part:status}", self._patch),
                web.delete("/api/v1/{kind:nodes}/{name}", self._delete),
                web.get("/api/v1/namespaces/{namespace}/{kind:pods}/{name}", self._get),
                web.post("/api/v1/namespaces/{namespace}/{kind:pods}", self._create),
                web.post("/stub/{lever}", self._pull),
                web.get("/stub/requests", self._told),
            ]
        )
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        user = self._access.user(request.headers.get("Authorization", ""))
        self._requests.append({"user": user, "method": request.method, "url": str(request.rel_url)})
        if user is None:
            return _status(401, "Unauthorized", "Unauthorized")
        if request.path.startswith("/stub/"):
            refusal = "" if user == admin else "only for the administrator"
        elif "kind" in request.match_info:
            refusal = self._access.refusal(user, *_asked(request))
        else:
            refusal = ""
        if refusal:
            return _status(403, "Forbidden", refusal)
        try:
            response: web.StreamResponse = await handler(request)
        except Expired as error:
            response = _status(410, "Expired", str(error))
        except BadPatch as error:
            response = _status(422, "Invalid", str(error))
        except NotFound as error:
            response = _status(404, "NotFound", str(error))
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            response = _status(400, "BadRequest", f"the request cannot be understood: {error!r}")
        return response

    async def _alive(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _list(self, request: web.Request) -> web.StreamResponse:
        if request.query.get("watch") in ("true", "1"):
            return await self._watch(request)
        token, limit = request.query.get("continue", ""), int(request.query.get("limit", 0))
        if token:
            if token not in self._pages:
                raise Expired("The provided continue parameter is too old to display a consistent list result.")
            version, rest = self._pages.pop(token)
        else:
            version, rest = self._objects.version, [document for _, document in self._objects.all("nodes")]
        page, rest = (rest[:limit], rest[limit:]) if limit else (rest, [])
        metadata = {"resourceVersion": str(version)}
        if rest:
            metadata["continue"] = f"{version}-{len(rest)}"
            self._pages[metadata["continue"]] = version, rest
        return web.json_response({"kind": "NodeList", "apiVersion": "v1", "metadata": metadata, "items": page})

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        at = int(request.query.get("resourceVersion") or self._objects.version)
        seconds = int(request.query.get("timeoutSeconds", default_watch_s))
        bookmarks = request.query.get("allowWatchBookmarks") in ("true", "1")
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        if self._gone_as_status:
            list(self._objects.since(at))
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        marked = loop.time()
        with suppress(ConnectionError):
            while True:
                try:
                    for change in self._objects.since(at):
                        at = change.version
                        if change.kind == "nodes":
                            await _send(response, change.what, change.document)
                except Expired as error:
                    await _send(response, "ERROR", _status_document(410, "Expired", str(error)))
                    break
                due = min(end - last_bookmark_s, marked + bookmark_s) if marked < end - last_bookmark_s else end
                if await self._changed(at, due - loop.time()):
                    continue
                if due == end:
                    break
                marked = loop.time()
                if bookmarks and at <= self._objects.version:
                    mark = {
                        "kind": "Node",
                        "apiVersion": "v1",
                        "metadata": {"resourceVersion": str(self._objects.version)},
                    }
                    at = self._objects.version
                    await _send(response, "BOOKMARK", mark)
            await response.write_eof()
        return response

    async def _changed(self, at: int, seconds: float) -> bool:
        """Wait for a write after version `at`."""
        objects = self._objects
        try:
            async with asyncio.timeout(max(0.0, seconds)), objects.changed:
                await objects.changed.wait_for(lambda: objects.version > at or objects.oldest > at)
        except TimeoutError:
            return False
        return True

    async def _get(self, request: web.Request) -> web.Response:
        kind, key = _place(request)
        return web.json_response(self._there(kind, key))

    async def _create(self, request: web.Request) -> web.Response:
        document = await request.json()
        kind, key = _place(request, document["metadata"]["name"])
        if self._objects.get(kind, key) is not None:
            return _status(409, "AlreadyExists", f'{kind} "{key}" already exists')
        document = {"kind": kinds[kind], "apiVersion": "v1", **document}
        return web.json_response(await self._objects.write(kind, key, document), status=201)

    async def _patch(self, request: web.Request) -> web.Response:
        kind, key = _place(request)
        before = self._there(kind, key)
        patch = await request.json()
        match request.content_type:
            case "application/strategic-merge-patch+json":
                after = strategic_merge(before, patch)
            case "application/merge-patch+json":
                after = json_merge(before, patch)
            case other:
                return _status(
                    415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {other}"
                )
        kept = "spec" if "part" in request.match_info else "status"
        after = {name: part for name, part in after.items() if name != kept}
        if kept in before:
            after[kept] = before[kept]
        for name in ("name", "uid", "creationTimestamp"):
            after["metadata"][name] = before["metadata"][name]
        if after == before:
            return web.json_response(before)  # nothing is written, no version is made
        return web.json_response(await self._objects.write(kind, key, after))

    async def _delete(self, request: web.Request) -> web.Response:
        kind, key = _place(request)
        self._there(kind, key)
        return web.json_response(await self._objects.write(kind, key, None))

    async def _pull(self, request: web.Request) -> web.Response:
        body = await request.json()
        match request.match_info["lever"]:
            case "compact":
                self._objects.compact()
                self._pages.clear()
                async with self._objects.changed:
                    self._objects.changed.notify_all()
            case "tokens":
                self._access.tokens = body
            case "gone":
                self._gone_as_status = body["as"] == "status"
            case lever:
                return _status(404, "NotFound", f"there is no lever {lever}")
        return web.json_response({})

    async def _told(self, _: web.Request) -> web.Response:
        return web.json_response(self._requests)

    def _there(self, kind: str, key: str) -> Document:
        document = self._objects.get(kind, key)
        if document is None:
            raise NotFound(f'{kind} "{key.rpartition("/")[2]}" not found')
        return document


def _place(request: web.Request, name: str = "") -> tuple[str, str]:
    """Return kind and key of the object that a request names."""
    kind, name = request.match_info["kind"], name or request.match_info["name"]
    namespace = request.match_info.get("namespace")
    return kind, name if namespace is None else f"{namespace}/{name}"


def _asked(request: web.Request) -> tuple[str, str, str]:
    """Return verb, resource and name of a request, as RBAC sees them."""
    kind, name = request.match_info["kind"], request.match_info.get("name", "")
    part = request.match_info.get("part", "")
    verb = {"POST": "create", "PATCH": "patch", "DELETE": "delete"}.get(request.method, "get" if name else "list")
    if verb == "list" and request.query.get("watch") in ("true", "1"):
        verb = "watch"
    return verb, f"{kind}/{part}" if part else kind, name


def _status_document(code: int, reason: str, message: str) -> Document:
    head = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
    return {**head, "message": message, "reason": reason, "code": code}


def _status(code: int, reason: str, message: str) -> web.Response:
    return web.json_response(_status_document(code, reason, message), status=code)


async def _send(response: web.StreamResponse, what: str, document: Document) -> None:
    await response.write(json.dumps({"type": what, "object": document}).encode() + b"\n")
