"""Who is heard, and who is silent: what two looks at the counters tell."""

from __future__ import annotations

from ipaddress import IPv4Network

import pytest

from dataplane.follow.heard import Hearing, forget, note
from dataplane.model import IPNetwork, Peer
from dataplane.observe.state import DeviceState, NodeState, PeerHeard, silent_after_s
from tests.observe.node import Forwarder, subnet


@pytest.mark.parametrize(
    ("looks", "silent"),
    [
        ([], None),
        ([(0, 0, 5)], None),  # only receives
        ([(0, 3, 0)], silent_after_s),
        ([(0, 2, 0)], None),  # too few to tell
        ([(0, 1, 0), (4, 1, 0), (8, 1, 0)], silent_after_s),
        ([(0, 9, 0), (4, 1, 1)], None),  # it answered
        ([(0, 9, 1), (4, 9, 0)], silent_after_s - 4),  # counted from when it was sent to again
        ([(0, 9, 0), (9, 9, 1), (9.5, 9, 0)], None),  # not long enough since
    ],
)
def test_silence(looks: list[tuple[float, int, int]], silent: float | None) -> None:
    heard: dict[IPNetwork, PeerHeard] = {}
    for now, sent, received in looks:
        note(heard, {subnet: (sent, received)}, now)
    known = heard.get(subnet, PeerHeard())
    if silent is not None and silent < silent_after_s:
        assert known.silent_s(silent_after_s) is None
        assert known.silent_s(silent_after_s + 4) == silent_after_s
    else:
        assert known.silent_s(silent_after_s) == silent


def test_who_is_no_peer_is_forgotten() -> None:
    other = IPv4Network("10.244.9.0/24")
    heard = {subnet: PeerHeard(last=1.0), other: PeerHeard(last=2.0)}
    forget(heard, {subnet: Peer(subnet, None)})
    assert heard == {subnet: PeerHeard(last=1.0)}


class Counting(Forwarder):
    """Says at each look what it is told to."""

    def __init__(self, *looks: dict[IPNetwork, tuple[int, int]]) -> None:
        super().__init__()
        self.looks = iter(looks)

    def exchanged(self) -> dict[IPNetwork, tuple[int, int]]:
        return next(self.looks)


def test_what_was_counted_before_the_first_look_says_nothing_of_when() -> None:
    state = NodeState(monotonic=lambda: 50.0)
    device = state.devices["flannel.1"] = DeviceState(
        "flannel.1", 1450, 8472, 2, forwarding=Counting({subnet: (9, 9)}, {subnet: (1, 0)}, {subnet: (0, 1)})
    )
    hearing = Hearing(state)
    hearing.look()
    assert device.heard == {}
    hearing.look()
    assert device.heard == {subnet: PeerHeard(None, 50.0, 1)}
    hearing.look()
    assert device.heard == {subnet: PeerHeard(50.0, None, 0)}
    device.forwarding = Counting({subnet: (9, 9)})  # built again, it counts on
    hearing.look()
    assert device.heard == {subnet: PeerHeard(50.0, None, 0)}
