"""The HTTP side: Nodes and Pods of API group "" v1, with list, watch, get, create, patch, status patch and delete.

Below /stub/ are the levers that tests pull (an administrator's token opens them), and the log of requests. What must stay
true: each request is in the log from when it comes, with what was answered once that is known.
Source: Kubernetes API concepts; kube-apiserver, staging/src/k8s.io/apiserver (pkg/endpoints/handlers).
"""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import msgspec
from aiohttp import web

from tests.apiserver import filling, options
from tests.apiserver.access import Access, admin
from tests.apiserver.levers import Levers, Settings
from tests.apiserver.merge import BadPatch, json_merge, strategic_merge
from tests.apiserver.objects import Objects
from tests.apiserver.reads import Reads, kinds
from tests.apiserver.statuses import Document, Failure, answer, not_found
from tests.apiserver.watches import Watches


class ApiServer:
    """One API server over one set of objects."""

    def __init__(self, objects: Objects, access: Access, settings: Settings) -> None:
        self._objects = objects
        self._access = access
        self._levers = Levers(settings)
        self._reads = Reads(objects, self._levers)
        self._watches = Watches(objects, self._reads, self._levers)
        self._requests: list[Document] = []
        self._heart: asyncio.Task[None] | None = None

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
        told = {
            "user": user,
            "method": request.method,
            "url": str(request.rel_url),
            "time": time.time(),
            "verb": "",
            "source": "",
            "status": 0,
            "bytes": 0,
        }
        self._requests.append(told)
        request["told"] = told
        try:
            response = await self._allowed(request, user, handler)
        except Failure as failure:
            response = failure.answer()
        except BadPatch as error:
            response = Failure(422, "Invalid", str(error)).answer()
        except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            response = Failure(400, "BadRequest", f"the request cannot be understood: {error!r}").answer()
        told["status"] = response.status
        if isinstance(response, web.Response):
            told["bytes"] = len(response.body) if isinstance(response.body, bytes) else 0
        return response

    async def _allowed(self, request: web.Request, user: str | None, handler: Any) -> web.StreamResponse:
        if user is None:
            raise Failure(401, "Unauthorized", "Unauthorized")
        refusal = ""
        if request.path.startswith("/stub/"):
            refusal = "" if user == admin else "only for the administrator"
        elif "kind" in request.match_info:
            verb, resource, name = _asked(request)
            request["told"]["verb"] = verb
            refusal = self._access.refusal(user, verb, resource, name)
            if user != admin and (seconds := self._levers.delay_of(verb, request.path)):
                await asyncio.sleep(seconds)
        if refusal:
            raise Failure(403, "Forbidden", refusal)
        response: web.StreamResponse = await handler(request)
        return response

    async def _alive(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    def _options(self, request: web.Request) -> options.Options:
        asked = options.read(request.query, watch_list=self._levers.settings.watch_list)
        request["told"]["source"] = asked.source
        return asked

    async def _list(self, request: web.Request) -> web.StreamResponse:
        asked = self._options(request)
        if asked.watch:
            return await self._watches.serve(request, asked, request["told"])
        return answer(await self._reads.list(asked))

    async def _get(self, request: web.Request) -> web.Response:
        return answer(await self._reads.get(*_place(request), self._options(request)))

    async def _create(self, request: web.Request) -> web.Response:
        document = await request.json()
        kind, key = _place(request, document["metadata"]["name"])
        if self._objects.raw(kind, key) is not None:
            raise Failure(409, "AlreadyExists", f'{kind} "{key}" already exists')
        document = {"kind": kinds[kind], "apiVersion": "v1", **document}
        return answer(await self._objects.write(kind, key, document), 201)

    async def _patch(self, request: web.Request) -> web.Response:
        kind, key = _place(request)
        patch = await request.json()
        before = self._there(kind, key)
        match request.content_type:
            case "application/strategic-merge-patch+json":
                after = strategic_merge(before, patch)
            case "application/merge-patch+json":
                after = json_merge(before, patch)
            case other:
                message = f"the body of the request was in an unknown format: {other}"
                raise Failure(415, "UnsupportedMediaType", message)
        kept = "spec" if "part" in request.match_info else "status"
        after = {name: part for name, part in after.items() if name != kept}
        if kept in before:
            after[kept] = before[kept]
        for name in ("name", "uid", "creationTimestamp"):
            after["metadata"][name] = before["metadata"][name]
        if after == before:
            return answer(before)  # nothing is written, no version is made
        return answer(await self._objects.write(kind, key, after))

    async def _delete(self, request: web.Request) -> web.Response:
        kind, key = _place(request)
        self._there(kind, key)
        return answer(await self._objects.write(kind, key, None))

    async def _pull(self, request: web.Request) -> web.Response:
        body = await request.json()
        match request.match_info["lever"]:
            case "compact":
                self._objects.compact()
                self._reads.forget()
                await self._objects.tell()
            case "tokens":
                self._access.tokens = body
            case "gone":
                self._levers.gone_as_status = body["as"] == "status"
            case "settings":
                settings = msgspec.convert({**msgspec.to_builtins(self._levers.settings), **body}, Settings)
                self._levers.settings = settings
                self._objects.window = settings.window
                if "forbid_s" in body:
                    self._access.forbid(settings.forbid_s, settings.forbid_because)
                await self._objects.tell()
            case "delay":
                self._levers.delay(body["verb"], body["prefix"], body["seconds"])
            case "swallow":
                (self._levers.flowing.clear if body["on"] else self._levers.flowing.set)()
            case "fill":
                await filling.fill(self._objects, body["nodes"], body["size"], body.get("first", 1))
            case "heartbeat":
                if self._heart is not None:
                    self._heart.cancel()
                self._heart = asyncio.create_task(filling.beat(self._objects, body["every_s"], body["seconds"]))
            case lever:
                raise Failure(404, "NotFound", f"there is no lever {lever}")
        return answer({})

    async def _told(self, _: web.Request) -> web.Response:
        return web.Response(body=msgspec.json.encode(self._requests), content_type="application/json")

    def _there(self, kind: str, key: str) -> Document:
        document = self._objects.get(kind, key)
        if document is None:
            raise not_found(kind, key.rpartition("/")[2])
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
