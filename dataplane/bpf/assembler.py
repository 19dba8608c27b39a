"""A small assembler of BPF with labels: one method for each instruction that our programs use.

Registers are numbers: 0 the result, 1 to 5 arguments, 6 to 9 kept over calls, 10 the frame pointer. What must stay true:
jumps go forward only, so that every program ends. Source: Linux Documentation/bpf/standardization/instruction-set.rst.
"""

from __future__ import annotations

import struct

from dataplane.bpf.calls import Helper

_sizes = {1: 0x10, 2: 0x08, 4: 0x00, 8: 0x18}
_from_memory, _to_memory, _constant_to_memory, _atomic = 0x61, 0x63, 0x62, 0xC3  # LDX, STX, ST, STX in mode ATOMIC
_alu, _jump, _by_register = 0x07, 0x05, 0x08  # ALU64, JMP
_add, _subtract, _divide, _and, _shift_left, _shift_right, _move = 0x00, 0x10, 0x30, 0x50, 0x60, 0x70, 0xB0
_always, _equal, _more, _unequal = 0x00, 0x10, 0x20, 0x50


class Assembler:
    """A program as it grows; `code` gives it as bytes."""

    def __init__(self) -> None:
        self._words: list[tuple[int, int, int, int, int]] = []
        self._labels: dict[str, int] = {}
        self._jumps: dict[int, str] = {}
        self._made = 0

    def new_label(self) -> str:
        """A name that no other label has."""
        self._made += 1
        return f"label {self._made}"

    def label(self, name: str) -> None:
        """Name the next instruction."""
        self._labels[name] = len(self._words)

    def wants(self, label: str) -> bool:
        """Whether a jump goes there; the kernel refuses code that is never reached."""
        return label in self._jumps.values()

    def load(self, size: int, to: int, base: int, offset: int) -> None:
        """to = size bytes at base + offset, extended with zeros."""
        self._put(_from_memory | _sizes[size], to, base, offset)

    def store(self, size: int, base: int, offset: int, value: int) -> None:
        """The constant goes to base + offset."""
        self._put(_constant_to_memory | _sizes[size], base, 0, offset, value)

    def store_register(self, size: int, base: int, offset: int, register: int) -> None:
        """The register goes to base + offset."""
        self._put(_to_memory | _sizes[size], base, register, offset)

    def atomic_add(self, base: int, offset: int, register: int) -> None:
        """Add to the 8 bytes at base + offset, whoever else does."""
        self._put(_atomic | _sizes[8], base, register, offset)

    def move(self, to: int, register: int) -> None:
        """to = register"""
        self._put(_alu | _by_register | _move, to, register)

    def set(self, to: int, value: int) -> None:
        """to = value, a signed 32-bit number"""
        self._put(_alu | _move, to, value=value)

    def set32(self, to: int, memory: bytes) -> None:
        """to = what loading these 4 bytes gives"""
        self._wide(to, 0, struct.unpack("=I", memory)[0])

    def add(self, to: int, value: int) -> None:
        """to += value"""
        self._put(_alu | _add, to, value=value)

    def add_register(self, to: int, register: int) -> None:
        """to += register"""
        self._put(_alu | _by_register | _add, to, register)

    def subtract_register(self, to: int, register: int) -> None:
        """to -= register"""
        self._put(_alu | _by_register | _subtract, to, register)

    def divide_register(self, to: int, register: int) -> None:
        """to /= register, unsigned; by 0 it is 0"""
        self._put(_alu | _by_register | _divide, to, register)

    def bit_and(self, to: int, value: int) -> None:
        """to &= value, below 2**31"""
        self._put(_alu | _and, to, value=value)

    def and_register(self, to: int, register: int) -> None:
        """to &= register"""
        self._put(_alu | _by_register | _and, to, register)

    def shift_left(self, to: int, bits: int) -> None:
        """to <<= bits"""
        self._put(_alu | _shift_left, to, value=bits)

    def shift_right(self, to: int, bits: int) -> None:
        """to >>= bits, filled up with zeros"""
        self._put(_alu | _shift_right, to, value=bits)

    def big_endian(self, to: int, bits: int) -> None:
        """Turn what was loaded from a packet into a number."""
        self._put(0xDC, to, value=bits)

    def jump(self, label: str) -> None:
        """Go there."""
        self._branch(_always, 0, 0, 0, label)

    def jump_if(self, register: int, value: int, label: str) -> None:
        """Go there if register == value"""
        self._branch(_equal, register, 0, value, label)

    def jump_unless(self, register: int, value: int, label: str) -> None:
        """Go there if register != value"""
        self._branch(_unequal, register, 0, value, label)

    def jump_if_more(self, register: int, value: int, label: str) -> None:
        """Go there if register > value, unsigned"""
        self._branch(_more, register, 0, value, label)

    def jump_if_more_than(self, register: int, other: int, label: str) -> None:
        """Go there if register > other, unsigned"""
        self._branch(_by_register | _more, register, other, 0, label)

    def jump_if_same(self, register: int, other: int, label: str) -> None:
        """Go there if both registers are equal."""
        self._branch(_by_register | _equal, register, other, 0, label)

    def jump_unless_same(self, register: int, other: int, label: str) -> None:
        """Go there if the registers differ."""
        self._branch(_by_register | _unequal, register, other, 0, label)

    def call(self, helper: Helper) -> None:
        """r0 = helper(r1 … r5), which are lost"""
        self._put(0x85, value=helper)

    def lookup(self, map_fd: int, base: int, offset: int) -> None:
        """r0 = address of the map's value for the key at base + offset, 0 if there is none"""
        self._wide(1, 1, map_fd)  # source 1: BPF_PSEUDO_MAP_FD
        self.move(2, base)
        self.add(2, offset)
        self.call(Helper.map_lookup_elem)

    def exit(self) -> None:
        """Return r0."""
        self._put(0x95)

    def code(self) -> bytes:
        """The program; a KeyError names a label that is missing."""
        words = list(self._words)
        for at, label in self._jumps.items():
            opcode, to, source, _, value = words[at]
            words[at] = (opcode, to, source, self._labels[label] - at - 1, value)
        return b"".join(
            struct.pack("=BBhi", opcode, to | source << 4, offset, value) for opcode, to, source, offset, value in words
        )

    def _branch(self, condition: int, register: int, other: int, value: int, label: str) -> None:
        self._jumps[len(self._words)] = label
        self._put(_jump | condition, register, other, 0, value)

    def _wide(self, to: int, source: int, value: int) -> None:
        """A 64-bit constant, below 2**32, is two instructions."""
        self._put(0x18, to, source, 0, value - (1 << 32) if value >> 31 else value)
        self._put(0)

    def _put(self, opcode: int, to: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> None:
        self._words.append((opcode, to, source, offset, value))
