"""The real core between two edges that need no privileges: socket pairs as TUN queues, UDP on loopback as underlay.

        test's end of the pair ── TUN fd │ core │ receive and source sockets ── UDP sockets of the peers

The core is node 1: underlay 127.0.0.1 (or ::1), overlay 10.5.1.0/24 and fd05:1::/64. Node 2 is 127.0.0.2 with 10.5.2.0/24
and fd05:2::/64, node 3 is 127.0.0.3 with 10.5.3.0/24 and fd05:3::/64; 127.0.0.9 holds no lease. With ::1 all are one address.
Flows keep their order only within one source socket, so there is one unless a test is about several. With `tunnel` a
third pair stands for the TAP that takes super-packets whole; a socket has no ioctls of a TUN, which the core allows for.
What must stay true: nobody sleeps. To prove that something was dropped, a good packet is sent behind it, and only that
one arrives; `expect_drops` then looks at every drop counter.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import ip_address, ip_network
from types import TracebackType
from typing import NamedTuple, Self

from dataplane.core import Forwarder, ForwarderConfig, all_offloads
from dataplane.model import Peer

own_mac = bytes.fromhex("020000000001")
peer_mac = bytes.fromhex("020000000002")
third_mac = bytes.fromhex("020000000003")
vni = 1
vxlan_out = bytes.fromhex("0800000000000100") + peer_mac + own_mac
vxlan_in = bytes.fromhex("0800000000000100") + own_mac + peer_mac
patience_s = 90.0

# Not in Python's socket module: linux/in.h, linux/udp.h.
IP_RECVTOS, UDP_SEGMENT, SO_SNDBUFFORCE, SO_RCVBUFFORCE = 13, 103, 32, 33
needs_csum, gso_tcp4, gso_tcp6, gso_udp, gso_ecn = 1, 1, 4, 5, 0x80


class Offload(NamedTuple):
    """struct virtio_net_hdr (linux/virtio_net.h), fields in its order."""

    flags: int = 0
    gso_type: int = 0
    hdr_len: int = 0
    gso_size: int = 0
    csum_start: int = 0
    csum_offset: int = 0


_vnet_header = struct.Struct("<BBHHHH")
plain = Offload()


def vxlan(packet: bytes, *, to: bytes = own_mac, source: bytes = peer_mac) -> bytes:
    """A datagram from a peer's VTEP to ours with the EtherType that the packet's version asks for."""
    ethertype = b"\x86\xdd" if packet[:1] and packet[0] >> 4 == 6 else b"\x08\x00"
    return bytes.fromhex("0800000000000100") + to + source + ethertype + packet


def all_peers(family: int = 4) -> list[Peer]:
    """The table of node 1."""
    hops = [ip_address(f"127.0.0.{n}") if family == 4 else ip_address("::1") for n in (2, 3)]
    return [
        Peer(ip_network("10.5.1.0/24"), None),
        Peer(ip_network("fd05:1::/64"), None),
        Peer(ip_network("10.5.2.0/24"), hops[0], peer_mac),
        Peer(ip_network("fd05:2::/64"), hops[0], peer_mac),
        Peer(ip_network("10.5.3.0/24"), hops[1], third_mac),
        Peer(ip_network("fd05:3::/64"), hops[1], third_mac),
    ]


def _grow(sock: socket.socket) -> None:
    """Room for a test's bursts: 4 MB, or for an ordinary user what the system allows."""
    for force, plain_option in ((SO_SNDBUFFORCE, socket.SO_SNDBUF), (SO_RCVBUFFORCE, socket.SO_RCVBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, force, 4 << 20)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, plain_option, 4 << 20)


class Edges:
    """One forwarder and the test's ends of its descriptors; a context manager.

    Attributes:
        tuns: the test's end of each TUN queue; a worker has `queues`, and as many receive sockets.
        tap, core_tap: the two ends of the TAP, the test's and the core's; only with `tunnel`.
        peer, third, stranger: UDP sockets of node 2, of node 3, and of nobody.
        target: address of the core's receive sockets.
    """

    def __init__(
        self,
        backend: str = "vxlan",
        *,
        offloads: frozenset[str] = all_offloads,
        vnet_hdr: bool = True,
        mtu: int = 1450,
        workers: int = 1,
        queues: int = 1,
        family: int = 4,
        sources: int = 1,
        tunnel: bool = False,
        start: bool = True,
    ) -> None:
        self.backend, self.family, self.vnet_hdr = backend, family, vnet_hdr
        self._owned: list[socket.socket] = []
        self.peer = self._udp("127.0.0.2", 0)
        port = self.peer.getsockname()[1]
        self.third = self._udp("127.0.0.3", port if family == 4 else 0)
        self.stranger = self._udp("127.0.0.9", 0)
        pairs = [socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET) for _ in range(workers * queues)]
        self.tuns = [pair[0] for pair in pairs]
        receives = [self._udp("127.0.0.1", 0)]
        self.target = receives[0].getsockname()
        receives += [self._udp("127.0.0.1", self.target[1]) for _ in range(workers * queues - 1)]
        own_sources = [self._udp("127.0.0.1", 0) for _ in range(sources if backend == "vxlan" else 0)]
        self.core_tuns = [pair[1] for pair in pairs]
        self._owned += [*self.tuns, *self.core_tuns]
        if tunnel:
            self.tap, self.core_tap = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._owned += [self.tap, self.core_tap]
        for edge in self._owned:
            edge.setblocking(False)
            _grow(edge)
        self.config = ForwarderConfig(
            backend=backend,
            mtu=mtu,
            port=port,
            underlay_family=family,
            tun_fds=tuple(tun.fileno() for tun in self.core_tuns),
            receive_fds=tuple(receive.fileno() for receive in receives),
            source_fds=tuple(s.fileno() for s in own_sources or receives),
            tunnel_fd=self.core_tap.fileno() if tunnel else -1,
            workers=workers,
            vnet_hdr=vnet_hdr,
            vni=vni,
            vtep_mac=own_mac,
            tunnel4=ip_address("10.5.1.0"),
            tunnel6=ip_address("fd05:1::"),
            offloads=offloads,
        )
        self.forwarder = self._forwarder(start)

    def _udp(self, address: str, port: int) -> socket.socket:
        sock = socket.socket(socket.AF_INET if self.family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        self._owned.append(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if self.family == 4:
            sock.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
            sock.bind((address, port))
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)
            sock.bind(("::1", port))
        return sock

    def _forwarder(self, start: bool) -> Forwarder:
        forwarder = Forwarder(self.config)
        forwarder.update(all_peers(self.family))
        if start:
            forwarder.start()
        return forwarder

    def renew(self, *, start: bool) -> None:
        """A fresh forwarder on the same descriptors: counters and state from zero."""
        self.forwarder.close()
        self.forwarder = self._forwarder(start)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.forwarder.close()
        for edge in self._owned:
            edge.close()

    # The overlay edge

    def send_tun(self, packet: bytes, offload: Offload = plain, *, queue: int = 0) -> None:
        """Hand the core a packet as the host would."""
        self.tuns[queue].send((_vnet_header.pack(*offload) if self.vnet_hdr else b"") + packet)

    def recv_tun(self) -> tuple[Offload, bytes]:
        """The next packet that the core gives the host, on any queue."""
        ready = select.select(self.tuns, [], [], patience_s)[0]
        assert ready, f"nothing came to the TUN; drops {self.drops()}, failures {self.forwarder.failures}"
        data = ready[0].recv(1 << 17)
        if not self.vnet_hdr:
            return plain, data
        return Offload(*_vnet_header.unpack(data[:10])), data[10:]

    def recv_tun_until(self, marker: bytes) -> list[tuple[Offload, bytes]]:
        """All packets that come before the marker."""
        came: list[tuple[Offload, bytes]] = []
        while not (came and came[-1][1] == marker):
            came.append(self.recv_tun())
        return came[:-1]

    # The TAP

    def recv_tap(self) -> bytes:
        """The next frame that leaves whole, with its virtio-net header."""
        assert select.select([self.tap], [], [], patience_s)[0], f"no frame came to the TAP; drops {self.drops()}"
        return self.tap.recv(1 << 17)

    def tap_is_empty(self) -> bool:
        """Nothing waits there; of use once something sent later has come out elsewhere."""
        return not select.select([self.tap], [], [], 0)[0]

    # The underlay edge

    def send_underlay(self, payload: bytes, *, source: socket.socket | None = None, tos: int = 0) -> None:
        """Send the core a datagram, by default from node 2."""
        sender = source or self.peer
        option = (socket.IPPROTO_IP, socket.IP_TOS) if self.family == 4 else (socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
        sender.sendmsg([payload], [(*option, struct.pack("i", tos))], 0, self.target)

    def send_train(self, payloads: list[bytes], *, source: socket.socket | None = None) -> None:
        """Send equal datagrams (the last may be shorter) in one go, so that the core may get them in one receive."""
        size = struct.pack("H", len(payloads[0]))
        control = [(socket.IPPROTO_UDP, UDP_SEGMENT, size)] if len(payloads) > 1 else []
        (source or self.peer).sendmsg([b"".join(payloads)], control, 0, self.target)

    def recv_underlay(self, *, at: socket.socket | None = None) -> tuple[bytes, int, int]:
        """The next datagram for a peer (node 2): payload, outer source port, outer TOS byte."""
        sock = at or self.peer
        assert select.select([sock], [], [], patience_s)[0], f"nothing was sent; drops {self.drops()}"
        data, ancillary, _, address = sock.recvmsg(1 << 17, 64)
        kinds = ((socket.IPPROTO_IP, socket.IP_TOS), (socket.IPPROTO_IPV6, socket.IPV6_TCLASS))
        tos = next(value[0] for level, kind, value in ancillary if (level, kind) in kinds)
        return data, address[1], tos

    def recv_underlay_until(self, marker: bytes) -> list[bytes]:
        """The inner packets for node 2 that come before the marker, which is one too."""
        came: list[bytes] = []
        while not (came and came[-1] == marker):
            came.append(self.recv_underlay()[0][22 if self.backend == "vxlan" else 0 :])
        return came[:-1]

    # Counters

    def drops(self) -> dict[str, int]:
        """Drop counters that are not 0."""
        return {reason: count for reason, count in self.forwarder.drops().items() if count}

    @contextmanager
    def expect_drops(self, **expected: int) -> Iterator[None]:
        """What happens inside moves these drop counters by these amounts and no other at all."""
        before = self.forwarder.drops()
        yield
        after = self.forwarder.drops()
        moved = {name: after[name] - before[name] for name in after if after[name] != before[name]}
        assert moved == expected

    def settled(self) -> dict[str, int]:
        """The counters once all that has come out of the core is counted: what it reads later has been (by one worker)."""
        before = self.forwarder.drops()["send_malformed"]
        self.send_tun(b"\0")
        deadline = time.monotonic() + patience_s
        while self.forwarder.drops()["send_malformed"] == before:
            assert time.monotonic() < deadline, "the core reads nothing"
        return self.forwarder.counters()

    def expect_count(self, counter: str, value: int) -> None:
        """The counter comes to exactly this value. What leaves is counted when it has left, so it may be seen before."""
        self.wait_for(counter, value)
        assert self.forwarder.counters()[counter] == value

    def wait_for(self, counter: str, value: int) -> None:
        """Until the counter has come to the value: looks, with a deadline."""
        deadline = time.monotonic() + patience_s
        while self.forwarder.counters()[counter] < value:
            assert time.monotonic() < deadline, f"{counter} stays below {value}: {self.forwarder.counters()}"
