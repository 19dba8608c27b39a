"""When each peer was last heard, and who is sent to and does not answer: one look at the counters every two seconds.

What must stay true: it costs the packets nothing, and the loop nothing for peers that are quiet; a clock that is set makes
nobody silent. Where the kernel carries, it counts by no peer, and nothing is known.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

from dataplane.model import IPNetwork
from dataplane.observe.forwarding import Forwarding
from dataplane.observe.state import NodeState, PeerHeard

look_s = 2.0


class Hearing:
    """What is known of the peers of every device; told in `DeviceState.heard`."""

    def __init__(self, state: NodeState) -> None:
        self._state = state
        self._forwarders: dict[str, Forwarding] = {}

    async def run(self) -> None:
        """Look, for ever."""
        while True:
            self.look()
            await asyncio.sleep(look_s)

    def look(self) -> None:
        """Take in what was exchanged since the last look."""
        now = self._state.monotonic()
        for device in list(self._state.devices.values()):
            forwarding = device.forwarding
            if forwarding is None or not device.workers:
                continue
            exchanged = forwarding.exchanged()
            if self._forwarders.get(device.name) is not forwarding:
                # It may count on from the one before it: what it has by now says nothing of when.
                self._forwarders[device.name] = forwarding
                continue
            note(device.heard, exchanged, now)
            forget(device.heard, forwarding.peers)


def note(heard: dict[IPNetwork, PeerHeard], exchanged: Mapping[IPNetwork, tuple[int, int]], now: float) -> None:
    """Take in how many packets each peer was sent, and how many came from it, since the last look."""
    for prefix, (sent, received) in exchanged.items():
        known = heard.setdefault(prefix, PeerHeard())
        if received:
            known.last, known.asked_since, known.asked = now, None, 0
        elif sent:
            known.asked_since = now if known.asked_since is None else known.asked_since
            known.asked += sent


def forget(heard: dict[IPNetwork, PeerHeard], peers: Collection[IPNetwork]) -> None:
    """Know nothing any more of who is no peer."""
    for prefix in [prefix for prefix in heard if prefix not in peers]:
        del heard[prefix]
