"""ICMP errors that the tunnel owes the sender of a packet it cannot carry.

The slow twin of csrc/packet/icmp.c. IPv4 errors have the form of flannel's proxy_amd64.c: ID 0, no DF, TTL 8, quoting the
offender's header and 8 bytes. IPv6 errors quote as much as fits 1280 bytes (RFC 4443 section 2.4 c).
"""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address

from dataplane.errors import BadInput
from dataplane.model import IPAddress
from tests.core.twin.checksum import internet_checksum, transport_checksum
from tests.core.twin.ip import IPv4Packet, IPv6Packet, decode_ip, encode_ip, protocol_icmp, protocol_icmpv6

_ipv6_least_mtu = 1280


def net_unreachable(offender: bytes, source: IPAddress) -> bytes:
    """No peer holds the destination: IPv4 type 3 code 0 (RFC 792), IPv6 type 1 code 0 (RFC 4443 section 3.1)."""
    return _error(offender, source, (3, 0), (1, 0), bytes(4))


def time_exceeded(offender: bytes, source: IPAddress) -> bytes:
    """TTL used up: IPv4 type 11 code 0 (RFC 792), IPv6 type 3 code 0 (RFC 4443 section 3.3)."""
    return _error(offender, source, (11, 0), (3, 0), bytes(4))


def too_big(offender: bytes, source: IPAddress, mtu: int) -> bytes:
    """Longer than `mtu` bytes and not to be fragmented: IPv4 3/4 (RFC 1191 section 4), IPv6 2/0 (RFC 4443 3.2)."""
    return _error(offender, source, (3, 4), (2, 0), mtu.to_bytes(4))


def _error(offender: bytes, source: IPAddress, ipv4: tuple[int, int], ipv6: tuple[int, int], rest: bytes) -> bytes:
    """Raises `BadInput` if the offender is no IP packet or of another family than `source`, our tunnel address."""
    packet = decode_ip(offender)
    if isinstance(packet, IPv4Packet) and isinstance(source, IPv4Address):
        message = bytes(ipv4) + b"\0\0" + rest + encode_ip(packet)[: 20 + len(packet.options) + 8]
        message = message[:2] + internet_checksum(message).to_bytes(2) + message[4:]
        return encode_ip(IPv4Packet(source, packet.source, protocol_icmp, message, ttl=8))
    if isinstance(packet, IPv6Packet) and isinstance(source, IPv6Address):
        message = bytes(ipv6) + b"\0\0" + rest + encode_ip(packet)[: _ipv6_least_mtu - 40 - 8]
        checksum = transport_checksum(source.packed, packet.source.packed, protocol_icmpv6, message)
        message = message[:2] + checksum.to_bytes(2) + message[4:]
        return encode_ip(IPv6Packet(source, packet.source, protocol_icmpv6, message))
    raise BadInput(f"ICMP error: our address {source} is of another IP version than the packet from {packet.source}")
