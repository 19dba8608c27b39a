"""What would have to change in a forwarding table, as data.

Pure. What must stay true: peers are compared whole, so that a peer with a new next hop or VTEP MAC is put again.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from dataplane.model import IPNetwork, Peer


@dataclass(frozen=True, slots=True)
class Change:
    """Peers to put and prefixes to remove, to be published in one step; false when there is nothing to do."""

    put: tuple[Peer, ...] = ()
    remove: tuple[IPNetwork, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.put or self.remove)


def diff(
    observed: Mapping[IPNetwork, Peer],
    wanted: Mapping[IPNetwork, Peer],
    prefixes: Iterable[IPNetwork] | None = None,
) -> Change:
    """Return what turns `observed` into `wanted`, both by prefix.

    Args:
        prefixes: look at these only (one lease's event must not cost a pass over 10,000 peers); None: at all.
    """
    put = []
    remove = []
    for prefix in {**observed, **wanted} if prefixes is None else prefixes:
        peer = wanted.get(prefix)
        if peer is None:
            if prefix in observed:
                remove.append(prefix)
        elif (seen := observed.get(prefix)) is not peer and seen != peer:
            put.append(peer)
    return Change(tuple(put), tuple(remove))
