"""The filter's way for a train: several datagrams in one packet, that left together and were never cut.

On a link that does not cut (veth, virtio) a peer's UDP_SEGMENT comes so, and the kernel cuts it behind the filter, so
every frame in it must be fit. What must stay true: a train passes whole or not at all; a packet is taken for one frame
only on the kernel's word, because all that is in its bytes is the sender's word.
"""

from __future__ import annotations

from dataplane.bpf.assembler import Assembler
from dataplane.bpf.calls import Helper
from dataplane.host.admission.checks import (
    Guarded,
    check_frame,
    check_packet,
    check_sender,
    header_bytes,
    inner,
    outer,
    vxlan,
    vxlan_bytes,
)

_length_at, _size_at = 0, 176  # struct __sk_buff: len; gso_size, since Linux 5.7
_most_frames = 128  # linux/udp.h UDP_MAX_SEGMENTS, 64 in older kernels
_ealready = -114
_fixed_gso, _outer_ip4, _one_byte_more = 1, 2, 56  # BPF_F_ADJ_ROOM_FIXED_GSO, _ENCAP_L3_IPV4, _ENCAP_L2_SHIFT


def go_if_train(a: Assembler) -> None:
    """Go to "train" if the packet is several; costs the others one load."""
    a.load(4, 2, 6, _size_at)
    a.jump_unless(2, 0, "train")


def walk_train(a: Assembler, guarded: Guarded, senders: int, sources: int, link_bytes: int) -> None:
    """Judge every frame of a train, and end at "pass" or a reason; at "whole" if it is one frame after all.

    One frame after another is written out: with CAP_BPF alone, without CAP_PERFMON, the verifier follows what a processor
    may guess beyond a counter, and finds no end of a loop.

    Args:
        link_bytes: what precedes the IP header, whose place is in the packet's first piece and in r9 the UDP header's.
    """
    size = header_bytes[guarded.link.local.version]
    a.label("train")
    _refuse_pieces(a, guarded.link.local.version)
    _ask_whether_tunnel(a)
    a.jump_if(0, _ealready, "whole")
    _refuse_other_link(a, link_bytes, size)
    a.add(9, link_bytes + 8)
    for _ in range(_most_frames):
        there, other_vni = a.new_label(), a.new_label()
        a.load(4, 2, 6, _length_at)
        a.jump_if_more_than(2, 9, there)
        a.jump("pass")
        a.label(there)
        _load(a, 0, vxlan, vxlan_bytes)
        check_sender(a, guarded, senders, other_vni)
        check_frame(a, guarded)
        _load(a, vxlan_bytes, inner, size)
        check_packet(a, guarded, sources)
        a.label(other_vni)
        a.load(4, 2, 6, _size_at)
        a.add_register(9, 2)
    a.load(4, 2, 6, _length_at)
    a.jump_if_more_than(2, 9, "receive_malformed")
    a.jump("pass")


def _refuse_pieces(a: Assembler, version: int) -> None:
    """A train is no fragment: nobody makes any, and what its other pieces hold would be cut into frames too."""
    if version == 4:
        a.load(2, 2, 10, outer + 6)
        a.big_endian(2, 16)
        a.bit_and(2, 0x3FFF)
        a.jump_unless(2, 0, "receive_malformed")
    else:
        a.jump_unless(9, 40, "receive_malformed")  # no extension headers, of which one may say so


def _ask_whether_tunnel(a: Assembler) -> None:
    """r0 = -EALREADY if the kernel holds it for one packet in a tunnel (a super-packet of TCP or UDP inside).

    Programs are not told so directly. To put on an outer header is refused for a packet that has one, and for any other
    here too, before anything is done: the header would have a byte of link layer, and no room is asked for.
    """
    a.move(1, 6)
    a.set(2, 0)
    a.set(3, 0)  # BPF_ADJ_ROOM_NET
    a.set(4, 1)
    a.shift_left(4, _one_byte_more)
    a.add(4, _outer_ip4 | _fixed_gso)
    a.call(Helper.skb_adjust_room)


def _refuse_other_link(a: Assembler, link_bytes: int, size: int) -> None:
    """The IP header must be where we take it to be."""
    a.move(1, 6)
    a.set(2, link_bytes)
    a.move(3, 10)
    a.add(3, inner)
    a.set(4, size)
    a.call(Helper.skb_load_bytes)
    a.jump_unless(0, 0, "receive_malformed")
    for word in range(0, size, 4):
        a.load(4, 2, 10, inner + word)
        a.load(4, 3, 10, outer + word)
        a.jump_unless_same(2, 3, "receive_malformed")


def _load(a: Assembler, offset: int, to: int, length: int) -> None:
    """Copy bytes behind r9 to the stack, from whatever piece they are in."""
    a.move(1, 6)
    a.move(2, 9)
    a.add(2, offset)
    a.move(3, 10)
    a.add(3, to)
    a.set(4, length)
    a.call(Helper.skb_load_bytes)
    a.jump_unless(0, 0, "receive_short")
