"""What the kernel lost of a device's packets, found by comparing what was given with what arrived.

The kernel does not tell these numbers by themselves: of a full TUN queue it counts super-packets once, of datagrams that wait for
a next hop it counts nothing, and its UDP counters are of the whole host. What must stay true: each number only grows, and
is never more than what was lost; where something is still under way it may be less until that has ended.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from contextlib import suppress

from dataplane.errors import HostError
from dataplane.host.losses.kernel_counters import read_underlay
from dataplane.host.losses.neighbours import awaited
from dataplane.host.losses.passing import Departures
from dataplane.host.sysctl import read_sysctl
from dataplane.host.xfrm import has_output_policies

# What the kernel holds for a next hop it counts in memory, of which every datagram has more than this: IP and UDP header.
least_datagram_bytes = 28


class Unsent:
    """Datagrams handed to the kernel that never left: their next hop did not answer.

    Args:
        handed: how many there were so far; they leave, are held or are lost before they are counted there.
        held: an upper bound of how many the kernel holds at the moment; raises `HostError` where it cannot tell.
    """

    def __init__(self, departures: Departures, handed: Callable[[], int], held: Callable[[], int]) -> None:
        self._departures = departures
        self._handed = handed
        self._held = held
        self._lost = 0

    def count(self) -> int:
        """Return how many were lost."""
        handed = self._handed()
        with suppress(HostError):
            # In this order: what is handed over or leaves meanwhile makes the difference smaller.
            held = self._held()
            self._lost = max(self._lost, handed - self._departures.left() - held)
        return self._lost


def held_for_neighbours(interface: str, index: int, version: int) -> int:
    """An upper bound of how many datagrams wait for next hops at an interface.

    Raises:
        HostError: the kernel does not say, or there are IPsec policies: other datagrams leave than were handed over.
    """
    if has_output_policies():
        raise HostError("the host has IPsec policies")
    waiting = awaited(index, version)
    if not waiting:
        return 0
    most_bytes = int(read_sysctl(f"net/ipv{version}/neigh/{interface}/unres_qlen_bytes"))
    return waiting * max(1, most_bytes // least_datagram_bytes)


class Overflow:
    """Packets that found queues full, where the kernel counts a super-packet or train once: as the packets that they are.

    Args:
        given: packets that went to the queues so far, lost ones too.
        taken: packets that were read of them.
        dropped: those lost, super-packets once.
        queues: their descriptors: readable where something waits.
        beside: packets that were given, and lost in other ways before they came to a queue.
    """

    def __init__(
        self,
        given: Callable[[], int],
        taken: Callable[[], int],
        dropped: Callable[[], int],
        queues: Sequence[int],
        beside: Callable[[], int] = lambda: 0,
    ) -> None:
        self._given = given
        self._taken = taken
        self._dropped = dropped
        self._beside = beside
        self._watched = select.poll()
        for queue in queues:
            self._watched.register(queue, select.POLLIN)
        self._lost = self._settled = 0  # packets; super-packets, of which it is known how many packets they are
        self._base = 0  # what was missing and is not lost here
        self._seen: int | None = None

    def count(self) -> int:
        """Return how many were lost, at least: super-packets count once until the queues have been found empty twice."""
        dropped, missing = self._dropped(), self._given() - self._beside()
        missing -= self._taken()
        waiting = bool(self._watched.poll(0))
        # The same twice: nothing is on its way between queue and count.
        steady = not waiting and missing == self._seen and dropped == self._dropped()
        self._seen = None if waiting else missing
        least = self._lost + dropped - self._settled
        if not steady:
            return least
        if dropped > self._settled:
            self._lost, self._settled = max(least, missing - self._base), dropped
        self._base = missing - self._lost
        return self._lost


class UnderlayLosses:
    """What the kernel lost of this host's datagrams that no socket or device of ours tells of, since this was made.

    Args:
        received, sent: what ours do tell: datagrams lost at our sockets, and sends that were refused for want of room.
    """

    def __init__(self, version: int, received: Callable[[], int], sent: Callable[[], int]) -> None:
        self._version = version
        self._received = received
        self._sent = sent
        self._start = read_underlay(version)
        self._lost = {"receive_udp": 0, "receive_fragments": 0, "send_queue": 0}

    def count(self) -> dict[str, int]:
        """Return how many, by reason: on their way to a socket, in pieces, in the queue of a device (a train counts once)."""
        # Read first: what ours tell of meanwhile makes the difference smaller.
        now = read_underlay(self._version)
        found = {
            "receive_udp": now.in_errors - self._start.in_errors - self._received(),
            "receive_fragments": now.reassembly_failures - self._start.reassembly_failures,
            "send_queue": now.sndbuf_errors - self._start.sndbuf_errors - self._sent(),
        }
        self._lost = {reason: max(count, found[reason]) for reason, count in self._lost.items()}
        return dict(self._lost)
