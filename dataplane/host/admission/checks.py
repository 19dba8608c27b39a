"""What the filter in front of a kernel vxlan device asks of one frame, once its bytes are on the program's stack.

Offsets are those of RFC 791, 8200 and 7348. What must stay true: a check jumps to its reason's name when it fails, and
goes on below when it does not.
"""

from __future__ import annotations

import socket
import sys
from dataclasses import dataclass
from ipaddress import IPv4Network

from dataplane.bpf.assembler import Assembler
from dataplane.model import IPNetwork, VxlanLink

ethertypes = {4: 0x0800, 6: 0x86DD}
addresses_at = {4: (12, 16), 6: (8, 24)}  # source, destination
header_bytes = {4: 20, 6: 40}
vxlan_bytes = 22  # the header and the inner frame's
# What the maps hold of a peer: underlay address (16), VTEP MAC (6), nothing (2); of a sender also a subnet and its mask.
mac_at, subnet_at = 16, 24
# Places on the stack, from the frame pointer; loads there must be aligned. UDP, VXLAN and inner header lie as in a packet.
outer, header, vxlan, inner, key = -48, -126, -118, -96, -152


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


def check_sender(a: Assembler, guarded: Guarded, senders: int, other_vni: str) -> None:
    """The VXLAN header is there: go to `other_vni` if it is not ours to judge; r7 = what the outer source holds."""
    source_at, _ = addresses_at[guarded.link.local.version]
    a.load(2, 2, 10, vxlan + 4)
    a.jump_unless(2, socket.htons(guarded.link.vni >> 8), other_vni)
    a.load(1, 2, 10, vxlan + 6)
    a.jump_unless(2, guarded.link.vni & 0xFF, other_vni)
    a.lookup(senders, 10, outer + source_at)
    a.jump_if(0, 0, "receive_unknown_sender")
    a.move(7, 0)


def check_frame(a: Assembler, guarded: Guarded) -> None:
    """VXLAN flags, our VTEP MAC, the underlay's IP version inside."""
    version = guarded.link.local.version
    a.load(2, 2, 10, vxlan)
    if guarded.link.group_policy:
        a.bit_and(2, socket.htons(0x7F00))  # linux/vxlan.h VXLAN_GBP_USED_BITS
    a.jump_unless(2, socket.htons(0x0800), "receive_vxlan_flags")
    if not guarded.link.group_policy:
        a.load(2, 2, 10, vxlan + 2)
        a.jump_unless(2, 0, "receive_vxlan_flags")
    a.load(1, 2, 10, vxlan + 7)
    a.jump_unless(2, 0, "receive_vxlan_flags")
    for at in range(0, 6, 2):
        a.load(2, 2, 10, vxlan + 8 + at)
        a.jump_unless(2, int.from_bytes(guarded.vtep_mac[at : at + 2], sys.byteorder), "receive_inner_mac")
    a.load(2, 2, 10, vxlan + 20)
    a.jump_if(2, socket.htons(ethertypes[10 - version]), "receive_inner_source")  # no lease gives any here
    a.jump_unless(2, socket.htons(ethertypes[version]), "receive_inner_type")


def check_packet(a: Assembler, guarded: Guarded, sources: int) -> None:
    """The inner IP header is there: its version, source and destination. r7 is what the sender holds, and is lost."""
    version = guarded.link.local.version
    source_at, destination_at = addresses_at[version]
    a.load(1, 2, 10, inner)
    a.shift_right(2, 4)
    a.jump_unless(2, version, "receive_inner_type")
    _check_source(a, sources, guarded.own.max_prefixlen, source_at)
    _check_destination(a, guarded.own, inner + destination_at)


def check_local(a: Assembler, guarded: Guarded, locals_: int, passing: str) -> None:
    """Go to `passing` if the packet is for others; most of what is for this host is for its underlay address."""
    link, ours, other = guarded.link, a.new_label(), a.new_label()
    _, destination_at = addresses_at[link.local.version]
    packed = link.local.packed
    for word in range(0, len(packed), 4):
        a.load(4, 2, 10, outer + destination_at + word)
        a.set32(3, packed[word : word + 4])
        a.jump_unless_same(2, 3, other)
    a.jump(ours)
    a.label(other)
    look_up(a, locals_, link.local.max_prefixlen, outer + destination_at)
    a.jump_if(0, 0, passing)
    a.label(ours)


def look_up(a: Assembler, trie: int, address_bits: int, at: int) -> None:
    """r0 = the trie's value for the address at that place of the stack, or 0"""
    a.store(4, 10, key, address_bits)
    for word in range(address_bits // 32):
        a.load(4, 2, 10, at + 4 * word)
        a.store_register(4, 10, key + 4 + 4 * word, 2)
    a.lookup(trie, 10, key)


def _check_source(a: Assembler, sources: int, address_bits: int, source_at: int) -> None:
    """r7 is what the sender holds: it speaks for its first lease's subnet, its own address, and what the trie says."""
    own_address, by_trie, by_mac = a.new_label(), a.new_label(), a.new_label()
    words = address_bits // 32
    for word in range(words):
        a.load(4, 2, 10, inner + source_at + 4 * word)
        a.load(4, 3, 7, subnet_at + address_bits // 8 + 4 * word)
        a.and_register(2, 3)
        a.load(4, 3, 7, subnet_at + 4 * word)
        a.jump_unless_same(2, 3, own_address)
    a.jump(by_mac)
    a.label(own_address)
    for word in range(words):
        a.load(4, 2, 10, inner + source_at + 4 * word)
        a.load(4, 3, 10, outer + source_at + 4 * word)
        a.jump_unless_same(2, 3, by_trie)
    a.jump(by_mac)
    a.label(by_trie)
    look_up(a, sources, address_bits, inner + source_at)
    a.jump_if(0, 0, "receive_inner_source")
    a.move(7, 0)
    for word in range(words):
        a.load(4, 2, 7, 4 * word)
        a.load(4, 3, 10, outer + source_at + 4 * word)
        a.jump_unless_same(2, 3, "receive_inner_source")
    a.label(by_mac)
    for half in range(3):
        a.load(2, 2, 7, mac_at + 2 * half)
        a.load(2, 3, 10, vxlan + 14 + 2 * half)
        a.jump_unless_same(2, 3, "receive_inner_mac")


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
