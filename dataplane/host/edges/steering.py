"""Programs that choose the queue or socket in which a packet waits for its worker.

Whoever floods fills a queue of its own, and the workers read all of theirs in turns. In front of the TUN the inner source
address chooses. At the UDP sockets the outer source chooses a group of sockets and the inner source one of the group: a
sender that makes up inner sources still fills no more than its group. Which worker it is, is the flow's ports' choice, so
that one pod's flows are still spread over all.

What must stay true: packets of one flow choose the same queue (fragments may be apart), and no program reads past a packet
with effect: where a header is missing the kernel ends it with 0, the first queue.
Source: linux/filter.h, Documentation/networking/filter.rst; net/core/sock_reuseport.c (run_bpf_filter: the program sees the
UDP payload), drivers/net/tun.c (tun_ebpf_select_queue: it sees the IP packet; the queue is the result modulo their number).
"""

from __future__ import annotations

import array
import fcntl
import logging
import socket
import struct
from typing import Literal

from dataplane.bpf import calls
from dataplane.errors import HostError

log = logging.getLogger(__name__)

Wire = Literal["udp", "vxlan"]

_so_attach_reuseport_cbpf = 51  # asm-generic/socket.h
_tunsetsteeringebpf = 0x800454E0  # linux/if_tun.h
_network_header = 0xFFF00000  # linux/filter.h SKF_NET_OFF
_golden = 0x9E3779B1  # 2^32 / golden ratio: neighbouring addresses come far apart in the upper bits (Knuth, 6.4)
_groups = 4  # of sockets, by outer source
_vxlan_to_inner = 22  # VXLAN and Ethernet header
# linux/bpf_common.h: the classic instructions.
_load_word, _load_byte, _load_mem, _store, _return = 0x20, 0x30, 0x60, 0x02, 0x16
_multiply, _shift_right, _and = 0x24, 0x74, 0x54
_add_x, _to_x, _jump, _jump_equal = 0x0C, 0x07, 0x05, 0x15

_source, _ports = (12, 20), (20, 40)  # in IPv4 without options, in IPv6; of an IPv6 address the last word

_Program = list[tuple[int, int, int, int]]


def _op(code: int, value: int = 0, yes: int = 0, no: int = 0) -> tuple[int, int, int, int]:
    return code, yes, no, value


def _spread(buckets: int) -> _Program:
    """A: a bucket for the number in A."""
    return [_op(_multiply, _golden), _op(_shift_right, 16), _op(_multiply, buckets), _op(_shift_right, 16)]


def receive_program(wire: Wire, family: int, workers: int, queues: int) -> bytes:
    """Return struct sock_filter[]: the index of a socket among `workers` * `queues`, from outer and inner source."""
    at = _vxlan_to_inner if wire == "vxlan" else 0
    outer = _network_header + (12 if family == 4 else 20)
    per_group = max(1, queues // _groups)
    program = [_op(_load_word, outer), *_spread(queues // per_group), _op(_multiply, per_group), _op(_store, 0)]
    program += [*_inner(at, _source), *_spread(per_group), _op(_to_x), _op(_load_mem, 0), _op(_add_x)]
    if workers > 1:
        program += [_op(_multiply, workers), _op(_store, 0), *_inner(at, _ports), *_spread(workers)]
        program += [_op(_to_x), _op(_load_mem, 0), _op(_add_x)]
    program.append(_op(_return))
    return b"".join(struct.pack("=HBBI", *op) for op in program)


def _inner(at: int, fields: tuple[int, int]) -> _Program:
    """A: the word of the IP packet at `at` whose offset is the one for the packet's version."""
    ipv4, ipv6 = fields
    return [
        _op(_load_byte, at),
        _op(_and, 0xF0),
        _op(_jump_equal, 0x60, 2, 0),
        _op(_load_word, at + ipv4),
        _op(_jump, 1),
        _op(_load_word, at + ipv6),
    ]


def steer_receive(sock: socket.socket, wire: Wire, family: int, workers: int, queues: int) -> None:
    """Let a program choose among the sockets of the group that `sock` is in; where it cannot be had, the kernel's flow hash does."""
    code = array.array("B", receive_program(wire, family, workers, queues))
    program = struct.pack("HP", len(code) // 8, code.buffer_info()[0])
    try:
        sock.setsockopt(socket.SOL_SOCKET, _so_attach_reuseport_cbpf, program)
    except OSError as error:
        log.info("the UDP sockets are chosen by the outer flow, not by pod: %s", error.strerror)


def tun_program(workers: int, queues: int) -> bytes:
    """Return struct bpf_insn[]: the index of a TUN queue among `workers` * `queues`, from the inner source."""
    # R6: the packet, as LD_ABS wants it; R7: the queue so far.
    code = [(0xBF, 0x16, 0, 0), *_inner_words(_source)]
    code += _spread_r0(queues)
    if workers > 1:
        code += [(0x24, 0, 0, workers), (0xBF, 0x07, 0, 0), *_inner_words(_ports)]
        code += [*_spread_r0(workers), (0x0F, 0x70, 0, 0)]
    code.append((0x95, 0, 0, 0))
    return b"".join(struct.pack("=BBhI", *op) for op in code)


def _spread_r0(buckets: int) -> _Program:
    """As `_spread`, in R0."""
    return [(0x24, 0, 0, _golden), (0x74, 0, 0, 16), (0x24, 0, 0, buckets), (0x74, 0, 0, 16)]


def _inner_words(fields: tuple[int, int]) -> _Program:
    """R0: the word at the offset that belongs to the packet's version."""
    ipv4, ipv6 = fields
    return [
        (0x30, 0, 0, 0),
        (0x54, 0, 0, 0xF0),
        (0x15, 0, 2, 0x60),
        (0x20, 0, 0, ipv4),
        (0x05, 0, 1, 0),
        (0x20, 0, 0, ipv6),
    ]


def steer_tun(fd: int, workers: int, queues: int) -> None:
    """Let a program choose among the queues of the TUN behind `fd`; where it cannot be had, the kernel's flow hash does."""
    try:
        with calls.loaded(calls.socket_filter, tun_program(workers, queues), "tun_queue") as program:
            fcntl.ioctl(fd, _tunsetsteeringebpf, struct.pack("=I", program))
    except (HostError, OSError) as error:
        log.info("the queues of the TUN are chosen by flow, not by pod: %s", error)
