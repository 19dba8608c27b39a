"""Keeps the filter in front of a kernel vxlan device equal to the leases, and says what it does.

What must stay true: without the filter the node works on, but status and log say that senders are not checked; a filter
of an earlier life is replaced only by one that knows all the leases.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping

from pyroute2 import IPRoute

from dataplane.control.say import Say
from dataplane.errors import HostError
from dataplane.host import admission
from dataplane.host.admission import Admission
from dataplane.host.admission_program import Guarded
from dataplane.host.netlink import Host
from dataplane.model import IPNetwork, Peer
from dataplane.observe.state import DeviceState, NodeState

log = logging.getLogger(__name__)


class AdmissionKeeper:
    """The filter of one device, kept.

    Args:
        wanted: the device's peers, our own subnets (without a next hop) included; read at each call.
        seen: where it says what stands.
    """

    def __init__(
        self, guarded: Guarded, wanted: Mapping[IPNetwork, Peer], host: Host, state: NodeState, seen: DeviceState
    ) -> None:
        self._guarded = guarded
        self._wanted = wanted
        self._host = host
        self._state = state
        self._seen = seen
        self._say = Say(log)
        self._admission: Admission | None = None
        self._means = ""

    async def change(self, prefixes: Collection[IPNetwork]) -> None:
        """Let in what is wanted of these prefixes, and nothing else of them."""
        current = self._admission
        if current is not None:
            await self._try(lambda _: current.change(prefixes, self._wanted))

    async def ensure(self, interface: int) -> None:
        """Attach the filter at the interface if it is not there, with all that is wanted.

        Raises:
            HostError: the kernel does not say which addresses are ours.
        """
        local = await self._host.local_destinations(self._guarded.link.local.version)
        await self._try(lambda netlink: self._ensure(netlink, interface, local))

    async def remove(self) -> None:
        """Take the filter away, wherever it is; raises `HostError`."""
        self.close()
        await admission.remove(self._host, self._guarded.link.name)

    def close(self) -> None:
        """Leave the filter as it is."""
        if self._admission is not None:
            self._admission.close()
            self._admission = None

    def drops(self) -> dict[str, int]:
        """Packets dropped by reason."""
        return {} if self._admission is None else self._admission.drops()

    def _ensure(self, netlink: IPRoute, interface: int, local: frozenset[IPNetwork]) -> None:
        if self._admission is not None:
            self._admission.listen_at(local)
            self._admission.change({*self._wanted, *self._admission.held}, self._wanted)
            if self._admission.is_attached(netlink, interface):
                return
            self._means = self._admission.attach(netlink, interface)
            self._state.events["repairs"] += 1
            return
        made = Admission(self._guarded)
        try:
            made.listen_at(local)
            made.change(tuple(self._wanted), self._wanted)
            self._means = made.attach(netlink, interface)
        except HostError:
            made.close()
            raise
        self._admission = made

    async def _try(self, work: Callable[[IPRoute], None]) -> None:
        name = self._guarded.link.name
        subject = f"admission {name}"
        try:
            await self._host.ask(f"filter what comes to {name}", work)
        except HostError as error:
            stands = "partly" if self._admission is not None else "none"
            text = f"{name}: the kernel does not check senders ({stands}): {error}"
            self._seen.admission = stands
            self._state.notes[subject] = text
            self._say.warn(subject, text, self._state.now())
        else:
            if self._seen.admission != "full":
                log.info("%s: senders are checked against the leases (BPF, %s)", name, self._means)
            self._seen.admission = "full"
            self._state.notes.pop(subject, None)
            self._say.over(subject, f"{name}: senders are checked again")
