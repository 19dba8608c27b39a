"""The filter in front of a kernel vxlan device as a BPF program; `admission.py` says what it lets in.

It runs for every packet of the external interface, so what is not UDP to our port leaves it first. The kernel's device
hears every address of this host, and groups and broadcasts too: so all of them are looked at, and what the host forwards
is not. Offsets are those of RFC 791, 8200, 768 and 7348.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Network

from dataplane.bpf import Helper
from dataplane.bpf_assembler import Assembler
from dataplane.model import IPNetwork, VxlanLink

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
value_bytes = 24  # underlay address (16), VTEP MAC (6), nothing (2)
_next, _drop = -1, 2  # linux/bpf.h TCX_NEXT, TCX_DROP; TC_ACT_UNSPEC and TC_ACT_SHOT are the same
_start_net = 1  # BPF_HDR_START_NET
_length_at, _kind_at, _protocol_at, _segments_at = 0, 4, 16, 164  # struct __sk_buff; the last since Linux 5.1
_most_link_bytes = 64  # before the IP header; what is pulled is counted from there
_for_others = 3  # linux/if_packet.h PACKET_OTHERHOST
_udp, _fragment, _authentication = 17, 44, 51
_extensions = (0, 43, 60, _authentication, 135, 139, 140)  # IANA: IPv6 extension headers that have a length
_most_extensions = 8
_ethertypes = {4: 0x0800, 6: 0x86DD}
_addresses_at = {4: (12, 16), 6: (8, 24)}  # source, destination
_header_bytes = {4: 20, 6: 40}
# Places on the stack, from the frame pointer; loads there must be aligned.
_outer, _header, _vxlan, _inner, _key = -48, -56, -80, -120, -144


@dataclass(frozen=True, slots=True)
class Guarded:
    """The device that is guarded. `own`: our subnet; inner packets are of the underlay's IP version, as in flannel."""

    link: VxlanLink
    vtep_mac: bytes
    own: IPNetwork

    @property
    def program_name(self) -> str:
        """The device's, in the letters that BPF allows."""
        return program_name(self.link.name)


def program_name(device: str) -> str:
    """Name of the program that guards the device."""
    return device.replace("-", "_")


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


def filter_program(guarded: Guarded, maps: MapFds, counts_segments: bool) -> bytes:
    """The filter's code. `counts_segments`: a super-packet or train that is dropped counts as the packets in it."""
    link, own = guarded.link, guarded.own
    version: int = link.local.version
    size = _header_bytes[version]
    source_at, destination_at = _addresses_at[version]
    a = Assembler()
    a.move(6, 1)
    a.load(4, 2, 6, _kind_at)
    a.jump_if(2, _for_others, "pass")
    a.load(4, 2, 6, _protocol_at)
    a.jump_unless(2, socket.htons(_ethertypes[version]), "pass")
    _load_bytes(a, 0, None, _outer, size, "pass")
    if version == 4:
        _find_udp4(a)
    else:
        _find_udp6(a)
        _look_up(a, maps.locals, own.max_prefixlen, _outer + destination_at)
        a.jump_if(0, 0, "pass")
        a.jump("receive_malformed")

    a.label("udp")
    _load_bytes(a, 0, 9, _header, 8, "pass")
    a.load(2, 2, 10, _header + 2)
    a.jump_unless(2, socket.htons(link.port), "pass")
    _look_up(a, maps.locals, own.max_prefixlen, _outer + destination_at)
    a.jump_if(0, 0, "pass")
    _load_bytes(a, 8, 9, _vxlan, 22, "receive_short")
    a.load(4, 2, 10, _vxlan + 4)
    a.big_endian(2, 32)
    a.shift_right(2, 8)
    a.jump_unless(2, link.vni, "pass")
    a.lookup(maps.senders, 10, _outer + source_at)
    a.jump_if(0, 0, "receive_unknown_sender")
    a.move(7, 0)
    _check_frame(a, guarded)
    _load_bytes(a, 30, 9, _inner, size, "receive_short")
    a.load(1, 2, 10, _inner)
    a.shift_right(2, 4)
    a.jump_unless(2, version, "receive_inner_type")
    _check_source(a, maps.sources, own.max_prefixlen, source_at)
    _check_destination(a, own, _inner + destination_at)

    a.label("pass")
    a.set(0, _next)
    a.exit()
    _count_and_drop(a, maps.drops, counts_segments)
    return a.code()


def _check_frame(a: Assembler, guarded: Guarded) -> None:
    """VXLAN flags, our VTEP MAC, the underlay's IP version inside."""
    version = guarded.link.local.version
    a.load(4, 2, 10, _vxlan)
    a.big_endian(2, 32)
    if guarded.link.group_policy:
        a.bit_and(2, 0x7F000000)  # linux/vxlan.h VXLAN_GBP_USED_BITS
    a.jump_unless(2, 0x08000000, "receive_vxlan_flags")
    a.load(1, 2, 10, _vxlan + 7)
    a.jump_unless(2, 0, "receive_vxlan_flags")
    _compare(a, _vxlan + 8, guarded.vtep_mac, "receive_inner_mac")
    a.load(2, 2, 10, _vxlan + 20)
    a.jump_if(2, socket.htons(_ethertypes[10 - version]), "receive_inner_source")  # no lease gives any here
    a.jump_unless(2, socket.htons(_ethertypes[version]), "receive_inner_type")


def _check_source(a: Assembler, sources: int, address_bits: int, source_at: int) -> None:
    """r7 is what the sender holds: it speaks for its own address, and for others if the trie says so."""
    words = address_bits // 32
    for word in range(words):
        a.load(4, 2, 10, _inner + source_at + 4 * word)
        a.load(4, 3, 10, _outer + source_at + 4 * word)
        a.jump_unless_same(2, 3, "by subnet")
    a.jump("by mac")
    a.label("by subnet")
    _look_up(a, sources, address_bits, _inner + source_at)
    a.jump_if(0, 0, "receive_inner_source")
    a.move(7, 0)
    for word in range(words):
        a.load(4, 2, 7, 4 * word)
        a.load(4, 3, 10, _outer + source_at + 4 * word)
        a.jump_unless_same(2, 3, "receive_inner_source")
    a.label("by mac")
    for half in range(3):
        a.load(2, 2, 7, 16 + 2 * half)
        a.load(2, 3, 10, _vxlan + 14 + 2 * half)
        a.jump_unless_same(2, 3, "receive_inner_mac")


def _count_and_drop(a: Assembler, drops: int, counts_segments: bool) -> None:
    for index, reason in enumerate(reasons):
        if not a.wants(reason):
            continue
        a.label(reason)
        a.set(2, index)
        a.jump("count")
    a.label("count")
    a.store_register(4, 10, _key, 2)
    a.lookup(drops, 10, _key)
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


def _find_udp4(a: Assembler) -> None:
    """r9 = where the UDP header is. Later fragments pass: without the first one they come to nothing."""
    a.load(1, 2, 10, _outer + 9)
    a.jump_unless(2, _udp, "pass")
    a.load(2, 2, 10, _outer + 6)
    a.big_endian(2, 16)
    a.bit_and(2, 0x1FFF)
    a.jump_unless(2, 0, "pass")
    a.load(1, 9, 10, _outer)
    a.bit_and(9, 0x0F)
    a.shift_left(9, 2)


def _find_udp6(a: Assembler) -> None:
    """r9 = where the UDP header is; goes on below where there are more extension headers than we look behind."""
    a.load(1, 8, 10, _outer + 6)
    a.set(9, 40)
    for step in range(_most_extensions):
        a.jump_if(8, _udp, "udp")
        a.jump_if(8, _fragment, f"fragment {step}")
        for kind in _extensions:
            a.jump_if(8, kind, f"extension {step}")
        a.jump("pass")
        a.label(f"fragment {step}")
        _load_bytes(a, 0, 9, _header, 8, "pass")
        a.load(2, 2, 10, _header + 2)
        a.big_endian(2, 16)
        a.bit_and(2, 0xFFF8)
        a.jump_unless(2, 0, "pass")
        a.load(1, 8, 10, _header)
        a.add(9, 8)
        a.jump(f"step {step}")
        a.label(f"extension {step}")
        _load_bytes(a, 0, 9, _header, 2, "pass")
        a.load(1, 2, 10, _header + 1)
        a.jump_if(8, _authentication, f"authentication {step}")
        a.add(2, 1)
        a.shift_left(2, 3)
        a.jump(f"length {step}")
        a.label(f"authentication {step}")
        a.add(2, 2)
        a.shift_left(2, 2)
        a.label(f"length {step}")
        a.add_register(9, 2)
        a.load(1, 8, 10, _header)
        a.label(f"step {step}")
    a.jump_if(8, _udp, "udp")


def _check_destination(a: Assembler, own: IPNetwork, at: int) -> None:
    a.load(1, 2, 10, at)
    if isinstance(own, IPv4Network):
        a.jump_if_more(2, 223, "receive_multicast")
    else:
        a.jump_if(2, 0xFF, "receive_multicast")
    network, mask = own.network_address.packed, own.netmask.packed
    for word in range(0, len(mask), 4):
        a.load(4, 2, 10, at + word)
        a.set32(3, mask[word : word + 4])
        a.and_register(2, 3)
        a.set32(3, network[word : word + 4])
        a.jump_unless_same(2, 3, "receive_inner_destination")
    if isinstance(own, IPv4Network) and own.prefixlen < 31:
        a.load(4, 2, 10, at)
        a.set32(3, own.broadcast_address.packed)
        a.jump_if_same(2, 3, "receive_multicast")


def _look_up(a: Assembler, trie: int, address_bits: int, at: int) -> None:
    """r0 = the trie's value for the address at that place of the stack, or 0"""
    a.store(4, 10, _key, address_bits)
    for word in range(address_bits // 32):
        a.load(4, 2, 10, at + 4 * word)
        a.store_register(4, 10, _key + 4 + 4 * word, 2)
    a.lookup(trie, 10, _key)


def _load_bytes(a: Assembler, offset: int, register: int | None, to: int, length: int, otherwise: str) -> None:
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


def _set_offset(a: Assembler, to: int, offset: int, register: int | None) -> None:
    a.set(to, offset)
    if register is not None:
        a.add_register(to, register)


def _compare(a: Assembler, at: int, wanted: bytes, otherwise: str) -> None:
    """Go on if the stack has these bytes there; `at` must be a multiple of 4."""
    for word in range(0, len(wanted) & ~3, 4):
        a.load(4, 2, 10, at + word)
        a.set32(3, wanted[word : word + 4])
        a.jump_unless_same(2, 3, otherwise)
    if len(wanted) & 3:
        a.load(2, 2, 10, at + (len(wanted) & ~3))
        a.set32(3, wanted[-2:] + b"\0\0" if _little() else b"\0\0" + wanted[-2:])
        a.jump_unless_same(2, 3, otherwise)


def _little() -> bool:
    return socket.htons(1) != 1
