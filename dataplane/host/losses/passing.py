"""How many datagrams of ours passed the external interface, counted before the kernel can lose them, and where it cannot any more.

What waits for a next hop that does not answer never leaves, and nothing else in the kernel tells how much that is: of ARP and
neighbour discovery it counts what did not fit in a neighbour's queue, over all namespaces, and not what it gives up. Of
what comes for a socket whose buffer is full it counts trains. What must stay true: the programs vanish with their descriptors.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial

from dataplane.bpf.calls import Hook, Link, Map, MapKind, tc_egress, tc_ingress
from dataplane.errors import HostError
from dataplane.host.losses.count_programs import (
    Departing,
    all_program,
    arriving_program,
    departing_program,
    value_bytes,
)
from dataplane.host.xfrm import has_output_policies
from dataplane.model import IPAddress


class Departures:
    """Counters at the egress of the external interface and, where that is given, of the kernel's vxlan device.

    Raises:
        HostError: the kernel refuses (it needs CAP_BPF and Linux 6.6), or IPsec policies make something else of datagrams.
    """

    def __init__(self, departing: Departing, interface: int, device: int | None = None) -> None:
        with ExitStack() as undo:
            self._left = _counter(undo, tc_egress, interface, lambda fd: departing_program(departing, fd))
            # The kernel's device carries no multicast, which the host sends it now and then.
            whole = partial(all_program, with_groups=departing.vni is None)
            self._handed = None if device is None else _counter(undo, tc_egress, device, whole)
            if has_output_policies():
                raise HostError("the host has IPsec policies: what leaves is not what was handed over")
            self._undo = undo.pop_all()

    def left(self) -> int:
        """Datagrams that left by the external interface."""
        return _read(self._left)

    def handed(self) -> int:
        """Packets that were handed to the kernel's device; 0 without one."""
        return 0 if self._handed is None else _read(self._handed)

    def close(self) -> None:
        """Count no more. May be called again."""
        self._undo.close()


class Arrivals:
    """A counter at the ingress of the external interface, of datagrams for our sockets.

    Raises:
        HostError: the kernel refuses (it needs CAP_BPF and Linux 6.6).
    """

    def __init__(self, wire: str, local: IPAddress, port: int, interface: int) -> None:
        with ExitStack() as undo:
            self._came = _counter(undo, tc_ingress, interface, lambda fd: arriving_program(wire, local, port, fd))
            self._undo = undo.pop_all()

    def came(self) -> int:
        """Datagrams that came."""
        return _read(self._came)

    def close(self) -> None:
        """Count no more. May be called again."""
        self._undo.close()


def _counter(undo: ExitStack, hook: Hook, index: int, program: Callable[[int], bytes]) -> Map:
    made = Map(MapKind.array, "left", 4, value_bytes, 1)
    undo.callback(made.close)
    undo.callback(Link(hook, program(made.fd), index).close)
    return made


def _read(counter: Map) -> int:
    return int(struct.unpack("=Q", counter.get(bytes(4)))[0])
