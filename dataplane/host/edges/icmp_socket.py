"""A raw socket that hears of datagrams of ours that could not be delivered: ICMP "destination unreachable", of one port.

Of the whole network namespace: what our sockets sent, and the kernel's vxlan. (UDP sockets would be told of the one only,
and ours are not: they are not connected, and have IP_RECVERR off, so that no error ever fails a send.) What must stay true:
everything else is thrown away before it is queued, and what is queued is bounded.
Source: raw(7), linux/icmp.h ICMP_FILTER, linux/icmpv6.h ICMPV6_FILTER; linux/filter.h.
"""

from __future__ import annotations

import array
import socket
import struct
from collections.abc import Iterator
from contextlib import suppress
from ipaddress import IPv6Address, ip_address
from typing import Literal

from dataplane.errors import HostError, host_error
from dataplane.host.edges.icmp_errors import Unreachable, enough_bytes, ipv4_type, ipv6_type, read_ipv4, read_ipv6

buffer_bytes = 1 << 20  # some hundred messages
_sol_raw, _icmp_filter = 255, 1  # linux/socket.h, linux/icmp.h
_icmpv6_filter = 1  # linux/icmpv6.h, at level IPPROTO_ICMPV6
_so_attach_filter, _so_rcvbufforce = 26, 33  # asm-generic/socket.h
# linux/bpf_common.h: the classic instructions.
_header_to_x, _load_byte_x, _load_half_x, _load_half = 0xB1, 0x50, 0x48, 0x28
_and, _shift_left, _add_x, _to_x, _jump_equal, _return = 0x54, 0x64, 0x0C, 0x07, 0x15, 0x06


class IcmpSocket:
    """Open from the start.

    Args:
        family: 4 or 6, of the underlay.
        port: destination port of the datagrams in question.
    Raises:
        HostFault: not allowed (CAP_NET_RAW is needed), or no such protocol.
        HostError: anything else.
    """

    def __init__(self, family: Literal[4, 6], port: int) -> None:
        self._family = family
        kinds = {4: (socket.AF_INET, socket.IPPROTO_ICMP), 6: (socket.AF_INET6, socket.IPPROTO_ICMPV6)}
        domain, protocol = kinds[family]
        try:
            self._socket = socket.socket(domain, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
        except PermissionError as error:
            raise host_error(f"no raw socket: {error.strerror}; this needs CAP_NET_RAW", error.errno) from error
        except OSError as error:
            raise host_error(f"no raw socket: {error.strerror}", error.errno) from error
        try:
            self._set_up(port)
        except OSError as error:
            self._socket.close()
            raise host_error(f"cannot filter a raw socket: {error.strerror}", error.errno) from error

    def _set_up(self, port: int) -> None:
        if self._family == 4:
            self._socket.setsockopt(_sol_raw, _icmp_filter, struct.pack("=I", 0xFFFFFFFF ^ 1 << ipv4_type))
        else:
            blocked = struct.pack("=8I", 0xFFFFFFFF ^ 1 << ipv6_type, *[0xFFFFFFFF] * 7)
            self._socket.setsockopt(socket.IPPROTO_ICMPV6, _icmpv6_filter, blocked)
        code = array.array("B", port_program(self._family, port))
        self._socket.setsockopt(
            socket.SOL_SOCKET, _so_attach_filter, struct.pack("HP", len(code) // 8, code.buffer_info()[0])
        )
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)
        with suppress(PermissionError):  # past net.core.rmem_max
            self._socket.setsockopt(socket.SOL_SOCKET, _so_rcvbufforce, buffer_bytes)

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()

    def read(self, most: int) -> Iterator[Unreachable | None]:
        """Yield the messages that wait, `most` at most, None for one that cannot be made out; raises `HostError`."""
        for _ in range(most):
            try:
                data, sender = self._socket.recvfrom(enough_bytes)
            except BlockingIOError:
                return
            except OSError as error:
                raise HostError(f"cannot read a raw socket: {error.strerror}") from error
            yield read_ipv4(data) if self._family == 4 else read_ipv6(data, _plain(sender[0]))


def port_program(family: Literal[4, 6], port: int) -> bytes:
    """Return struct sock_filter[]: takes a message that quotes a datagram to this UDP port.

    It sees an IPv4 packet from its header on, and of an IPv6 packet the ICMPv6 message (net/ipv4/raw.c, net/ipv6/raw.c). A
    message that ends before is refused: reading past it ends the program with 0.
    """
    program = [(_load_half, 0, 0, 8 + 40 + 2)]
    if family == 4:
        program = [
            (_header_to_x, 0, 0, 0),  # X = length of the outer header
            (_load_byte_x, 0, 0, 8),
            (_and, 0, 0, 0x0F),
            (_shift_left, 0, 0, 2),
            (_add_x, 0, 0, 0),
            (_to_x, 0, 0, 0),  # and of the quoted one
            (_load_half_x, 0, 0, 8 + 2),
        ]
    program += [(_jump_equal, 0, 1, port), (_return, 0, 0, 0xFFFFFFFF), (_return, 0, 0, 0)]
    return b"".join(struct.pack("=HBBI", *op) for op in program)


def _plain(text: str) -> IPv6Address:
    """An address without the zone that the kernel's answer may carry."""
    address = ip_address(text.partition("%")[0])
    assert isinstance(address, IPv6Address)  # noqa: S101 (of an AF_INET6 socket)
    return address
