"""The Internet checksum and what flannel does to it on each hop.

The slow twin of csrc/packet/checksum.c. What must stay true: everything here works on big-endian words as the RFCs
write them, so that a mistake in the core's byte order cannot hide.
"""

from __future__ import annotations


def word_sum(data: bytes) -> int:
    """One's complement sum of the 16-bit words of `data`, an odd last byte padded with zero (RFC 1071)."""
    total = 0
    for at in range(0, len(data), 2):
        total += int.from_bytes(data[at : at + 2].ljust(2, b"\0"))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def internet_checksum(data: bytes) -> int:
    """Complement of the sum: what stands in a header whose checksum field was zero (RFC 1071)."""
    return word_sum(data) ^ 0xFFFF


def pseudo_header(source: bytes, destination: bytes, protocol: int, length: int) -> bytes:
    """What TCP, UDP and ICMPv6 sum besides themselves; `length` in bytes (RFC 9293 3.1, RFC 8200 8.1)."""
    if len(source) == 4:
        return source + destination + bytes([0, protocol]) + length.to_bytes(2)
    return source + destination + length.to_bytes(4) + bytes([0, 0, 0, protocol])


def transport_checksum(source: bytes, destination: bytes, protocol: int, segment: bytes) -> int:
    """Checksum for a TCP, UDP or ICMPv6 segment whose checksum field is zero; UDP's rule for 0 is the caller's."""
    return internet_checksum(pseudo_header(source, destination, protocol, len(segment)) + segment)


def decremented_checksum(checksum: int) -> int:
    """IPv4 header checksum after one less TTL: 0x0100 more, with end-around carry at 0xffff.

    Source: Linux include/net/ip.h ip_decrease_ttl, which flannel's proxy_amd64.c follows: feff → 0000.
    """
    total = checksum + 0x0100
    return (total + (total >= 0xFFFF)) & 0xFFFF
