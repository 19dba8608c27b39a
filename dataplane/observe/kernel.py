"""What is read of a data plane that is the kernel's: its peers, and what the filter in front of it drops.

The kernel does not count by peer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from dataplane.model import IPNetwork, Peer, PeerCounters


@dataclass(slots=True)
class KernelForwarding:
    """A `Forwarding` without counters by peer.

    Attributes:
        peers: what the kernel was given, by prefix.
        count_drops: reads what the filter dropped, by reason.
    """

    peers: Mapping[IPNetwork, Peer]
    count_drops: Callable[[], dict[str, int]] = dict
    offloads: frozenset[str] = frozenset()
    failures: tuple[str, ...] = ()

    def counters(self) -> dict[str, int]:
        """Return nothing."""
        return {}

    def drops(self) -> dict[str, int]:
        """Packets dropped by reason."""
        return self.count_drops()

    def exchanged(self) -> dict[IPNetwork, tuple[int, int]]:
        """Return nothing."""
        return {}

    def peer_counters(self, prefixes: Iterable[IPNetwork] | None = None) -> dict[IPNetwork, PeerCounters]:
        """Return nothing."""
        return {}
