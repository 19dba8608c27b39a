"""bpf(2): make maps and small programs by hand, and attach those to a device.

What must stay true: a program attached by a `Link` is detached when that is closed or the process ends, since only our
descriptor keeps it; one attached by `attach_named` stays until `detach_named` or the device's end, and keeps its maps.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import IntEnum

from dataplane.errors import HostError

_syscalls = {"x86_64": 321, "aarch64": 280}  # arch/x86/entry/syscalls/syscall_64.tbl, asm-generic/unistd.h
# linux/bpf.h enum bpf_cmd
_map_create, _map_lookup, _map_update, _map_delete, _prog_load, _prog_attach, _prog_detach = 0, 1, 2, 3, 5, 8, 9
_prog_get_fd_by_id, _obj_get_info, _prog_query, _link_create = 13, 15, 16, 28
_f_replace = 4  # BPF_F_REPLACE
_most_programs = 64  # BPF_MPROG_MAX
_info_name_at, _name_bytes = 64, 16  # struct bpf_prog_info
_move, _call, _exit = 0xB7, 0x85, 0x95  # linux/bpf_common.h, bpf.h: ALU64|MOV|K, JMP|CALL, JMP|EXIT
_attr_bytes = 128


class BpfError(HostError):
    """The kernel refused; `code` is the errno."""

    def __init__(self, what: str, code: int) -> None:
        super().__init__(f"cannot {what}: {os.strerror(code)}")
        self.code = code


class Helper(IntEnum):
    """Functions that a program may call (linux/bpf.h ___BPF_FUNC_MAPPER)."""

    map_lookup_elem = 1
    redirect = 23
    skb_load_bytes = 26
    skb_pull_data = 39
    skb_adjust_room = 50
    skb_load_bytes_relative = 68
    redirect_neigh = 152


@dataclass(frozen=True, slots=True)
class Hook:
    """Where a program runs: enum bpf_prog_type, enum bpf_attach_type, and flags of the attachment (linux/bpf.h)."""

    program_type: int
    attach_type: int
    flags: int = 0


xdp_driver = Hook(6, 37, 4)  # flags: linux/if_link.h XDP_FLAGS_DRV_MODE
socket_filter = Hook(1, 0)
tc_ingress = Hook(3, 46)  # BPF_TCX_INGRESS, Linux 6.6
tc_egress = Hook(3, 47)


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


class MapKind(IntEnum):
    """enum bpf_map_type."""

    hash = 1
    array = 2
    lpm_trie = 11


class Map:
    """A BPF map. Its programs keep it alive; `close` ends only our access. Every method raises `HostError`."""

    def __init__(self, kind: MapKind, name: str, key_bytes: int, value_bytes: int, entries: int) -> None:
        flags = 0 if kind is MapKind.array else 1  # BPF_F_NO_PREALLOC
        attr = struct.pack("=IIIIIII16s", kind, key_bytes, value_bytes, entries, flags, 0, 0, name.encode())
        self.fd = _bpf(_map_create, attr, f"make the BPF map {name}")
        self._name = name
        self._value_bytes = value_bytes

    def put(self, key: bytes, value: bytes) -> None:
        """Make or change an entry."""
        self._element(_map_update, key, ctypes.create_string_buffer(value, len(value)), "write")

    def remove(self, key: bytes) -> None:
        """Take out an entry; one that is not there is fine."""
        try:
            self._element(_map_delete, key, None, "shorten")
        except BpfError as error:
            if error.code != errno.ENOENT:
                raise

    def get(self, key: bytes) -> bytes:
        """The value of an entry that is there."""
        value = ctypes.create_string_buffer(self._value_bytes)
        self._element(_map_lookup, key, value, "read")
        return value.raw

    def close(self) -> None:
        """Close our descriptor."""
        os.close(self.fd)

    def _element(self, command: int, key: bytes, value: ctypes.Array[ctypes.c_char] | None, what: str) -> None:
        raw = ctypes.create_string_buffer(key, len(key))
        at = 0 if value is None else ctypes.addressof(value)
        _bpf(
            command, struct.pack("=IIQQQ", self.fd, 0, ctypes.addressof(raw), at, 0), f"{what} the BPF map {self._name}"
        )


@contextmanager
def loaded(hook: Hook, program: bytes, name: str) -> Iterator[int]:
    """A descriptor of the program, checked by the kernel, for the body; raises `HostError`."""
    descriptor = _load(hook, program, name)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def attach_named(hook: Hook, program: int, name: str, ifindex: int) -> None:
    """Attach a program for good, in the place of the one of this name, if there is one, without a moment between.

    Raises:
        BpfError: the kernel refuses; EINVAL where it does not know the hook.
    """
    with _named(hook, name, ifindex) as old:
        flags = 0 if old is None else _f_replace
        attr = struct.pack("=IIIII", ifindex, program, hook.attach_type, flags, old or 0)
        _bpf(_prog_attach, attr, f"attach a BPF program to device {ifindex}")


def detach(hook: Hook, program: int, ifindex: int) -> None:
    """Detach this program; raises `HostError`."""
    attr = struct.pack("=III", ifindex, program, hook.attach_type)
    _bpf(_prog_detach, attr, f"detach a BPF program from device {ifindex}")


def detach_named(hook: Hook, name: str, ifindex: int) -> bool:
    """Detach the program of this name; returns whether there was one. Raises `HostError`."""
    with _named(hook, name, ifindex) as old:
        if old is None:
            return False
        detach(hook, old, ifindex)
        return True


def is_attached(hook: Hook, name: str, ifindex: int) -> bool:
    """Whether a program of this name is attached; raises `HostError`."""
    with _named(hook, name, ifindex) as found:
        return found is not None


@contextmanager
def _named(hook: Hook, name: str, ifindex: int) -> Iterator[int | None]:
    """A descriptor of the attached program of this name, for the body."""
    ids = (ctypes.c_uint32 * _most_programs)()
    attr = struct.pack("=IIIIQI", ifindex, hook.attach_type, 0, 0, ctypes.addressof(ids), _most_programs)
    try:
        _bpf(_prog_query, attr, f"list the BPF programs of device {ifindex}")
    except BpfError as error:
        if error.code != errno.ENOENT:
            raise
    found: int | None = None
    for number in ids:
        if not number:
            break
        try:
            descriptor = _bpf(_prog_get_fd_by_id, struct.pack("=I", number), f"open BPF program {number}")
        except BpfError as error:
            if error.code == errno.ENOENT:
                continue  # it went meanwhile
            raise
        if _name_of(descriptor) == name:
            found = descriptor
            break
        os.close(descriptor)
    try:
        yield found
    finally:
        if found is not None:
            os.close(found)


def _name_of(program: int) -> str:
    info = ctypes.create_string_buffer(_info_name_at + _name_bytes)
    _bpf(_obj_get_info, struct.pack("=IIQ", program, len(info), ctypes.addressof(info)), "ask about a BPF program")
    return info.raw[_info_name_at:].rstrip(b"\0").decode(errors="replace")


def _load(hook: Hook, program: bytes, name: str = "") -> int:
    code, licence = ctypes.create_string_buffer(program), ctypes.create_string_buffer(b"Apache-2.0")
    attr = struct.pack(
        "=IIQQIIQII16s",
        hook.program_type,
        len(program) // 8,
        ctypes.addressof(code),
        ctypes.addressof(licence),
        *(0, 0, 0),  # no log
        *(0, 0),
        name.encode(),
    )
    return _bpf(_prog_load, attr, "load a BPF program")


def _bpf(command: int, attr: bytes, what: str) -> int:
    number = _syscalls.get(os.uname().machine)
    if number is None:
        raise BpfError(what, errno.ENOSYS)  # its number is not known here
    raw = ctypes.create_string_buffer(attr, _attr_bytes)
    libc = ctypes.CDLL(None, use_errno=True)
    got = int(libc.syscall(ctypes.c_long(number), ctypes.c_long(command), raw, ctypes.c_long(_attr_bytes)))
    if got < 0:
        raise BpfError(what, ctypes.get_errno())
    return got
