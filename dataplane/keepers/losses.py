"""Puts together what the kernel lost of one device's packets: in front of our forwarder and behind it, or around the kernel's vxlan.

What must stay true: where the kernel lets us count nothing a reason is missing, or counts less, and the log says so.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dataplane.backends.base import DevicePlan
from dataplane.errors import HostError
from dataplane.host.losses.comparing import Overflow, UnderlayLosses, Unsent, held_for_neighbours
from dataplane.host.losses.count_programs import Departing
from dataplane.host.losses.kernel_counters import DeviceCounters, read_device
from dataplane.host.losses.passing import Arrivals, Departures

if TYPE_CHECKING:
    from dataplane.host.edges.tun import Tun  # its library is not needed in the kernel datapath

log = logging.getLogger(__name__)

neighbour = "send_neighbour"
tun_queue = "tun_queue"
sockets = "receive_socket"


class Counting(Protocol):
    """What is read of a forwarder here."""

    def since_start(self) -> dict[str, int]:
        """Its counters by the core's names, without what was counted before it."""
        ...


@dataclass(frozen=True, slots=True)
class Losses:
    """Counters of one device.

    Attributes:
        by_reason: what is ours alone.
        underlay: what the host's counters tell beside.
    """

    by_reason: Mapping[str, Callable[[], int]]
    underlay: UnderlayLosses

    def drops(self) -> dict[str, int]:
        """What is ours alone, by reason."""
        return {reason: count() for reason, count in self.by_reason.items()}


def of_tun(
    undo: ExitStack,
    plan: DevicePlan,
    tun: Tun,
    core: Counting,
    receive: Sequence[socket.socket],
    sources: Sequence[socket.socket],
) -> Losses:
    """The losses around a TUN and its forwarder from now on, also of one that runs. `sources`: what datagrams leave from."""
    dropped_before, before = tun.queue_drops(), core.since_start()
    after = dict(before)  # the programs count: what left until then is no loss

    def counted(name: str) -> Callable[[], int]:
        return lambda: core.since_start()[name] - before[name]

    def handed() -> int:
        return core.since_start()["tx_packets"] - after["tx_packets"]

    def at_queues() -> int:
        return tun.queue_drops() - dropped_before

    at_sockets = counted(f"drop_{sockets}")
    underlay = UnderlayLosses(plan.underlay_family, at_sockets, counted("underlay_full"))
    departing = Departing(plan.wire, plan.underlay_address, plan.port, tuple(sock.getsockname()[1] for sock in sources))
    departures, arrivals = _departures(undo, plan, departing, tun.index), _arrivals(undo, plan)
    after |= core.since_start()
    if departures is None or arrivals is None:
        return Losses({tun_queue: at_queues}, underlay)
    overflow = Overflow(departures.handed, counted("tun_packets"), at_queues, tun.fds)
    trains = Overflow(
        arrivals.came,
        counted("underlay_datagrams"),
        at_sockets,
        [sock.fileno() for sock in receive],
        lambda: underlay.count()["receive_udp"],
    )
    unsent = Unsent(departures, handed, _held(plan))
    # The core has counted each train at its sockets once.
    beside = {sockets: lambda: max(0, trains.count() - at_sockets())}
    return Losses({tun_queue: overflow.count, neighbour: unsent.count, **beside}, underlay)


def of_kernel(undo: ExitStack, plan: DevicePlan, device: int) -> Losses:
    """The losses around the kernel's vxlan device of this index."""
    start = read_device(plan.name)

    def since(field: Callable[[DeviceCounters], int]) -> int:
        return field(read_device(plan.name)) - field(start)

    counts: dict[str, Callable[[], int]] = {
        "device_send": lambda: since(lambda seen: seen.tx_errors + seen.tx_dropped),
        "device_receive": lambda: since(lambda seen: seen.received),
    }
    underlay = UnderlayLosses(plan.underlay_family, lambda: 0, lambda: since(lambda seen: seen.tx_dropped))
    departures = _departures(undo, plan, Departing(plan.wire, plan.underlay_address, plan.port, vni=plan.vni), device)
    if departures is not None:
        # tx_errors: no route; what the underlay's queue has no room for (tx_dropped) has been counted as left before.
        handed = departures.handed
        counts[neighbour] = Unsent(departures, lambda: handed() - since(lambda seen: seen.tx_errors), _held(plan)).count
    return Losses(counts, underlay)


def _departures(undo: ExitStack, plan: DevicePlan, departing: Departing, device: int) -> Departures | None:
    try:
        departures = Departures(departing, socket.if_nametoindex(plan.interface), device)
    except (HostError, OSError) as error:
        log.info("%s: what is lost to next hops that do not answer is not counted: %s", plan.name, error)
        return None
    undo.callback(departures.close)
    return departures


def _arrivals(undo: ExitStack, plan: DevicePlan) -> Arrivals | None:
    try:
        arrivals = Arrivals(plan.wire, plan.underlay_address, plan.port, socket.if_nametoindex(plan.interface))
    except (HostError, OSError) as error:
        log.info("%s: a train that finds a socket full is counted once: %s", plan.name, error)
        return None
    undo.callback(arrivals.close)
    return arrivals


def _held(plan: DevicePlan) -> Callable[[], int]:
    index = socket.if_nametoindex(plan.interface)
    return lambda: held_for_neighbours(plan.interface, index, plan.underlay_family)
