"""Pieces of BPF programs that look at packets: bytes of a packet on the stack, compared there.

They expect r6 to be the context; each load loses r0 to r5. Offsets count from the beginning of the IP header.
"""

from __future__ import annotations

import socket

from dataplane.bpf.assembler import Assembler
from dataplane.bpf.calls import Helper

_start_net = 1  # linux/bpf.h BPF_HDR_START_NET
_length_at = 0  # struct __sk_buff
_most_link_bytes = 64  # before the IP header; what is pulled is counted from there
_udp = 17


def find_udp4(a: Assembler, outer: int, otherwise: str) -> None:
    """r9 = where the UDP header is, of an IPv4 header on the stack; `otherwise` is for all else, later fragments too."""
    a.load(1, 2, 10, outer + 9)
    a.jump_unless(2, _udp, otherwise)
    a.load(2, 2, 10, outer + 6)
    a.big_endian(2, 16)
    a.bit_and(2, 0x1FFF)
    a.jump_unless(2, 0, otherwise)
    a.load(1, 9, 10, outer)
    a.bit_and(9, 0x0F)
    a.shift_left(9, 2)


def load_bytes(a: Assembler, offset: int, register: int | None, to: int, length: int, otherwise: str) -> None:
    """Copy bytes of the packet to the stack, from `offset` (plus a register) behind the beginning of the IP header.

    The helper sees the packet's first piece alone: what a device, or a sender on a link that does not cut, left in
    others is brought there first.
    """

    def load() -> None:
        a.move(1, 6)
        _set_offset(a, 2, offset, register)
        a.move(3, 10)
        a.add(3, to)
        a.set(4, length)
        a.set(5, _start_net)
        a.call(Helper.skb_load_bytes_relative)

    loaded, within = a.new_label(), a.new_label()
    load()
    a.jump_if(0, 0, loaded)
    a.move(1, 6)
    _set_offset(a, 2, offset + length + _most_link_bytes, register)
    a.load(4, 3, 6, _length_at)
    a.jump_if_more_than(3, 2, within)
    a.move(2, 3)
    a.label(within)
    a.call(Helper.skb_pull_data)
    load()
    a.jump_unless(0, 0, otherwise)
    a.label(loaded)


def compare(a: Assembler, at: int, wanted: bytes, otherwise: str) -> None:
    """Go on if the stack has these bytes there; `at` must be a multiple of 4."""
    for word in range(0, len(wanted) & ~3, 4):
        a.load(4, 2, 10, at + word)
        a.set32(3, wanted[word : word + 4])
        a.jump_unless_same(2, 3, otherwise)
    if len(wanted) & 3:
        a.load(2, 2, 10, at + (len(wanted) & ~3))
        a.set32(3, wanted[-2:] + b"\0\0" if _little() else b"\0\0" + wanted[-2:])
        a.jump_unless_same(2, 3, otherwise)


def _set_offset(a: Assembler, to: int, offset: int, register: int | None) -> None:
    a.set(to, offset)
    if register is not None:
        a.add_register(to, register)


def _little() -> bool:
    return socket.htons(1) != 1
