"""What an ICMP "destination unreachable" says, and of which datagram: it quotes the start of it. Pure.

What must stay true: no bytes raise, and nothing is read into a message but a whole IP and UDP header of a datagram's first
piece. Anybody can forge one, source and quote included: what it says may be shown, never acted upon. The ICMP checksum is
not looked at (of a long message only the start is here): what is damaged hardly names our port and a peer's address.
Source: RFC 792, RFC 1122 section 3.2.2.1, RFC 1812 section 5.2.7.1; RFC 4443 section 3.1.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from dataplane.model import IPAddress, UnreachableReason

ipv4_type = 3
ipv6_type = 1
enough_bytes = (
    60 + 8 + 60 + 8
)  # outer IPv4 header with all options, ICMP header, the same of the quoted packet, UDP header

# Left out are the codes that say nothing of the peer: protocol, fragmentation needed, source route, precedence.
_ipv4_reasons: Mapping[int, UnreachableReason] = {
    0: "no_route",
    1: "host_unreachable",
    3: "port_closed",
    6: "no_route",  # network unknown
    7: "host_unreachable",  # host unknown
    9: "prohibited",  # network
    10: "prohibited",  # host
    11: "no_route",  # for the type of service
    12: "host_unreachable",  # for the type of service
    13: "prohibited",  # communication
}
_ipv6_reasons: Mapping[int, UnreachableReason] = {
    0: "no_route",
    1: "prohibited",
    2: "no_route",  # beyond the scope of the source address
    3: "host_unreachable",
    4: "port_closed",
    5: "prohibited",  # source address failed a policy
    6: "prohibited",  # reject route
}
_udp = 17
_udp_ports = struct.Struct("!HH")
_icmp_bytes = 8
_ipv6_bytes = 40


@dataclass(frozen=True, slots=True)
class Unreachable:
    """One message.

    Attributes:
        said_by: its sender.
        source, destination, port: of the UDP datagram that could not be delivered.
    """

    reason: UnreachableReason
    said_by: IPAddress
    source: IPAddress
    destination: IPAddress
    port: int


def read_ipv4(packet: bytes) -> Unreachable | None:
    """Decode an IPv4 packet with ICMP inside, as raw sockets give it; None where it says nothing of a UDP datagram."""
    header = _ipv4_header_bytes(packet)
    if header is None:
        return None
    icmp = packet[header:]
    quoted = icmp[_icmp_bytes:]
    quoted_header = _ipv4_header_bytes(quoted)
    if icmp[:1] != bytes([ipv4_type]) or quoted_header is None or quoted[9] != _udp or _offset(quoted):
        return None
    reason = _ipv4_reasons.get(icmp[1])
    ports = quoted[quoted_header : quoted_header + _udp_ports.size]
    if reason is None or len(ports) < _udp_ports.size:
        return None
    return Unreachable(
        reason,
        IPv4Address(packet[12:16]),
        IPv4Address(quoted[12:16]),
        IPv4Address(quoted[16:20]),
        _udp_ports.unpack(ports)[1],
    )


def read_ipv6(message: bytes, said_by: IPv6Address) -> Unreachable | None:
    """Decode an ICMPv6 message, which raw sockets give without the IPv6 header; None as above.

    A quoted packet with extension headers is none of ours.
    """
    quoted = message[_icmp_bytes:]
    ports = quoted[_ipv6_bytes : _ipv6_bytes + _udp_ports.size]
    if message[:1] != bytes([ipv6_type]) or len(ports) < _udp_ports.size or quoted[0] >> 4 != 6 or quoted[6] != _udp:
        return None
    reason = _ipv6_reasons.get(message[1])
    if reason is None:
        return None
    port = _udp_ports.unpack(ports)[1]
    return Unreachable(reason, said_by, IPv6Address(quoted[8:24]), IPv6Address(quoted[24:40]), port)


def _ipv4_header_bytes(packet: bytes) -> int | None:
    """Length of the IPv4 header, options included; None where it is not there, or not whole."""
    if len(packet) < 20 or packet[0] >> 4 != 4:
        return None
    length = (packet[0] & 0x0F) * 4
    return length if 20 <= length <= len(packet) else None


def _offset(packet: bytes) -> int:
    return int.from_bytes(packet[6:8], "big") & 0x1FFF
