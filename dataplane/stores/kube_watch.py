"""Following the Nodes: everything at one version, then every change after it.

What must stay true: no change is skipped for good, whatever the server does.
- The version is too old (410, as an answer or as an event): list again.
- A connection that broke goes on where it was, without a list: ten thousand daemons that list after a restart of the
  API server would keep it down.
- A server restored from a backup has lower versions than we saw, and a watch from such a future one is silent, without an
  error (kube-apiserver, cacher.go). So a watch is always bounded, shortly after a break; it must bring at least
  a bookmark in that time, which the server sends before the end of each; and a version that goes back means to list.
- Whatever this misses, a list now and then does not.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass
from random import Random

import msgspec

from dataplane.collector import settling
from dataplane.errors import StoreError
from dataplane.model import WatchEvent
from dataplane.pieces import paced
from dataplane.stores.kube_client import KubeClient, Refused, connected, gone
from dataplane.stores.kube_nodes import Nodes
from dataplane.stores.kube_objects import Node

breath = 200  # Nodes of a list between two turns of everything else in the daemon


@dataclass(frozen=True, slots=True)
class Spans:
    """Seconds.

    Attributes:
        watch: of one watch; drawn from 1 to 2 times this, so that a cluster's daemons do not come at once.
        doubtful: of the first watch after a connection broke.
        relist: between two lists; drawn in the same way.
    """

    watch: int = 120
    doubtful: int = 20
    relist: float = 1800.0


@dataclass(slots=True)
class Position:
    """Where a watch goes on; kept over the failures of watches.

    Attributes:
        version: that we are at; "" for none, to begin with a list.
        relist_at: time of the next list.
        proven: the server has sent something of this version or a later one since the connection was made.
    """

    version: str = ""
    relist_at: float = 0.0
    proven: bool = False


async def follow(
    client: KubeClient, nodes: Nodes, at: Position, spans: Spans, random: Random, now: Callable[[], float]
) -> AsyncGenerator[WatchEvent, None]:
    """Yield a Snapshot, then every change in order; ends only by cancellation or `StoreError`."""
    # A watch that goes on where an earlier one broke begins with what is known, as soon as there is a connection.
    owed = bool(at.version)
    at.proven = False
    while True:
        if not at.version or now() >= at.relist_at:
            listed, version = await client.nodes()
            await _replace(nodes, listed)
            at.version, at.proven, at.relist_at = version, True, now() + _drawn(spans.relist, random)
            yield nodes.snapshot()
            owed = False
        heard = False
        seconds = int(_drawn(spans.watch, random)) if at.proven else spans.doubtful
        try:
            async with aclosing(client.watch(at.version, seconds)) as changes:
                async for kind, version, raw in changes:
                    if kind == connected:
                        if owed:
                            yield nodes.snapshot()
                        owed = False
                        continue
                    if _is_older(version, at.version):
                        at.version = ""
                        break
                    heard = at.proven = True
                    events = _events(nodes, kind, raw)
                    at.version = version
                    for event in events:
                        yield event
        except Refused as error:
            if error.code != gone:
                raise
            at.version = ""
        if not heard:
            at.version = ""


async def _replace(nodes: Nodes, listed: list[Node]) -> None:
    async for name in paced(nodes.others({node.metadata.name for node in listed})):
        nodes.delete(name)
    for number, node in enumerate(settling(listed), 1):
        nodes.put(node)
        if number % breath == 0:
            await asyncio.sleep(0)


def _drawn(seconds: float, random: Random) -> float:
    return random.uniform(seconds, 2 * seconds)


def _events(nodes: Nodes, kind: str, raw: msgspec.Raw) -> list[WatchEvent]:
    if kind == "BOOKMARK":
        return []
    try:
        node = msgspec.json.decode(raw, type=Node)
    except msgspec.MsgspecError as error:
        raise StoreError(f"watch nodes: what the API server sent cannot be read: {error}") from error
    match kind:
        case "ADDED" | "MODIFIED":
            return nodes.put(node)
        case "DELETED":
            return nodes.delete(node.metadata.name)
    raise StoreError(f"watch nodes: the API server sent an event of the unknown type {kind!r}")


def _is_older(version: str, than: str) -> bool:
    """Whether a version goes back. They are numbers of one sequence (Kubernetes 1.35 says so; all servers so far do)."""
    if not (version.isascii() and version.isdigit() and than.isascii() and than.isdigit()):
        return False
    return int(version) < int(than)
