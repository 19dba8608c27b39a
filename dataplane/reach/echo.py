"""ICMP echo through raw sockets: one for each of our source addresses, which all questions of this run share.

What must stay true: an answer counts only if it carries the random mark of its own question, whoever it comes from
(an anycast address answers by another one); packets have DF set, and no path MTU that the kernel remembers keeps them
from being tried. Source: RFC 792, RFC 4443, raw(7), ip(7), linux/icmp.h ICMP_FILTER, linux/icmpv6.h ICMPV6_FILTER.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import time
from contextlib import suppress

from dataplane.errors import host_error
from dataplane.model import IPAddress
from dataplane.reach.targets import Target, echo_bytes

smallest = {version: headers + 56 for version, headers in echo_bytes.items()}  # as ping(8) sends
mark_bytes = 16
_sol_raw, _filter = 255, 1  # linux/socket.h; ICMP_FILTER and ICMPV6_FILTER are both 1
_ip_mtu_discover, _ipv6_mtu_discover, _probe = 10, 23, 3  # linux/in.h, linux/in6.h: IP_PMTUDISC_PROBE
_request, _reply = {4: 8, 6: 128}, {4: 0, 6: 129}


class Echo:
    """Asks and waits; open until `close`. To be made inside of a running loop."""

    def __init__(self) -> None:
        self._sockets: dict[IPAddress, socket.socket] = {}
        self._waiting: dict[bytes, asyncio.Future[float]] = {}

    async def ask(self, target: Target, size: int, wait_s: float) -> float | None:
        """Return the seconds until the answer to a packet of `size` bytes, IP header included; None: it did not come.

        Raises:
            OSError: it could not be sent.
            HostError: no socket can be had.
        """
        version = target.ask.version
        mark = os.urandom(mark_bytes)
        opened = self._socket(target.source)
        body = mark + bytes(size - echo_bytes[version] - mark_bytes)
        packet = request(version, body)
        loop = asyncio.get_running_loop()
        self._waiting[mark] = loop.create_future()
        sent = time.perf_counter()
        try:
            opened.sendto(packet, (str(target.ask), 0))
            return await asyncio.wait_for(self._waiting[mark], wait_s) - sent
        except TimeoutError as error:
            if error.errno is not None:  # ETIMEDOUT of the socket, no wait of ours
                raise
            return None
        finally:
            del self._waiting[mark]

    def _socket(self, source: IPAddress) -> socket.socket:
        if source not in self._sockets:
            self._sockets[source] = opened = _open(source)
            asyncio.get_running_loop().add_reader(opened, self._read, opened, source.version)
        return self._sockets[source]

    def _read(self, opened: socket.socket, version: int) -> None:
        with suppress(OSError):  # nothing more, or an error about a packet: its answer does not come
            while True:
                mark = reply_mark(version, opened.recv(65535))
                waiting = self._waiting.get(mark)
                if waiting is not None and not waiting.done():
                    waiting.set_result(time.perf_counter())

    def close(self) -> None:
        """Let go of the sockets."""
        for opened in self._sockets.values():
            asyncio.get_running_loop().remove_reader(opened)
            opened.close()
        self._sockets.clear()


def request(version: int, body: bytes) -> bytes:
    """Return an echo request; the checksum of ICMPv6 is the kernel's work."""
    packet = struct.pack("!BBHHH", _request[version], 0, 0, 0, 0) + body
    if version == 6:
        return packet
    even = packet + bytes(len(packet) % 2)
    total = sum(struct.unpack(f"!{len(even) // 2}H", even))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return packet[:2] + struct.pack("!H", total ^ 0xFFFF) + packet[4:]


def reply_mark(version: int, packet: bytes) -> bytes:
    """Return the mark in what a raw socket read, b"" if it is no echo reply; IPv4 comes with its header."""
    if version == 4:
        packet = packet[(packet[0] & 15) * 4 :] if packet else b""
    if len(packet) < 8 + mark_bytes or packet[0] != _reply[version]:
        return b""
    return packet[8 : 8 + mark_bytes]


def _open(source: IPAddress) -> socket.socket:
    kinds = {4: (socket.AF_INET, socket.IPPROTO_ICMP), 6: (socket.AF_INET6, socket.IPPROTO_ICMPV6)}
    domain, protocol = kinds[source.version]
    try:
        opened = socket.socket(domain, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    except OSError as error:
        needed = "; this needs CAP_NET_RAW" if isinstance(error, PermissionError) else ""
        raise host_error(f"no raw socket: {error.strerror}{needed}", error.errno) from error
    try:
        if source.version == 4:
            opened.setsockopt(_sol_raw, _filter, struct.pack("=I", 0xFFFFFFFF ^ 1 << _reply[4]))
            opened.setsockopt(socket.IPPROTO_IP, _ip_mtu_discover, _probe)
        else:
            word, bit = divmod(_reply[6], 32)
            blocked = [0xFFFFFFFF ^ (1 << bit if number == word else 0) for number in range(8)]
            opened.setsockopt(socket.IPPROTO_ICMPV6, _filter, struct.pack("=8I", *blocked))
            opened.setsockopt(socket.IPPROTO_IPV6, _ipv6_mtu_discover, _probe)
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_DONTFRAG, 1)
        try:
            opened.bind((str(source), 0))
        except OSError as error:
            # host-gw on a node without pods: no cni0 yet. The kernel then takes the underlay's address.
            if error.errno != errno.EADDRNOTAVAIL:
                raise
    except OSError as error:
        opened.close()
        raise host_error(f"cannot set up a raw socket from {source}: {error.strerror}", error.errno) from error
    return opened
