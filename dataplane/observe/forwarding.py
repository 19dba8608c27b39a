"""What is read of a forwarder while it runs: the core's side of the node's state."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from dataplane.model import IPNetwork, Peer, PeerCounters


class Forwarding(Protocol):
    """What is read of a running forwarder (`dataplane.core.Forwarder`)."""

    @property
    def offloads(self) -> frozenset[str]:
        """Kernel features in use."""
        ...

    @property
    def peers(self) -> Mapping[IPNetwork, Peer]:
        """The forwarding table as committed."""
        ...

    @property
    def failures(self) -> tuple[str, ...]:
        """Why workers ended although nobody stopped them."""
        ...

    def counters(self) -> dict[str, int]:
        """Totals by name."""
        ...

    def drops(self) -> dict[str, int]:
        """Dropped packets by reason."""
        ...

    def exchanged(self) -> dict[IPNetwork, tuple[int, int]]:
        """Packets sent to and received from each peer that exchanged any since this was asked last; at first: none."""
        ...

    def peer_counters(self, prefixes: Iterable[IPNetwork] | None = None) -> dict[IPNetwork, PeerCounters]:
        """Counters by overlay prefix, of those in the table, or of these."""
        ...
