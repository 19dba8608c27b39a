"""Following the Nodes: everything at one version, then every change after it.

What must stay true: no change is skipped for good, whatever the server does, and no server is asked for a list that need not be.
- Lists come from the server's cache: streamed by a watch where the server knows that, else in pages.
- A connection that broke goes on where it was, without a list: ten thousand daemons that list at once would keep an API server
  down. Versions alone do not tell whether there the server's history is still ours: etcd may have been put
  back from a backup, and new writes may have passed our version since. So we go on from the newest change that the server still has
  as we saw it (position.py); where it has none of the last few, or is not at our version any more, we list.
- The version is too old (410, as an answer or as an event): list again.
- A watch that brings nothing is none: a bookmark is due every minute and at the end of each.
- A version that goes back means another history.
- Whatever this misses, a list now and then does not.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from random import Random

import msgspec

from dataplane.errors import StoreError
from dataplane.model import WatchEvent
from dataplane.runtime.collector import settling
from dataplane.runtime.pieces import paced
from dataplane.stores.kube import client as api
from dataplane.stores.kube.client import KubeClient, Refused, Silent
from dataplane.stores.kube.nodes import Nodes
from dataplane.stores.kube.objects import ListedNode, Metadata, Node
from dataplane.stores.kube.position import Position, is_older, most_anchors, number, resume

breath = 200  # Nodes of a list between two turns of everything else in the daemon
streamed_breath = 50  # the same of a streamed list, in which each is decoded on its way
most_again = (
    3  # times that a server's answer leads to another request at once: expired, not there yet, no lists in watches
)
longest_list_s = 300.0  # of all its pages, or its whole stream
shortest_watch_s = 1.0  # one that is over before is no watch: the next one waits


@dataclass(frozen=True, slots=True)
class Spans:
    """Seconds.

    Attributes:
        watch: of one watch; drawn from 1 to 2 times this, so that a cluster's daemons do not come at once.
        relist: between two lists; drawn in the same way.
    """

    watch: int = 120
    relist: float = 1800.0


async def follow(
    client: KubeClient, nodes: Nodes, at: Position, spans: Spans, random: Random, now: Callable[[], float]
) -> AsyncGenerator[WatchEvent, None]:
    """Yield a Snapshot, then every change in order; ends only by cancellation or `StoreError`."""
    try:
        if at.version:
            await resume(client, at)
        # A watch that goes on where an earlier one broke begins with what is known, as soon as there is a connection.
        owed = bool(at.version)
        again = 0
        while True:
            begun = now()
            changes = _watch(client, nodes, at, int(_drawn(spans.watch, random)), now() >= at.relist_at)
            try:
                async with aclosing(changes) as found:
                    async for events in found:
                        if events is None:
                            at.relist_at = now() + _drawn(spans.relist, random)
                            yield nodes.snapshot()
                            owed = False
                        elif owed:
                            yield nodes.snapshot()
                            owed = False
                        for event in events or ():
                            yield event
            except (Refused, _AnotherHistory) as error:
                _take(error, at)
                again += 1
                if again > most_again:
                    raise
            except Silent:
                at.silent, at.version = True, ""
                raise
            if now() - begun >= shortest_watch_s:
                again = 0
    finally:
        at.stands = False


class _AnotherHistory(StoreError):
    """The server's versions went back."""


def _take(error: Refused | _AnotherHistory, at: Position) -> None:
    """Take in what a refusal says of the server; what it says of us is raised."""
    if isinstance(error, _AnotherHistory):
        at.version = at.floor = ""
    elif error.code == api.gone and at.version:
        at.version = ""
    elif error.is_too_new and at.floor:
        at.version = at.floor = ""
    elif error.code == api.invalid and at.streams and not at.version:
        at.streams = False
    elif error.code == api.forbidden and not at.forbidden and not at.version:
        at.forbidden = True
    elif error.within and at.version:
        at.version = ""  # it may fail in this place again
    else:
        raise error


async def _watch(
    client: KubeClient, nodes: Nodes, at: Position, seconds: int, relist: bool
) -> AsyncGenerator[list[WatchEvent] | None, None]:
    """Yield None after each list, and the events of each change, for so many seconds."""
    begun = time.monotonic()
    listing = relist or not at.version
    if listing and (at.silent or at.forbidden or not at.streams):
        async with _bounded():
            found = await client.nodes(at.floor)
        await _take_list(nodes, at, *found)
        yield None
        listing = False
    brought = _Brought(nodes, at)
    version = at.floor if listing else at.version
    if listing:
        at.version = ""
    async with aclosing(client.watch(version, seconds, with_list=listing)) as changes:
        async for kind, metadata, raw in changes:
            if kind == api.connected:
                # A list that is only due takes its time, and nothing is wrong meanwhile.
                at.stands = (at.stands or not listing) and not at.silent
                if not listing:
                    yield []
            elif not listing:
                yield brought.change(kind, metadata, raw)
            elif kind == api.listed:
                await brought.end_list(metadata)
                listing = False
                yield None
            elif time.monotonic() - begun > longest_list_s:
                raise StoreError(f"watch nodes: the list does not end within {longest_list_s:g} s")
            else:
                await brought.add(kind, metadata.name, raw)
    lasted = time.monotonic() - begun
    if not brought.something and lasted > seconds - 2:  # a bookmark is due before the end
        raise Silent("watch nodes: the API server ended a watch that brought nothing, not even a bookmark")
    if lasted < shortest_watch_s or not brought.something:
        raise StoreError("watch nodes: the API server ended the watch at once")


class _Brought:
    """What one watch brings: the list that it may begin with, then changes."""

    def __init__(self, nodes: Nodes, at: Position) -> None:
        self.something = False
        self._nodes = nodes
        self._at = at
        self._listed: dict[str, Node] = {}
        self._replayed: dict[str, tuple[str, msgspec.Raw]] = {}  # the last change of each Node

    async def add(self, kind: str, name: str, raw: msgspec.Raw) -> None:
        """Take in a Node of the list, or what becomes of it before the list is complete."""
        self._listed.pop(name, None)
        if kind in ("ADDED", "MODIFIED"):
            self._listed[name] = _node(raw, ListedNode)
        if len(self._listed) % streamed_breath == 0:
            await asyncio.sleep(0)

    async def end_list(self, metadata: Metadata) -> None:
        """Take in that the list is complete."""
        self._hear()
        await _take_list(self._nodes, self._at, list(self._listed.values()), metadata.resource_version)
        self._listed = {}

    def change(self, kind: str, metadata: Metadata, raw: msgspec.Raw) -> list[WatchEvent]:
        """Take in a change or a bookmark; return what to tell. Raises `_AnotherHistory`."""
        if is_older(metadata.resource_version, self._at.version):
            raise _AnotherHistory("watch nodes: the versions of the API server went back")
        self._hear()
        self._replayed.pop(metadata.name, None)  # in the order of the last changes
        self._replayed[metadata.name] = kind, raw
        if number(metadata.resource_version) < self._at.replay_to:
            return []
        self._at.at(metadata.resource_version)
        told = [event for change in self._replayed.values() for event in _events(self._nodes, self._at, *change)]
        self._replayed.clear()
        return told

    def _hear(self) -> None:
        self.something = self._at.stands = True
        self._at.silent = self._at.forbidden = False


@asynccontextmanager
async def _bounded() -> AsyncGenerator[None, None]:
    try:
        async with asyncio.timeout(longest_list_s):
            yield
    except TimeoutError as error:
        raise StoreError(f"list nodes: it does not end within {longest_list_s:g} s") from error


async def _take_list(nodes: Nodes, at: Position, listed: list[Node], version: str) -> None:
    """Take in a list."""
    at.anchors = []
    newest = sorted(listed, key=lambda node: number(node.metadata.resource_version))[-most_anchors:]
    for node in newest:
        at.saw(node.metadata)
    at.replay_to = 0
    await _replace(nodes, listed)
    at.at(version)


async def _replace(nodes: Nodes, listed: list[Node]) -> None:
    async for name in paced(nodes.others({node.metadata.name for node in listed})):
        nodes.delete(name)
    for count, node in enumerate(settling(listed), 1):
        nodes.put(node)
        if count % breath == 0:
            await asyncio.sleep(0)


def _drawn(seconds: float, random: Random) -> float:
    return random.uniform(seconds, 2 * seconds)


def _events(nodes: Nodes, at: Position, kind: str, raw: msgspec.Raw) -> list[WatchEvent]:
    if kind in ("BOOKMARK", api.listed):
        return []
    node = _node(raw)
    match kind:
        case "ADDED" | "MODIFIED":
            at.saw(node.metadata)
            return nodes.put(node)
        case "DELETED":
            at.saw(node.metadata, gone=True)
            return nodes.delete(node.metadata.name)
    raise StoreError(f"watch nodes: the API server sent an event of the unknown type {kind!r}")


def _node(raw: msgspec.Raw, kind: type[Node] = Node) -> Node:
    try:
        return msgspec.json.decode(raw, type=kind)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise StoreError(f"watch nodes: what the API server sent cannot be read: {error}") from error
