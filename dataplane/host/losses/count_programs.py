"""BPF programs that count what passes a device, in packets: a train or super-packet is what it is cut into.

`departing_program` runs at the egress of the external interface and counts datagrams of ours; there the kernel has found
the next hop's MAC already. `arriving_program` runs at its ingress and counts what comes for our sockets, `all_program`
whatever leaves by a device. None touches a packet. Offsets are those of RFC 791, 8200, 768, 7348 and 9293.
"""

from __future__ import annotations

import socket
from collections.abc import Collection
from dataclasses import dataclass

from dataplane.bpf.assembler import Assembler
from dataplane.bpf.packet_bytes import compare, find_udp4, load_bytes
from dataplane.model import IPAddress

value_bytes = 8
_next = -1  # linux/bpf.h TCX_NEXT
_protocol_at, _segments_at, _gso_size_at = 16, 164, 176  # struct __sk_buff
_udp, _fragment = 17, 44
_ethertypes = {4: 0x0800, 6: 0x86DD}
_kind_at, _for_us = 4, 0  # linux/if_packet.h PACKET_HOST
_header_bytes, _source_at, _destination_at = {4: 20, 6: 40}, {4: 12, 6: 8}, {4: 16, 6: 24}
_to_inner = 30  # UDP, VXLAN, Ethernet
# Places on the stack, from the frame pointer; loads there must be aligned.
_outer, _header, _inner, _key, _end = -48, -56, -80, -88, -96


@dataclass(frozen=True, slots=True)
class Departing:
    """Which datagrams are ours.

    Attributes:
        wire: "udp" or "vxlan".
        local: the address that they leave from.
        port: where they go.
        sources: the ports that they leave from; empty where the kernel's device chooses them.
        vni: of the kernel's device; None where `sources` tell.
    """

    wire: str
    local: IPAddress
    port: int
    sources: Collection[int] = ()
    vni: int | None = None


def departing_program(departing: Departing, count_fd: int) -> bytes:
    """The code of the one for the external interface; `count_fd` is an array map of one 64-bit number."""
    version: int = departing.local.version
    a = Assembler()
    a.move(6, 1)
    _find_datagram(a, version, _source_at[version], departing.local, departing.port)
    if departing.vni is not None:
        load_bytes(a, 12, 9, _header, 4, "pass")
        a.load(4, 2, 10, _header)
        a.big_endian(2, 32)
        a.shift_right(2, 8)
        a.jump_unless(2, departing.vni, "pass")
    else:
        a.load(2, 2, 10, _header)
        for source in departing.sources:
            a.jump_if(2, socket.htons(source), "ours")
        a.jump("pass")
        a.label("ours")
    a.add(9, _to_inner if departing.wire == "vxlan" else 8)
    _count(a, count_fd)
    return a.code()


def arriving_program(wire: str, local: IPAddress, port: int, count_fd: int) -> bytes:
    """The code of the one that counts datagrams to `local` and `port`; a super-packet that nobody cut is one.

    What sockets see as a train has the length of many inner packets; that of a super-packet is one inner packet's.
    """
    version: int = local.version
    a = Assembler()
    a.move(6, 1)
    a.load(4, 2, 6, _kind_at)
    a.jump_unless(2, _for_us, "pass")
    _find_datagram(a, version, _destination_at[version], local, port)
    a.load(4, 7, 6, _segments_at)
    a.jump_if(7, 0, "one")
    a.load(2, 8, 10, _header + 4)
    a.big_endian(8, 16)
    overhead = _to_inner if wire == "vxlan" else 8
    load_bytes(a, overhead, 9, _inner, 20, "count")
    a.load(1, 2, 10, _inner)
    a.shift_right(2, 4)
    a.jump_if(2, 6, "inner IPv6")
    a.load(2, 2, 10, _inner + 2)
    a.big_endian(2, 16)
    a.jump("length")
    a.label("inner IPv6")
    a.load(2, 2, 10, _inner + 4)
    a.big_endian(2, 16)
    a.add(2, 40)
    a.label("length")
    a.add(2, overhead)
    a.jump_unless_same(2, 8, "count")
    a.label("one")
    a.set(7, 1)
    _add(a, count_fd)
    return a.code()


def all_program(count_fd: int, *, with_groups: bool) -> bytes:
    """The code of the one that counts all IP packets that leave by a device. `with_groups`: multicast too."""
    a = Assembler()
    a.move(6, 1)
    if not with_groups:
        _leave_out_groups(a)
    a.set(9, 0)
    _count(a, count_fd)
    return a.code()


def _leave_out_groups(a: Assembler) -> None:
    a.load(4, 2, 6, _protocol_at)
    a.jump_if(2, socket.htons(_ethertypes[6]), "to IPv6")
    a.jump_unless(2, socket.htons(_ethertypes[4]), "pass")
    load_bytes(a, _destination_at[4], None, _header, 4, "pass")
    a.load(1, 2, 10, _header)
    a.jump_if_more(2, 223, "pass")
    a.jump("to one")
    a.label("to IPv6")
    load_bytes(a, _destination_at[6], None, _header, 4, "pass")
    a.load(1, 2, 10, _header)
    a.jump_if(2, 0xFF, "pass")
    a.label("to one")


def _count(a: Assembler, count_fd: int) -> None:
    """Count the packets in what r9 is the inner IP header's place of; also where the kernel has not worked out yet how many."""
    a.load(4, 7, 6, _segments_at)
    a.jump_unless(7, 0, "count")
    a.set(7, 1)
    a.load(4, 8, 6, _gso_size_at)
    a.jump_if(8, 0, "count")
    _work_out_segments(a)
    _add(a, count_fd)


def _add(a: Assembler, count_fd: int) -> None:
    """Count r7, and end."""
    a.label("count")
    a.store(4, 10, _key, 0)
    a.lookup(count_fd, 10, _key)
    a.jump_if(0, 0, "pass")
    a.atomic_add(0, 0, 7)
    a.label("pass")
    a.set(0, _next)
    a.exit()


def _find_datagram(a: Assembler, version: int, address_at: int, address: IPAddress, port: int) -> None:
    """r9 = where the UDP header is, a copy of which is at `_header`, of a datagram with that address and to that port."""
    a.load(4, 2, 6, _protocol_at)
    a.jump_unless(2, socket.htons(_ethertypes[version]), "pass")
    load_bytes(a, 0, None, _outer, _header_bytes[version], "pass")
    if version == 4:
        find_udp4(a, _outer, "pass")
    else:
        _find_udp6(a)
    compare(a, _outer + address_at, address.packed, "pass")
    load_bytes(a, 0, 9, _header, 8, "pass")
    a.load(2, 2, 10, _header + 2)
    a.jump_unless(2, socket.htons(port), "pass")


def _find_udp6(a: Assembler) -> None:
    """r9 = where the UDP header is. A datagram that leaves in pieces is its first one."""
    a.set(9, 40)
    a.load(1, 2, 10, _outer + 6)
    a.jump_if(2, _udp, "udp")
    a.jump_unless(2, _fragment, "pass")
    load_bytes(a, 40, None, _header, 8, "pass")
    a.load(1, 2, 10, _header)
    a.jump_unless(2, _udp, "pass")
    a.load(2, 2, 10, _header + 2)
    a.big_endian(2, 16)
    a.bit_and(2, 0xFFF8)
    a.jump_unless(2, 0, "pass")
    a.set(9, 48)
    a.label("udp")


def _work_out_segments(a: Assembler) -> None:
    """r7 = packets of the super-packet at r9 that are r8 bytes of payload each; 1 if it has no room for its headers."""
    load_bytes(a, 0, 9, _inner, 20, "count")
    a.load(1, 2, 10, _inner)
    a.shift_right(2, 4)
    a.jump_if(2, 6, "inner IPv6")
    a.load(1, 3, 10, _inner + 9)
    a.load(1, 4, 10, _inner)
    a.bit_and(4, 0x0F)
    a.shift_left(4, 2)
    a.load(2, 5, 10, _inner + 2)
    a.big_endian(5, 16)
    a.jump("transport")
    a.label("inner IPv6")
    a.load(1, 3, 10, _inner + 6)
    a.set(4, 40)
    a.load(2, 5, 10, _inner + 4)
    a.big_endian(5, 16)
    a.add(5, 40)
    a.label("transport")
    a.add_register(5, 9)  # the packet's end
    a.store_register(8, 10, _end, 5)
    a.add_register(9, 4)
    a.set(4, 8)
    a.jump_if(3, _udp, "payload")
    load_bytes(a, 12, 9, _header, 4, "count")
    a.load(1, 4, 10, _header)
    a.shift_right(4, 4)
    a.shift_left(4, 2)
    a.label("payload")
    a.add_register(9, 4)
    a.load(8, 5, 10, _end)
    a.jump_if_more_than(9, 5, "count")
    a.subtract_register(5, 9)
    a.add_register(5, 8)
    a.add(5, -1)
    a.divide_register(5, 8)
    a.move(7, 5)
