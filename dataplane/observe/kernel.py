"""What is read of a data plane that is the kernel's: its peers. The kernel counts neither by peer nor by reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from dataplane.model import IPNetwork, Peer, PeerCounters


@dataclass(slots=True)
class KernelForwarding:
    """A `Forwarding` without counters. `peers`: what the kernel was given, by prefix."""

    peers: Mapping[IPNetwork, Peer]
    offloads: frozenset[str] = frozenset()
    failures: tuple[str, ...] = ()

    def counters(self) -> dict[str, int]:
        """Return nothing."""
        return {}

    def drops(self) -> dict[str, int]:
        """Return nothing."""
        return {}

    def peer_counters(self) -> dict[IPNetwork, PeerCounters]:
        """Return nothing."""
        return {}
