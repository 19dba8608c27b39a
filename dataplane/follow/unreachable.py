"""What ICMP says of one device's peers: counted, shown, and logged when it begins and when it is over.

Once a second the messages that came are read. A peer is unreachable from the first one on until something comes from it
again, or until it is sent to for a while without another. What must stay true: nobody proves to be who sends ICMP, so
nothing but status, metrics and log follows from it; a flood, forged or not, costs a bounded share of the loop and a bounded
number of log lines, and what it crowds out is at most somebody else's message.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from dataclasses import dataclass
from itertools import islice
from typing import Literal, Protocol

from dataplane.backends.base import DevicePlan
from dataplane.errors import HostFault
from dataplane.host.edges.icmp_errors import Unreachable
from dataplane.host.edges.icmp_socket import IcmpSocket
from dataplane.model import IPAddress, IPNetwork
from dataplane.observe.forwarding import Forwarding
from dataplane.observe.state import NodeState, PeerUnreachable, unreachable_words
from dataplane.runtime.clock import Clock

log = logging.getLogger(__name__)

look_s = 1.0
most_a_look = 1000  # messages, and peers that are looked at again; some 10 µs each
slice_length = 100  # of them, between which everything else has its turn
# A host sends one a second for each destination (icmp_ratelimit). One that only rejects what we send is heard all the same:
# before something from it counts, it must have been quiet for so long.
calm_s = 5.0
silent_s = 30.0  # of sending to it without another; where the kernel carries the packets, since the last
named_a_minute = 20


class Messages(Protocol):
    """What is used of `host.icmp_socket.IcmpSocket`."""

    def read(self, most: int) -> Iterator[Unreachable | None]:
        """Yield what waits."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...


@dataclass(slots=True)
class _Trouble:
    """What is known of one unreachable peer.

    Attributes:
        told: what the status shows.
        prefixes: the peer's.
        heard: whether messages came since the last look.
        packets: sent and received, as of the look after the last message; None where the kernel carries them.
        sent: when it was first seen that something was sent since; None before.
        named: whether the log names it.
    """

    told: PeerUnreachable
    prefixes: tuple[IPNetwork, ...]
    heard: bool = False
    packets: tuple[int, int] | None = None
    sent: float | None = None
    named: bool = False


class UnreachableWatch:
    """Follows the ICMP errors about one device's peers.

    Args:
        open_messages: opens the socket for an underlay family and a port; raises `HostError`.
    """

    def __init__(
        self,
        plan: DevicePlan,
        state: NodeState,
        clock: Clock,
        open_messages: Callable[[Literal[4, 6], int], Messages] = IcmpSocket,
    ) -> None:
        self._plan = plan
        self._state = state
        self._clock = clock
        self._open = open_messages
        self._never = asyncio.Event()
        self._peers: dict[IPAddress, _Trouble] = {}  # in the order in which they are looked at
        self._minute = self._named = 0

    async def run(self) -> None:
        """Read and look, for ever; where reading is not allowed, say so and do nothing. Raises `HostError`."""
        subject = f"icmp {self._plan.name}"
        try:
            with closing(self._open(self._plan.underlay_family, self._plan.port)) as messages:
                while True:
                    await self._clock.wait(self._never, look_s)
                    await self.look(messages)
        except HostFault as error:
            text = f"{self._plan.name}: ICMP errors about peers are not read: {error}"
            self._state.notes[subject] = text
            log.info("%s", text)
            await self._never.wait()
        finally:
            self._state.notes.pop(subject, None)

    async def look(self, messages: Messages) -> None:
        """Take in what waits, then find out for whom it is over. Raises `HostError`."""
        await self._take(messages)
        await self._judge()

    async def _take(self, messages: Messages) -> None:
        heard = []
        for number, message in enumerate(messages.read(most_a_look)):
            if number % slice_length == slice_length - 1:
                await asyncio.sleep(0)
            if message is not None and self._concerns_us(message):
                heard.append(message)
        await self._add({message.destination for message in heard}.difference(self._peers))
        for message in heard:
            if message.destination in self._peers:
                self._note(message)

    async def _add(self, addresses: Collection[IPAddress]) -> None:
        """Take up those that are peers'."""
        forwarding = self._forwarding
        if forwarding is None or not addresses:
            return
        found: dict[IPAddress, list[IPNetwork]] = {}
        for number, (prefix, peer) in enumerate(list(forwarding.peers.items())):
            if number % (10 * slice_length) == 10 * slice_length - 1:  # much less work each
                await asyncio.sleep(0)
            if peer.next_hop is not None and peer.next_hop in addresses:
                found.setdefault(peer.next_hop, []).append(prefix)
        now = self._clock.now()
        for address, prefixes in found.items():
            self._peers[address] = _Trouble(PeerUnreachable(address, now, now), tuple(prefixes))

    def _concerns_us(self, message: Unreachable) -> bool:
        """Whether it is about what we sent. That a port is closed only the host itself can know."""
        if (message.source, message.port) != (self._plan.underlay_address, self._plan.port):
            return False
        return message.reason != "port_closed" or message.said_by == message.destination

    def _note(self, message: Unreachable) -> None:
        trouble = self._peers[message.destination]
        told, now = trouble.told, self._clock.now()
        begins = told.reason is None
        told.count += 1
        told.reason, told.said_by, told.last = message.reason, message.said_by, now
        trouble.heard = True
        self._state.devices[self._plan.name].unreachable[message.destination] = told
        if begins:
            told.since = now
            text = f"{_name(message.destination, trouble)}: {unreachable_words[message.reason]}"
            if message.said_by != message.destination:
                own = message.said_by == self._plan.underlay_address
                text += f"; says {'this node' if own else message.said_by}"
            trouble.named = self._warn(text)

    def _warn(self, text: str) -> bool:
        minute = int(self._clock.now() // 60)
        if minute != self._minute:
            self._minute, self._named = minute, 0
        self._named += 1
        if self._named <= named_a_minute:
            log.warning("%s", text)
        elif self._named == named_a_minute + 1:
            log.warning("and more peers are unreachable; `dataplane status` shows them")
        return self._named <= named_a_minute

    async def _judge(self) -> None:
        """End what is over, and forget who is no peer any more."""
        for number, address in enumerate(list(islice(self._peers, most_a_look))):
            if number % slice_length == slice_length - 1:
                await asyncio.sleep(0)
            forwarding = self._forwarding
            if forwarding is None:
                return
            trouble = self._peers.pop(address)
            if not all(_next_hop(forwarding, prefix) == address for prefix in trouble.prefixes):
                self._state.devices[self._plan.name].unreachable.pop(address, None)
                continue
            self._peers[address] = trouble  # behind those whose turn is next
            over = self._over(trouble, forwarding) if trouble.told.reason is not None else ""
            if over:
                trouble.told.reason = None
                if trouble.named:
                    log.info("%s: %s", _name(address, trouble), over)

    def _over(self, trouble: _Trouble, forwarding: Forwarding) -> str:
        """Say why it is over; "" if it is not."""
        now, packets = self._clock.now(), self._packets(trouble, forwarding)
        if trouble.heard or packets is None or trouble.packets is None:
            trouble.heard, trouble.packets = False, packets
            trouble.sent = None if packets is not None else trouble.told.last
        elif packets[0] < trouble.packets[0] or packets[1] < trouble.packets[1]:  # a device that was built anew
            trouble.packets = packets
        if packets is not None and trouble.packets is not None:
            if packets[0] > trouble.packets[0] and trouble.sent is None:
                trouble.sent = now
            # abs: a moment in the future means that the clock was set back.
            if packets[1] > trouble.packets[1] and abs(now - trouble.told.last) >= calm_s:
                return "packets come from it again"
        if trouble.sent is not None and abs(now - trouble.sent) >= silent_s:
            return f"no ICMP error about it for {silent_s:.0f} s"
        return ""

    def _packets(self, trouble: _Trouble, forwarding: Forwarding) -> tuple[int, int] | None:
        """Sent to it and received from it so far; the kernel counts by no peer."""
        if not self._state.devices[self._plan.name].workers:
            return None
        counters = forwarding.peer_counters(trouble.prefixes).values()
        return sum(each.tx_packets for each in counters), sum(each.rx_packets for each in counters)

    @property
    def _forwarding(self) -> Forwarding | None:
        return self._state.devices[self._plan.name].forwarding


def _next_hop(forwarding: Forwarding, prefix: IPNetwork) -> IPAddress | None:
    peer = forwarding.peers.get(prefix)
    return None if peer is None else peer.next_hop


def _name(address: IPAddress, trouble: _Trouble) -> str:
    return f"peer {' '.join(map(str, trouble.prefixes))} at {address}"
