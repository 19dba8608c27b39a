"""One TUN device with its sockets and its forwarder, opened together and closed together.

What must stay true: whatever fails on the way, nothing stays open; the forwarder is closed before the descriptors
that it reads, and the device vanishes with its last descriptor.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from typing import Protocol

from dataplane.backends.base import DevicePlan
from dataplane.errors import HostError
from dataplane.model import IPNetwork, Peer
from dataplane.observe.state import Forwarding

log = logging.getLogger(__name__)

# Of each worker: how many inner sources, and senders, can have a queue of their own.
tun_queues = 16
receive_queues = 32
vxlan_sources = 16  # source ports, so that the underlay can spread flows (RFC 7348 section 5)


class Forwarder(Forwarding, Protocol):
    """What control does with a forwarder, beside reading it."""

    def start(self) -> None:
        """Start the workers."""
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

    def close(self) -> None:
        """Stop the forwarder, then let go of the device; its addresses and routes go with it."""
        ...


OpenDevice = Callable[[DevicePlan], Device]


class TunDevice:
    """The real thing: a TUN, UDP sockets, the C core."""

    def __init__(self, plan: DevicePlan, workers: int, spin_us: int) -> None:
        """Open all of it; raises `HostError` or `CoreError` with nothing left open."""
        # The core and the TUN library are needed here only; control's tests run without them.
        from dataplane.core import Forwarder as CoreForwarder
        from dataplane.core import ForwarderConfig
        from dataplane.host.devconf import prepare_tun
        from dataplane.host.edges.sockets import open_receive, open_sources
        from dataplane.host.edges.tun import open_tun
        from dataplane.keepers.losses import of_tun

        with ExitStack() as undo:
            tun = open_tun(plan.name, workers, tun_queues)
            undo.callback(tun.close)
            receive = open_receive(plan.underlay_address, plan.port, plan.interface, workers, receive_queues, plan.wire)
            _close_later(undo, receive)
            sources, tunnel_fd = receive[:workers], -1  # a plain udp peer takes no super-packet (docs/decisions/0020)
            if plan.wire == "vxlan":
                sources = open_sources(plan.underlay_address, plan.interface, vxlan_sources)
                _close_later(undo, sources)
                tunnel_fd = _open_tunnel(undo, plan.interface)
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
                    tunnel_fd=tunnel_fd,
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
            self._losses = of_tun(undo, plan, tun, forwarder, receive, sources)
            self._interface = plan.interface
            self.index = tun.index
            self.warnings = self._unset = tuple(prepare_tun(tun.name))
            self.forwarder: Forwarder = forwarder
            self._undo = undo.pop_all()

    def kernel_drops(self) -> dict[str, int]:
        """What the kernel dropped before and behind the forwarder; without a reason that cannot be counted here."""
        return self._losses.drops()

    def host_drops(self) -> dict[str, int]:
        """What the kernel's UDP lost for others, or before it was known for whom."""
        return self._losses.underlay.count()

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

    def close(self) -> None:
        """Stop the workers, free the core, close sockets and TUN, in this order. May be called again."""
        self._undo.close()


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
