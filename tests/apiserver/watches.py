"""The watch of the Nodes: what there is, where that is asked for, then every change, and bookmarks.

What must stay true: a watch from a version that does not exist yet is silent until it does; the others send a bookmark
before they end; what goes wrong after the request was understood is an event, not an answer.
Source: Kubernetes API concepts (streaming lists, watch bookmarks); KEP-3157; kube-apiserver,
staging/src/k8s.io/apiserver (pkg/storage/cacher, pkg/endpoints/handlers).
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

import msgspec
from aiohttp import web

from tests.apiserver.levers import Levers
from tests.apiserver.objects import Objects
from tests.apiserver.options import Options
from tests.apiserver.reads import Reads
from tests.apiserver.statuses import Document, Failure

last_bookmark_s = 2.0  # before the end of a watch
default_watch_s = 1800
_initial_end = {"annotations": {"k8s.io/initial-events-end": "true"}}


class Stream:
    """The answer to a watch. `told`: the log's entry of the request."""

    def __init__(self, levers: Levers, told: Document) -> None:
        self.response = web.StreamResponse(headers={"Content-Type": "application/json"})
        self._levers = levers
        self._told = told

    async def begin(self, request: web.Request) -> None:
        """Send the head."""
        self._told["status"] = 200
        await self.response.prepare(request)

    async def send(self, what: str, document: bytes) -> None:
        """Send an event."""
        await self._levers.flowing.wait()
        line = b'{"type":"%b","object":%b}\n' % (what.encode(), document)
        await self.response.write(line)
        self._told["bytes"] += len(line)

    async def mark(self, version: int, more: Document) -> None:
        """Send a bookmark."""
        metadata = {"resourceVersion": str(version), "creationTimestamp": None, **more}
        await self.send("BOOKMARK", msgspec.json.encode({"kind": "Node", "apiVersion": "v1", "metadata": metadata}))

    async def end(self) -> None:
        """End it, in order."""
        await self._levers.flowing.wait()
        await self.response.write_eof()


class Watches:
    """Watches of one set of objects."""

    def __init__(self, objects: Objects, reads: Reads, levers: Levers) -> None:
        self._objects = objects
        self._reads = reads
        self._levers = levers

    async def serve(self, request: web.Request, options: Options, told: Document) -> web.StreamResponse:
        """Answer a watch to its end."""
        objects = self._objects
        end = asyncio.get_running_loop().time() + (options.seconds or default_watch_s)
        # Without a version, or with 0, what there is comes first even where nobody asked for it.
        initial = not options.version if options.initial is None else options.initial
        at = options.version or objects.version
        if self._levers.gone_as_status and not initial:
            list(objects.since(at))
        stream = Stream(self._levers, told)
        await stream.begin(request)
        with suppress(ConnectionError):
            try:
                if initial:
                    await self._reads.fresh(options.version)
                    at = objects.version
                    for document in objects.all("nodes"):
                        await stream.send("ADDED", document)
                    if options.initial and options.bookmarks:
                        await stream.mark(at, _initial_end)
                await self._follow(stream, at, end, options.bookmarks)
            except Failure as failure:
                await stream.send("ERROR", msgspec.json.encode(failure.document))
            await stream.end()
        return stream.response

    async def _follow(self, stream: Stream, at: int, end: float, bookmarks: bool) -> None:
        objects, now = self._objects, asyncio.get_running_loop().time
        marked = now()
        while True:
            for change in objects.since(at):
                at = change.version
                if change.kind == "nodes":
                    await stream.send(change.what, change.document)
            last = end - last_bookmark_s
            due = min(last, marked + self._levers.settings.bookmark_s) if marked < last else end
            if await self._changed(at, due - now()):
                continue
            if due == end:
                return
            marked = now()
            if bookmarks and at <= objects.version:
                at = objects.version
                await stream.mark(at, {})

    async def _changed(self, at: int, seconds: float) -> bool:
        """Wait for a write after version `at`."""
        objects = self._objects
        try:
            async with asyncio.timeout(max(0.0, seconds)), objects.changed:
                await objects.changed.wait_for(lambda: objects.version > at or objects.oldest > at)
        except TimeoutError:
            return False
        return True
