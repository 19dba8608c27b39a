"""The real C core between two edges that need no privileges: a socket pair as TUN, UDP sockets on loopback as underlay.

The core is peer 127.0.0.1 with 10.5.1.0/24 and fd05:1::/64; the other node is 127.0.0.2 with 10.5.2.0/24 and fd05:2::/64.
What must stay true: to see that something was dropped, a good packet is sent behind it and only that one comes out.
"""

from __future__ import annotations

import select
import socket
import struct
from ipaddress import ip_address, ip_network
from types import TracebackType
from typing import Self

from dataplane.core import Forwarder, ForwarderConfig, all_offloads
from dataplane.model import Peer

own_mac = bytes.fromhex("020000000001")
peer_mac = bytes.fromhex("020000000002")
vnet_header = struct.Struct("<BBHHHH")
patience_s = 5.0
IP_RECVTOS = 13


class Edges:
    """One forwarder and the test's ends of its descriptors; a context manager."""

    def __init__(
        self, backend: str, *, offloads: frozenset[str] = all_offloads, vnet_hdr: bool = True, mtu: int = 1450
    ) -> None:
        self.vnet_hdr = vnet_hdr
        self.backend = backend
        ours, self.tun = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        receive = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        receive.bind(("127.0.0.1", 0))
        receive.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
        self.peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.peer.bind(("127.0.0.2", 0))
        self.peer.setsockopt(socket.IPPROTO_IP, IP_RECVTOS, 1)
        self.target = receive.getsockname()
        sources = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(16 if backend == "vxlan" else 0)]
        for source in sources:
            source.bind(("127.0.0.1", 0))
        for edge in (ours, receive, self.tun, self.peer):
            edge.setblocking(False)
        self._owned = [ours, receive, self.peer, self.tun, *sources]
        self.forwarder = Forwarder(
            ForwarderConfig(
                backend=backend,
                mtu=mtu,
                port=self.peer.getsockname()[1],
                underlay_family=4,
                tun_fds=(ours.fileno(),),
                receive_fds=(receive.fileno(),),
                source_fds=tuple(s.fileno() for s in sources) or (receive.fileno(),),
                vnet_hdr=vnet_hdr,
                vtep_mac=own_mac,
                tunnel4=ip_address("10.5.1.0"),
                tunnel6=ip_address("fd05:1::"),
                offloads=offloads,
            )
        )
        self.forwarder.update(
            [
                Peer(ip_network("10.5.1.0/24"), None),
                Peer(ip_network("fd05:1::/64"), None),
                Peer(ip_network("10.5.2.0/24"), ip_address("127.0.0.2"), peer_mac),
                Peer(ip_network("fd05:2::/64"), ip_address("127.0.0.2"), peer_mac),
            ]
        )
        self.forwarder.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.forwarder.close()
        for edge in self._owned:
            edge.close()

    def send_tun(self, packet: bytes, header: tuple[int, int, int, int, int, int] = (0, 0, 0, 0, 0, 0)) -> None:
        """Hand the core a packet as the host would; `header`: flags, gso_type, hdr_len, gso_size, csum_start, csum_offset."""
        self.tun.send((vnet_header.pack(*header) if self.vnet_hdr else b"") + packet)

    def take_tun(self) -> bytes:
        """The next packet that the core gives the host, without its virtio-net header."""
        assert select.select([self.tun], [], [], patience_s)[0], f"nothing came; drops {self.dropped()}"
        data = self.tun.recv(70000)
        return data[vnet_header.size :] if self.vnet_hdr else data

    def send_underlay(self, payload: bytes, *, tos: int = 0, source: socket.socket | None = None) -> None:
        """Send the core a datagram, by default from its peer."""
        sender = source or self.peer
        sender.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
        sender.sendto(payload, self.target)

    def take_underlay(self) -> tuple[bytes, int, int]:
        """The next datagram for the peer: payload, outer source port, outer TOS byte."""
        assert select.select([self.peer], [], [], patience_s)[0], f"nothing came; drops {self.dropped()}"
        data, ancillary, _, address = self.peer.recvmsg(70000, 64)
        tos = next(value[0] for level, kind, value in ancillary if (level, kind) == (socket.IPPROTO_IP, socket.IP_TOS))
        return data, address[1], tos

    def dropped(self) -> dict[str, int]:
        """Drop counters that are not 0."""
        return {reason: count for reason, count in self.forwarder.drops().items() if count}
