"""Where a watch of the Nodes goes on, and whether the server's history is still ours there.

What must stay true: a position is never taken for one in the server's history unless a Node shows it: one that changed at that
version as we saw it. Versions alone do not: etcd may have been put back, and new writes may have passed what we had.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from dataplane.stores.kube import client as api
from dataplane.stores.kube.client import KubeClient, Refused
from dataplane.stores.kube.objects import Metadata

most_anchors = 4


@dataclass(frozen=True, slots=True)
class Anchor:
    """A Node as the server had it at some version; `gone`: it was deleted then."""

    name: str
    uid: str
    version: str
    gone: bool = False


@dataclass(slots=True)
class Position:
    """Where a watch goes on; kept over the failures of watches.

    Attributes:
        version: that we are at; "" for none, to begin with a list.
        floor: the least version that a list may have; "" for the present one.
        relist_at: time of the next list.
        anchors: the Nodes that changed last, the newest last.
        replay_to: changes up to this version may be ones that we know already; they are taken in together.
        streams: the server streams lists, as far as we know.
        forbidden: the last streamed list was refused: who may not watch may list, and then at least begins with what there is.
        silent: the last watch brought nothing.
        stands: the server has taken a watch, and nothing speaks against its bringing changes.
    """

    version: str = ""
    floor: str = api.any_version
    relist_at: float = 0.0
    anchors: list[Anchor] = field(default_factory=list)
    replay_to: int = 0
    streams: bool = True
    forbidden: bool = False
    silent: bool = False
    stands: bool = False

    def at(self, version: str) -> None:
        """Go on from here."""
        self.version = self.floor = version

    def saw(self, metadata: Metadata, *, gone: bool = False) -> None:
        """Take in that a Node is like this now, or has been deleted."""
        self.anchors = [anchor for anchor in self.anchors if anchor.name != metadata.name]
        self.anchors.append(Anchor(metadata.name, metadata.uid, metadata.resource_version, gone))
        del self.anchors[:-most_anchors]


async def resume(client: KubeClient, at: Position) -> None:
    """Go back to the newest change that the server has as we saw it; without one, list."""
    at.replay_to = 0
    for anchor in reversed(at.anchors):
        try:
            found = (await client.node(anchor.name, anchor.version)).metadata
        except Refused as error:
            if error.is_too_new:
                at.floor = ""
            elif error.code != api.not_found:
                raise
            elif anchor.gone:
                continue
            break
        if anchor.gone and found.uid == anchor.uid:
            break  # not deleted here
        if (found.uid, found.resource_version) == (anchor.uid, anchor.version):
            at.version = anchor.version
            return
        if is_older(found.resource_version, anchor.version):
            break
        # It changed since, here or in another history: the change is to come, after those between the next anchor and this.
        at.replay_to = max(at.replay_to, number(found.resource_version))
    at.version = ""
    at.replay_to = 0


def is_older(version: str, than: str) -> bool:
    """Whether a version goes back. They are numbers of one sequence (Kubernetes 1.35 says so; all servers so far do)."""
    return 0 <= number(version) < number(than)


def number(version: str) -> int:
    """Return a version as a number; -1: it is none (they have 64 bits)."""
    return int(version) if version.isascii() and version.isdigit() and len(version) <= 20 else -1
