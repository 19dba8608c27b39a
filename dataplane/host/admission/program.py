"""The filter in front of a kernel vxlan device as a BPF program; `admission.py` says what it lets in.

It runs for every packet of the external interface, so what is not UDP to our port leaves it first. The kernel's device
hears every address of this host, and groups and broadcasts too: so all of them are looked at, and what the host forwards
is not. Offsets are those of RFC 791, 8200 and 768.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from enum import IntEnum

from dataplane.bpf.assembler import Assembler
from dataplane.bpf.packet_bytes import find_udp4, load_bytes
from dataplane.host.admission.checks import (
    Guarded,
    check_frame,
    check_local,
    check_packet,
    check_sender,
    ethertypes,
    header,
    header_bytes,
    key,
    outer,
    vxlan,
    vxlan_bytes,
)
from dataplane.host.admission.train import go_if_train, walk_train

reasons = (
    "receive_unknown_sender",
    "receive_short",
    "receive_vxlan_flags",
    "receive_inner_mac",
    "receive_inner_type",
    "receive_malformed",
    "receive_inner_source",
    "receive_inner_destination",
    "receive_multicast",
)
_next, _drop = -1, 2  # linux/bpf.h TCX_NEXT, TCX_DROP; TC_ACT_UNSPEC and TC_ACT_SHOT are the same
_kind_at, _protocol_at, _segments_at = 4, 16, 164  # struct __sk_buff
_for_others = 3  # linux/if_packet.h PACKET_OTHERHOST
_udp, _fragment, _authentication = 17, 44, 51
_extensions = (0, 43, 60, _authentication, 135, 139, 140)  # IANA: IPv6 extension headers that have a length
_most_extensions = 8


class Tells(IntEnum):
    """What the kernel tells programs of packets that are several, each with what stands above it."""

    nothing = 0
    count = 1
    """how many: what is dropped counts as the packets in it (Linux 5.1)"""
    size = 2
    """how long each is: every frame of a train is judged (Linux 5.7)"""


@dataclass(frozen=True, slots=True)
class MapFds:
    """Descriptors of the filter's maps.

    Attributes:
        locals: a trie of what this host takes in.
        senders: underlay address to what it holds; its own address is its too.
        sources: a trie of overlay prefixes to who holds them.
        drops: counters in the order of `reasons`.
    """

    locals: int
    senders: int
    sources: int
    drops: int


def filter_program(guarded: Guarded, maps: MapFds, link_bytes: int, tells: Tells) -> bytes:
    """The filter's code. `link_bytes`: of the interface's frames, before the IP header."""
    link = guarded.link
    version: int = link.local.version
    size = header_bytes[version]
    a = Assembler()
    a.move(6, 1)
    a.load(4, 2, 6, _kind_at)
    a.jump_if(2, _for_others, "pass")
    a.load(4, 2, 6, _protocol_at)
    a.jump_unless(2, socket.htons(ethertypes[version]), "pass")
    load_bytes(a, 0, None, outer, size, "pass")
    if version == 4:
        find_udp4(a, outer, "pass")
    else:
        _find_udp6(a)
        check_local(a, guarded, maps.locals, "pass")
        a.jump("receive_malformed")

    a.label("udp")
    # All that is to be looked at, in one piece if it is there.
    load_bytes(a, 0, 9, header, 8 + vxlan_bytes + size, "little")
    _check_ends(a, guarded, maps.locals)
    if tells >= Tells.size:
        go_if_train(a)
        a.label("whole")
    check_sender(a, guarded, maps.senders, "pass")
    check_frame(a, guarded)
    check_packet(a, guarded, maps.sources)
    a.label("pass")
    a.set(0, _next)
    a.exit()
    a.label("little")
    load_bytes(a, 0, 9, header, 8, "pass")
    _check_ends(a, guarded, maps.locals)
    load_bytes(a, 8, 9, vxlan, vxlan_bytes, "receive_short")
    check_sender(a, guarded, maps.senders, "pass")
    check_frame(a, guarded)
    a.jump("receive_short")
    if tells >= Tells.size:
        walk_train(a, guarded, maps.senders, maps.sources, link_bytes)
    _count_and_drop(a, maps.drops, tells >= Tells.count)
    return a.code()


def _check_ends(a: Assembler, guarded: Guarded, locals_: int) -> None:
    """Go to "pass" with what is not for our port and this host; the UDP header is there."""
    a.load(2, 2, 10, header + 2)
    a.jump_unless(2, socket.htons(guarded.link.port), "pass")
    check_local(a, guarded, locals_, "pass")


def _count_and_drop(a: Assembler, drops: int, counts_segments: bool) -> None:
    for index, reason in enumerate(reasons):
        if not a.wants(reason):
            continue
        a.label(reason)
        a.set(2, index)
        a.jump("count")
    a.label("count")
    a.store_register(4, 10, key, 2)
    a.lookup(drops, 10, key)
    a.jump_if(0, 0, "drop")
    if counts_segments:
        a.load(4, 2, 6, _segments_at)
        a.jump_unless(2, 0, "counted")  # 0 where it is neither, or comes from a device that does not say
    a.set(2, 1)
    a.label("counted")
    a.atomic_add(0, 0, 2)
    a.label("drop")
    a.set(0, _drop)
    a.exit()


def _find_udp6(a: Assembler) -> None:
    """r9 = where the UDP header is; goes on below where there are more extension headers than we look behind."""
    a.load(1, 8, 10, outer + 6)
    a.set(9, 40)
    for step in range(_most_extensions):
        a.jump_if(8, _udp, "udp")
        a.jump_if(8, _fragment, f"fragment {step}")
        for kind in _extensions:
            a.jump_if(8, kind, f"extension {step}")
        a.jump("pass")
        a.label(f"fragment {step}")
        load_bytes(a, 0, 9, header, 8, "pass")
        a.load(2, 2, 10, header + 2)
        a.big_endian(2, 16)
        a.bit_and(2, 0xFFF8)
        a.jump_unless(2, 0, "pass")
        a.load(1, 8, 10, header)
        a.add(9, 8)
        a.jump(f"step {step}")
        a.label(f"extension {step}")
        load_bytes(a, 0, 9, header, 2, "pass")
        a.load(1, 2, 10, header + 1)
        a.jump_if(8, _authentication, f"authentication {step}")
        a.add(2, 1)
        a.shift_left(2, 3)
        a.jump(f"length {step}")
        a.label(f"authentication {step}")
        a.add(2, 2)
        a.shift_left(2, 2)
        a.label(f"length {step}")
        a.add_register(9, 2)
        a.load(1, 8, 10, header)
        a.label(f"step {step}")
    a.jump_if(8, _udp, "udp")
