"""One XDP program, made by hand: whatever comes in at a device leaves at another.

    r1 = index of the other device; r2 = 0; call bpf_redirect; exit

What must stay true: the program is detached when `close` is called or the process ends, since only our descriptor of
the link keeps it.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct

from dataplane.errors import HostError

_syscalls = {"x86_64": 321, "aarch64": 280}  # bpf(2): arch/x86/entry/syscalls/syscall_64.tbl, asm-generic/unistd.h
_prog_load, _link_create = 5, 28  # linux/bpf.h enum bpf_cmd
_type_xdp = 6  # enum bpf_prog_type
_attach_xdp = 37  # enum bpf_attach_type
_redirect = 23  # enum bpf_func_id
_driver_mode = 4  # linux/if_link.h XDP_FLAGS_DRV_MODE
_move, _call, _exit = 0xB7, 0x85, 0x95  # linux/bpf_common.h, bpf.h: ALU64|MOV|K, JMP|CALL, JMP|EXIT
_attr_bytes = 128


def instructions(ifindex: int) -> bytes:
    """Return the program that redirects to device `ifindex` (struct bpf_insn: opcode, registers, offset, immediate)."""
    words = ((_move, 1, ifindex), (_move, 2, 0), (_call, 0, _redirect), (_exit, 0, 0))
    return b"".join(struct.pack("=BBhi", opcode, register, 0, value) for opcode, register, value in words)


def check() -> None:
    """Raise `HostError` with the reason if this process may not load such programs."""
    os.close(_load(instructions(1)))


class Redirect:
    """Everything that arrives at `device` leaves at `other`; both are in our own network namespace.

    Raises:
        HostError: the kernel refuses (bpf(2) needs CAP_BPF and CAP_NET_ADMIN outside any user namespace).
    """

    def __init__(self, device: str, other: str) -> None:
        program = _load(instructions(socket.if_nametoindex(other)))
        try:
            attr = struct.pack("=IIII", program, socket.if_nametoindex(device), _attach_xdp, _driver_mode)
            self._link = _bpf(_link_create, attr, f"attach an XDP program to {device}")
        finally:
            os.close(program)

    def close(self) -> None:
        """Detach."""
        os.close(self._link)


def _load(program: bytes) -> int:
    code, licence = ctypes.create_string_buffer(program), ctypes.create_string_buffer(b"Apache-2.0")
    attr = struct.pack("=IIQQ", _type_xdp, len(program) // 8, ctypes.addressof(code), ctypes.addressof(licence))
    return _bpf(_prog_load, attr, "load an XDP program")


def _bpf(command: int, attr: bytes, what: str) -> int:
    number = _syscalls.get(os.uname().machine)
    if number is None:
        raise HostError(f"cannot {what}: the number of bpf(2) on {os.uname().machine} is not known here")
    raw = ctypes.create_string_buffer(attr, _attr_bytes)
    libc = ctypes.CDLL(None, use_errno=True)
    got = int(libc.syscall(ctypes.c_long(number), ctypes.c_long(command), raw, ctypes.c_long(_attr_bytes)))
    if got < 0:
        raise HostError(f"cannot {what}: {os.strerror(ctypes.get_errno())}")
    return got
