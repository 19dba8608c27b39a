"""What two status documents say of the time between them: packets and bytes a second by peer, drops a second by reason.

Pure. What must stay true: who came, went or counts anew meanwhile has no rate rather than a wrong one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

peer_counts = ("tx_packets", "tx_bytes", "rx_packets", "rx_bytes")


@dataclass(frozen=True, slots=True)
class PeerRates:
    """Of one peer: packets and bytes a second, as `peer_counts`."""

    subnet: str
    tx_packets: float
    tx_bytes: float
    rx_packets: float
    rx_bytes: float

    @property
    def bytes(self) -> float:
        """Both ways."""
        return self.tx_bytes + self.rx_bytes


@dataclass(frozen=True, slots=True)
class Rates:
    """What went on, the busiest first.

    Attributes:
        peers: those with traffic; None where the kernel carries, which counts by no peer.
        drops: a second by reason, those that grew.
        quiet: how many other peers there are.
    """

    peers: tuple[PeerRates, ...] | None
    drops: tuple[tuple[str, float], ...]
    quiet: int


def rates(before: Mapping[str, Any], after: Mapping[str, Any], seconds: float) -> Rates:
    """Return the rates between two status documents that were asked for so many seconds apart."""
    old = {(peer["device"], peer["subnet"]): peer for peer in before["peers"]}
    counted = [peer for peer in after["peers"] if peer["tx_packets"] is not None]
    found = []
    for peer in counted:
        grown = _grown(old.get((peer["device"], peer["subnet"])), peer)
        if grown is not None and any(grown):
            found.append(PeerRates(peer["subnet"], *(count / seconds for count in grown)))
    drops = {
        reason: (count - told.get(reason, 0)) / seconds
        for told, now in ((before["drops"], after["drops"]), (before["host_drops"], after["host_drops"]))
        for reason, count in now.items()
        if count > told.get(reason, 0)
    }
    return Rates(
        tuple(sorted(found, key=lambda peer: (-peer.bytes, peer.subnet))) if counted or not after["peers"] else None,
        tuple(sorted(drops.items(), key=lambda item: (-item[1], item[0]))),
        len(after["peers"]) - len(found),
    )


def _grown(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> list[int] | None:
    if old is None or old["tx_packets"] is None:
        return None
    grown = [new[name] - old[name] for name in peer_counts]
    return grown if min(grown) >= 0 else None
