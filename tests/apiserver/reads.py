"""GET and LIST: of which version, from the cache or by a quorum, in pages.

What must stay true: all pages of a list are of one version; a version that is not there yet is waited for, and no longer
than a real server does.
Source: Kubernetes API concepts (semantics for get and list); kube-apiserver, staging/src/k8s.io/apiserver
(pkg/storage/cacher: cacher.go, watch_cache.go).
"""

from __future__ import annotations

from collections import OrderedDict

import msgspec

from tests.apiserver.levers import Levers
from tests.apiserver.objects import Objects
from tests.apiserver.options import Options
from tests.apiserver.statuses import Document, expired, not_found, too_large

kinds = {"nodes": "Node", "pods": "Pod"}
fresh_s = 3.0  # for which a version that is not there yet is waited for
_kept = 1000  # versions whose lists can go on; a real server keeps etcd's last minutes


class Reads:
    """Reads of one set of objects."""

    def __init__(self, objects: Objects, levers: Levers) -> None:
        self._objects = objects
        self._levers = levers
        self._lists: OrderedDict[int, list[bytes]] = OrderedDict()

    async def get(self, kind: str, key: str, options: Options) -> bytes:
        """Return one object; raises `Failure`."""
        await self.fresh(options.version)
        document = self._objects.raw(kind, key)
        if document is None:
            raise not_found(kind, key.rpartition("/")[2])
        return document

    async def list(self, options: Options) -> bytes:
        """Return the Nodes, or a page of them; raises `Failure`."""
        limit, first = options.limit, 0
        if options.token:
            version, first = _place_of(options.token)
            if version not in self._lists:
                raise expired("The provided continue parameter is too old to display a consistent list result.")
            nodes = self._lists[version]
        elif options.exact and options.version is not None and options.version in self._lists:
            version = options.version
            nodes = self._lists[version]
        else:
            await self.fresh(options.version)
            version, nodes = self._objects.version, self._objects.all("nodes")
            if options.exact and options.version != version:
                raise expired("The resourceVersion for the provided list is too old.")
            if options.version == 0 and not self._levers.settings.limit_from_cache:
                limit = 0
        page = nodes[first : first + limit] if limit else nodes[first:]
        metadata: Document = {"resourceVersion": str(version)}
        left = len(nodes) - first - len(page)
        if left:
            metadata |= {"continue": f"{version}.{first + len(page)}", "remainingItemCount": left}
            self._lists[version] = nodes
            if len(self._lists) > _kept:
                self._lists.popitem(last=False)
        head = msgspec.json.encode({"kind": "NodeList", "apiVersion": "v1", "metadata": metadata})
        return head[:-1] + b',"items":[' + b",".join(page) + b"]}"

    async def fresh(self, version: int | None) -> None:
        """Wait until the cache has this version; raises `Failure` 504."""
        if version and not await self._objects.reaches(version, fresh_s):
            raise too_large(version, self._objects.version)

    def forget(self) -> None:
        """Let no list go on."""
        self._lists.clear()


def _place_of(token: str) -> tuple[int, int]:
    version, _, first = token.partition(".")
    return int(version), int(first)
