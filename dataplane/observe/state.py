"""The daemon's facts in one place: the control loop writes them, health, metrics and status read them.

What must stay true: readiness is computed when somebody asks, from what is true then, so that it cannot go
stale; every reason for not being ready is a sentence that a person can act on.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from dataplane.model import IPAddress, IPNetwork, Lease, Peer, PeerCounters, UnreachableReason
from dataplane.observe.forwarding import Forwarding
from dataplane.runtime.pieces import pieces_of

store_silence_s = 5.0
silent_after_s, silent_packets = 10.0, 3  # of a peer: traffic one way alone is rare, and a lost packet is none
status_socket = "status.sock"  # in the run directory
unreachable_words: Mapping[UnreachableReason, str] = {
    "port_closed": "port closed: no daemon listens there",
    "host_unreachable": "host unreachable: it is off, or not where its lease says",
    "no_route": "no route: the underlay knows no way to it",
    "prohibited": "prohibited: a firewall rejects what is sent to it",
}


@dataclass(slots=True)
class PeerUnreachable:
    """What ICMP "destination unreachable" said of one peer. Anybody can forge that: shown, never acted upon.

    Attributes:
        count: messages read.
        reason: of the last one; None when it is over.
        said_by: its sender.
        since, last: Unix times in seconds, of the first one of the present trouble and of the last one.
    """

    said_by: IPAddress
    since: float
    last: float
    count: int = 0
    reason: UnreachableReason | None = None


@dataclass(slots=True)
class PeerHeard:
    """When one peer was heard, and what it was sent since without an answer. Seconds of `NodeState.monotonic`.

    Attributes:
        last: when something came from it that was let in; None: not since this daemon looks.
        asked_since: of the first look since then that found something sent to it; None: nothing was.
        asked: packets sent to it since.
    """

    last: float | None = None
    asked_since: float | None = None
    asked: int = 0

    def silent_s(self, now: float) -> float | None:
        """For how long it has not answered; None where that says nothing yet."""
        if self.asked_since is None or self.asked < silent_packets or now - self.asked_since < silent_after_s:
            return None
        return now - self.asked_since


@dataclass(slots=True)
class DeviceState:
    """One device that carries packets; `forwarding` is None while it does not exist (yet, or being rebuilt).

    Attributes:
        port, workers: 0 where there are none: the kernel's own vxlan device, plain routes.
        kernel_drops: reads what the kernel lost of what goes by the device, by reason; None while there is no device.
        host_drops: reads what the kernel lost on the device's underlay, of ours or of other programs, by reason.
        direct: overlay prefixes that the kernel routes straight to their peers, past the device.
        admission: how much of what comes in is checked against the leases: "full", "sender only" or "none"; ""
            where there is nothing to check.
        unreachable: peers of whom ICMP said so, by underlay address.
        heard: what was heard of peers that something was exchanged with, by overlay prefix.
    """

    name: str
    mtu: int
    port: int = 0
    workers: int = 0
    index: int | None = None
    forwarding: Forwarding | None = None
    kernel_drops: Callable[[], dict[str, int]] | None = None
    host_drops: Callable[[], dict[str, int]] | None = None
    direct: set[IPNetwork] = field(default_factory=set)
    admission: str = ""
    unreachable: dict[IPAddress, PeerUnreachable] = field(default_factory=dict)
    heard: dict[IPNetwork, PeerHeard] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InterfaceState:
    """The external interface and why it was chosen."""

    name: str
    address: str
    mtu: int
    reason: str


@dataclass(frozen=True, slots=True)
class Datapath:
    """Who carries the packets ("userspace" or "kernel") and why."""

    kind: str
    reason: str


@dataclass(slots=True)
class NodeState:
    """Everything worth telling about this node.

    Attributes:
        now, monotonic: Unix time in seconds, and those of a clock that nobody sets.
        started: when this process began; forwarding_since: since when packets are forwarded without a break that we
            know of, by it or by those before it.
        blockers: why the node is not ready, one sentence by subject.
        notes: problems that do not keep it from working, by subject.
        refused: reason by lease key.
        mismatched: by the key of a lease in use, what tells of a node configured otherwise than we are.
        leases: how many leases of other nodes are in use.
        store_contact: Unix time of the last successful contact with the store.
        firewall_drops: packets that the encapsulation rules dropped, as of the last look.
        interface_drops: reads how many packets the external interface did not send, since the daemon took it.
        recounts: bring that, and what else is counted by looking, up to date; by whose they are.
        write_down: writes the counters down for the next daemon; to be called before they are told.
        events: how often something worth counting happened, by name.
    """

    now: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic
    started: float = 0.0
    forwarding_since: float | None = None
    backend: str = ""
    network: tuple[str, ...] = ()
    interface: InterfaceState | None = None
    datapath: Datapath | None = None
    lease: Lease | None = None
    vtep_mac: str = ""
    subnet_file: str = ""
    devices: dict[str, DeviceState] = field(default_factory=dict)
    blockers: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    mismatched: dict[str, str] = field(default_factory=dict)
    leases: int = 0
    store_contact: float | None = None
    firewall_drops: int = 0
    interface_drops: Callable[[], int] | None = None
    recounts: dict[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    write_down: Callable[[], Awaitable[None]] | None = None
    events: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.started = self.started or self.now()
        self.blockers["start"] = "still starting"

    async def recount(self) -> None:
        """Bring every count up to date."""
        for recount in tuple(self.recounts.values()):
            await recount()

    async def may_be_told(self) -> None:
        """Wait until no counter that was read so far can go back, however this daemon ends."""
        if self.write_down is not None:
            await self.write_down()

    def unready(self) -> list[str]:
        """Return why the node is not ready; empty when it is."""
        reasons = list(self.blockers.values())
        if self.store_contact is None:
            reasons.append("no contact with the lease store yet")
        elif (silence := abs(self.now() - self.store_contact)) > store_silence_s:  # abs: the clock may be set back
            reasons.append(f"no contact with the lease store for {silence:.0f} s")
        for device in self.devices.values():
            if device.forwarding is None:
                reasons.append(f"device {device.name} does not exist")
            else:
                reasons.extend(f"{device.name}: {failure}" for failure in device.forwarding.failures)
        if self.lease is not None and self.lease.expires is not None and self.lease.expires <= self.now():
            reasons.append(f"our lease {self.lease.key} has expired and could not be renewed")
        return reasons

    def problems(self) -> Iterator[str]:
        """Yield everything that is wrong, what keeps the node from being ready first."""
        yield from self.unready()
        yield from list(self.notes.values())
        for key, text in list(self.mismatched.items()):
            yield f"lease {key} is of a node configured otherwise: {text}"
        for key, reason in list(self.refused.items()):
            yield f"lease {key} is not used: {reason}"

    def workers_alive(self, device: DeviceState) -> int:
        """How many of the device's workers run."""
        return 0 if device.forwarding is None else device.workers - len(device.forwarding.failures)

    def drops(self) -> dict[str, int]:
        """Dropped packets by reason, over all devices and the firewall."""
        devices = self.devices.values()
        core = [device.forwarding.drops() for device in devices if device.forwarding]
        kernel = [device.kernel_drops() for device in devices if device.kernel_drops]
        return _sum([*core, *kernel, {"forged_encap": self.firewall_drops}])

    def host_drops(self) -> dict[str, int]:
        """What the kernel lost of this host's UDP and at the external interface; other programs' packets are among it."""
        counted = [device.host_drops() for device in self.devices.values() if device.host_drops]
        interface = {} if self.interface_drops is None else {"interface_send": self.interface_drops()}
        return _sum([*counted, interface])

    def counters(self) -> dict[str, int]:
        """The core's totals by name, over all devices."""
        return _sum(device.forwarding.counters() for device in self.devices.values() if device.forwarding)

    def peers(self) -> Iterator[tuple[DeviceState, Peer, PeerCounters | None]]:
        """Yield the peers in the forwarding tables with their counters, our own subnet left out.

        The kernel counts by no peer.
        """
        for device in list(self.devices.values()):
            forwarding = device.forwarding
            uncounted = PeerCounters() if device.workers else None
            for prefixes in pieces_of(forwarding.peers if forwarding is not None else ()):
                if forwarding is None or device.forwarding is not forwarding:
                    break  # it is closed, and being built again
                counters = forwarding.peer_counters(prefixes)
                for peer in [forwarding.peers.get(prefix) for prefix in prefixes]:
                    if peer is not None and peer.next_hop is not None:
                        yield device, peer, counters.get(peer.prefix, uncounted)


def _sum(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for part in parts:
        for name, value in part.items():
            total[name] = total.get(name, 0) + value
    return total
