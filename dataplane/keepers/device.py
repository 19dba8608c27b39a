"""One TUN device with its sockets and its forwarder, opened together and closed together.

What must stay true: whatever fails on the way, nothing stays open; the forwarder is closed before the descriptors
that it reads; the device vanishes when it is closed, and stays, with addresses and routes, when it is left.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from dataplane.errors import HostError
from dataplane.observe.forwarding import Forwarding

if TYPE_CHECKING:  # the next process opens its devices before it loads anything that it can do without
    from dataplane.backends.base import DevicePlan
    from dataplane.host.edges.tun import Tun
    from dataplane.keepers.losses import Losses
    from dataplane.model import IPNetwork, Peer

log = logging.getLogger(__name__)

# Of each worker: how many inner sources, and senders, can have a queue of their own.
tun_queues = 16
receive_queues = 32
_so_bindtoifindex = 62  # asm-generic/socket.h, from Linux 5.0 on
vxlan_sources = 16  # source ports, so that the underlay can spread flows (RFC 7348 section 5)


class Forwarder(Forwarding, Protocol):
    """What control does with a forwarder, beside reading it."""

    def start(self) -> None:
        """Start the workers, unless they run."""
        ...

    def read_loaded(self, most: int) -> bool:
        """Take up to `most` peers of a table that another forwarder made into `peers`; returns whether there may be more."""
        ...

    def update(self, put: Iterable[Peer], remove: Iterable[IPNetwork] = ()) -> Mapping[IPNetwork, str]:
        """Change the table in one step; return why by the prefix of each peer refused. Raises `CoreError`: none was."""
        ...

    def forbid(self, offload: str) -> None:
        """Use an offload no more."""
        ...


class Device(Protocol):
    """An open device; `warnings` are what could not be set up, one sentence each."""

    @property
    def name(self) -> str:
        """The name that the kernel gave it."""
        ...

    @property
    def index(self) -> int:
        """Its interface index."""
        ...

    @property
    def forwarder(self) -> Forwarder:
        """The data plane behind it; not started."""
        ...

    @property
    def warnings(self) -> tuple[str, ...]:
        """What could not be set up, one sentence each."""
        ...

    def kernel_drops(self) -> dict[str, int]:
        """What the kernel dropped before and behind the forwarder, by reason."""
        ...

    def host_drops(self) -> dict[str, int]:
        """What the kernel lost on the underlay, other programs' among it, by reason."""
        ...

    def recheck(self) -> str | None:
        """Give up what the host no longer allows; returns a sentence about it, None where all stays as it was."""
        ...


class Devices(Protocol):
    """Where keepers get their devices from, and give them back."""

    def open(self, plan: DevicePlan) -> Device:
        """Return an open device for the plan, its forwarder started or not; raises `HostError`, `CoreError`."""
        ...

    def leave(self, plan: DevicePlan) -> None:
        """Let go of the plan's device; it may be wanted again."""
        ...

    def close(self, plan: DevicePlan) -> None:
        """Take the plan's device away."""
        ...


@dataclass(frozen=True, slots=True)
class Before:
    """A device as an earlier life or process left it.

    Attributes:
        name, index: as the kernel knows it.
        tuns, receives, sources: open descriptors, ours from now on; empty: there are none any more, the device has stayed.
    """

    name: str
    index: int
    tuns: tuple[int, ...] = ()
    receives: tuple[int, ...] = ()
    sources: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Drops:
    """What was told of the kernel's drops before, by reason, to be counted on from."""

    kernel: Mapping[str, int] = field(default_factory=dict)
    host: Mapping[str, int] = field(default_factory=dict)


class TunDevice:
    """The real thing: a TUN, UDP sockets, the C core.

    Args:
        before: the device as it was left; None: there is none.
        drops: counted before.

    Attributes:
        plan, workers, spin_us: as it was opened.
        interface_index: of the external interface that its sockets are bound to.
        descriptors: of the TUN's queues, the receive and the source sockets, by role.
    """

    def __init__(
        self,
        plan: DevicePlan,
        workers: int,
        spin_us: int,
        *,
        before: Before | None = None,
        drops: Drops | None = None,
    ) -> None:
        """Open all of it; raises `HostError` or `CoreError` with nothing left open."""
        # The core and the TUN library are needed here only; control's tests run without them.
        from dataplane.core import Forwarder as CoreForwarder
        from dataplane.core import ForwarderConfig
        from dataplane.host.devconf import prepare_tun

        self.plan, self.workers, self.spin_us = plan, workers, spin_us
        self._drops = drops or Drops()
        self._closed = False
        with ExitStack() as undo:
            beside = undo.enter_context(ExitStack())
            # In this order whatever was given is closed, wherever it fails.
            receive, sources = _open_sockets(undo, plan, workers, before)
            tun = _open_tun(plan, workers, before)
            undo.callback(tun.close)
            addresses = {address.version: address.ip for address in plan.addresses}
            forwarder = CoreForwarder(
                ForwarderConfig(
                    backend=plan.wire,
                    mtu=plan.mtu,
                    port=plan.port,
                    underlay_family=plan.underlay_family,
                    tun_fds=tun.fds,
                    receive_fds=tuple(sock.fileno() for sock in receive),
                    source_fds=tuple(sock.fileno() for sock in sources),
                    workers=workers,
                    vnet_hdr=tun.vnet_hdr,
                    vni=plan.vni,
                    vtep_mac=plan.vtep_mac,
                    tunnel4=addresses.get(4),
                    tunnel6=addresses.get(6),
                    spin_us=spin_us,
                )
            )
            undo.callback(forwarder.close)
            self.name = tun.name
            self._interface = plan.interface
            self.interface_index = receive[0].getsockopt(socket.SOL_SOCKET, _so_bindtoifindex)
            self.index = tun.index
            self.warnings = self._unset = tuple(prepare_tun(tun.name))
            self.descriptors = {
                "tun": tun.fds,
                "receive": tuple(sock.fileno() for sock in receive),
                "source": () if plan.wire == "udp" else tuple(sock.fileno() for sock in sources),
            }
            self.forwarder = forwarder
            self._tun, self._receive, self._sources = tun, receive, sources
            self._losses: Losses | None = None
            # Closed after the core, which uses it; it is open by then.
            self._beside = beside
            self._undo = undo.pop_all()

    def complete(self) -> None:
        """Add what packets can do without for a moment, since it takes the kernel long: the way out for super-packets, and the
        counters of losses. To be called once, before `start` or after it; raises `CoreError`."""
        from dataplane.keepers.losses import of_tun

        if self.plan.wire == "vxlan" and (tunnel_fd := _open_tunnel(self._beside, self.plan.interface)) >= 0:
            self.forwarder.use_tunnel(tunnel_fd)
        self._losses = of_tun(self._beside, self.plan, self._tun, self.forwarder, self._receive, self._sources)

    def kernel_drops(self) -> dict[str, int]:
        """What the kernel dropped before and behind the forwarder; without a reason that cannot be counted here."""
        return _sum(self._drops.kernel, {} if self._losses is None else self._losses.drops())

    def host_drops(self) -> dict[str, int]:
        """What the kernel's UDP lost for others, or before it was known for whom."""
        return _sum(self._drops.host, {} if self._losses is None else self._losses.underlay.count())

    def recheck(self) -> str | None:
        """Set what could not be set, and take back super-packets whole, for good, once the host objects.

        A rebuilt device asks anew.
        """
        told = self._set_again()
        if "tunnel_gso" not in self.forwarder.offloads:
            return told
        reason = _objection(self._interface)
        if reason is None:
            return told
        self.forwarder.forbid("tunnel_gso")
        return f"super-packets are cut by this process from now on: {reason}"

    def _set_again(self) -> str | None:
        from dataplane.host.devconf import prepare_tun

        if not self._unset:
            return None
        self._unset = tuple(prepare_tun(self.name))
        return None if self._unset else "its settings are made now"

    def stay(self, whether: bool) -> None:
        """Have the device stay when it is left, or we are killed; raises `HostError`."""
        self._tun.stay(whether)

    def close(self) -> None:
        """Stop the workers, free the core, close TUN and sockets, in this order; nothing stays. May be called again."""
        if not self._closed:
            with suppress(HostError):  # the device is gone
                self._tun.stay(False)
        self.leave()

    def leave(self) -> None:
        """The same, but that a device that is to stay does. May be called again."""
        self._closed = True
        self._undo.close()


def _open_tun(plan: DevicePlan, workers: int, before: Before | None) -> Tun:
    from dataplane.host.edges import tun

    if before is None:
        return tun.open_tun(plan.name, workers, tun_queues)
    if before.tuns:
        return tun.given_tun(before.tuns)
    return tun.attach_tun(before.name, before.index, workers, tun_queues)


def _open_sockets(
    undo: ExitStack, plan: DevicePlan, workers: int, before: Before | None
) -> tuple[list[socket.socket], list[socket.socket]]:
    """What we receive with and what we send from; a plain udp peer takes what comes from the port (docs/decisions/0020)."""
    from dataplane.host.edges.sockets import open_receive, open_sources

    if before is not None and before.receives:
        receive = [socket.socket(fileno=fd) for fd in before.receives]
    else:
        receive = open_receive(plan.underlay_address, plan.port, plan.interface, workers, receive_queues, plan.wire)
    _close_later(undo, receive)
    if plan.wire == "udp":
        return receive, receive[:workers]
    if before is not None and before.sources:
        sources = [socket.socket(fileno=fd) for fd in before.sources]
    else:
        sources = open_sources(plan.underlay_address, plan.interface, vxlan_sources)
    _close_later(undo, sources)
    return receive, sources


def _sum(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, int]:
    return {reason: before.get(reason, 0) + now.get(reason, 0) for reason in {**before, **now}}


def _objection(interface: str) -> str | None:
    """Why super-packets are not to leave whole; a host that cannot tell objects too."""
    from dataplane.host.edges.tunnel import objection

    try:
        return objection(interface)
    except HostError as error:
        return str(error)


def _open_tunnel(undo: ExitStack, interface: str) -> int:
    """A TAP for uncut super-packets where that pays; -1 where it does not, or cannot be had: the core cuts them."""
    from dataplane.host.edges.tunnel import TunnelTap

    reason = _objection(interface)
    if reason is None:
        try:
            tap = TunnelTap(interface)
        except HostError as error:
            reason = str(error)
        else:
            undo.callback(tap.close)
            return tap.fd
    log.info("super-packets are cut by this process: %s", reason)
    return -1


def _close_later(undo: ExitStack, sockets: list[socket.socket]) -> None:
    for sock in sockets:
        undo.callback(sock.close)
