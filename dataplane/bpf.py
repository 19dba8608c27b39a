"""bpf(2): load a small program made by hand and attach it to a device.

What must stay true: an attached program is detached when its `Link` is closed or the process ends, since only our
descriptor keeps it.
"""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass
from enum import IntEnum

from dataplane.errors import HostError

_syscalls = {"x86_64": 321, "aarch64": 280}  # arch/x86/entry/syscalls/syscall_64.tbl, asm-generic/unistd.h
_prog_load, _link_create = 5, 28  # linux/bpf.h enum bpf_cmd
_move, _call, _exit = 0xB7, 0x85, 0x95  # linux/bpf_common.h, bpf.h: ALU64|MOV|K, JMP|CALL, JMP|EXIT
_attr_bytes = 128


class Helper(IntEnum):
    """Functions that a program may call (linux/bpf.h ___BPF_FUNC_MAPPER)."""

    redirect = 23
    redirect_neigh = 152


@dataclass(frozen=True, slots=True)
class Hook:
    """Where a program runs: enum bpf_prog_type, enum bpf_attach_type, and flags of the attachment (linux/bpf.h)."""

    program_type: int
    attach_type: int
    flags: int = 0


xdp_driver = Hook(6, 37, 4)  # flags: linux/if_link.h XDP_FLAGS_DRV_MODE
tc_ingress = Hook(3, 46)  # BPF_TCX_INGRESS, Linux 6.6


def redirecting(helper: Helper, ifindex: int) -> bytes:
    """Return the program `return helper(ifindex, 0, 0, 0)`: whatever comes leaves at device `ifindex`.

    Each instruction is a struct bpf_insn: opcode, registers, offset, immediate.
    """
    words = [(_move, 1, ifindex), (_move, 2, 0), (_move, 3, 0), (_move, 4, 0), (_call, 0, helper), (_exit, 0, 0)]
    return b"".join(struct.pack("=BBhi", opcode, register, 0, value) for opcode, register, value in words)


def check(hook: Hook, program: bytes) -> None:
    """Raise the `HostError` that loading would raise."""
    os.close(_load(hook, program))


class Link:
    """A program attached to device `ifindex` of our own network namespace.

    Raises:
        HostError: the kernel refuses (bpf(2) needs CAP_BPF and CAP_NET_ADMIN outside any user namespace).
    """

    def __init__(self, hook: Hook, program: bytes, ifindex: int) -> None:
        loaded = _load(hook, program)
        try:
            attr = struct.pack("=IIII", loaded, ifindex, hook.attach_type, hook.flags)
            self._fd = _bpf(_link_create, attr, f"attach a BPF program to device {ifindex}")
        finally:
            os.close(loaded)

    def close(self) -> None:
        """Detach."""
        os.close(self._fd)


def _load(hook: Hook, program: bytes) -> int:
    code, licence = ctypes.create_string_buffer(program), ctypes.create_string_buffer(b"Apache-2.0")
    attr = struct.pack("=IIQQ", hook.program_type, len(program) // 8, ctypes.addressof(code), ctypes.addressof(licence))
    return _bpf(_prog_load, attr, "load a BPF program")


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
