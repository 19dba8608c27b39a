"""Inner IPv4 and IPv6 packets: headers decoded and encoded, the transport found, TTL and ECN changed.

The slow twin of csrc/packet/ip.c. What must stay true: a decoded packet, encoded again, is the same bytes without the
padding behind it; a header that lies about its lengths is `BadInput`, never a guess.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv6Address

from dataplane.errors import BadInput
from tests.core.twin.checksum import decremented_checksum, internet_checksum

protocol_icmp, protocol_tcp, protocol_udp, protocol_fragment, protocol_icmpv6 = 1, 6, 17, 44, 58
extension_headers = frozenset((0, 43, 60))
"""Hop-by-hop options, routing, destination options: all share one layout (RFC 8200 section 4)."""


@dataclass(frozen=True, slots=True)
class IPv4Packet:
    """An IPv4 packet (RFC 791 section 3.1); its lengths and header checksum follow from the rest.

    Attributes:
        tos: DSCP and ECN, 8 bits.
        flags: reserved, DF, MF: 3 bits.
        offset: of a fragment, in units of 8 bytes.
        options: padded to a multiple of 4 bytes.
        payload: all bytes behind the header.
    """

    source: IPv4Address
    destination: IPv4Address
    protocol: int
    payload: bytes
    ttl: int = 64
    tos: int = 0
    identification: int = 0
    flags: int = 0
    offset: int = 0
    options: bytes = b""

    @property
    def is_fragment(self) -> bool:
        """Part of a packet, the first one included."""
        return bool(self.flags & 1 or self.offset)


@dataclass(frozen=True, slots=True)
class IPv6Packet:
    """An IPv6 packet (RFC 8200 section 3); extension headers stand at the beginning of the payload."""

    source: IPv6Address
    destination: IPv6Address
    next_header: int
    payload: bytes
    hop_limit: int = 64
    traffic_class: int = 0
    flow_label: int = 0


IPPacket = IPv4Packet | IPv6Packet


@dataclass(frozen=True, slots=True)
class Transport:
    """Where the transport header of a packet begins.

    Attributes:
        protocol: 6 for TCP, 17 for UDP, and so on.
        offset: from the packet's first byte.
        is_fragment: the header, if there at all, belongs to a packet of which this is a part.
    """

    protocol: int
    offset: int
    is_fragment: bool


def decode_ip(data: bytes) -> IPPacket:
    """Decode one inner packet; bytes behind it are padding and left out. Raises `BadInput`."""
    if not data:
        raise BadInput("inner packet: empty; an IPv4 or IPv6 packet is wanted")
    version = data[0] >> 4
    if version == 4:
        return _decode_ipv4(data)
    if version == 6:
        return _decode_ipv6(data)
    raise BadInput(f"inner packet, byte 0: IP version {version}; 4 or 6 is allowed")


def _decode_ipv4(data: bytes) -> IPv4Packet:
    if len(data) < 20:
        raise BadInput(f"inner IPv4 packet: {len(data)} bytes; at least 20 are wanted")
    header, total = (data[0] & 15) * 4, int.from_bytes(data[2:4])
    if header < 20:
        raise BadInput(f"inner IPv4 packet, byte 0: header of {header} bytes; at least 20 are wanted")
    if not header <= total <= len(data):
        raise BadInput(f"inner IPv4 packet, bytes 2-3: length {total}; {header} to {len(data)} is allowed")
    if internet_checksum(data[:header]) != 0:
        raise BadInput("inner IPv4 packet, bytes 10-11: wrong header checksum")
    fragment = int.from_bytes(data[6:8])
    return IPv4Packet(
        source=IPv4Address(data[12:16]),
        destination=IPv4Address(data[16:20]),
        protocol=data[9],
        payload=data[header:total],
        ttl=data[8],
        tos=data[1],
        identification=int.from_bytes(data[4:6]),
        flags=fragment >> 13,
        offset=fragment & 0x1FFF,
        options=data[20:header],
    )


def _decode_ipv6(data: bytes) -> IPv6Packet:
    if len(data) < 40:
        raise BadInput(f"inner IPv6 packet: {len(data)} bytes; at least 40 are wanted")
    first, length = int.from_bytes(data[:4]), int.from_bytes(data[4:6])
    if 40 + length > len(data):
        raise BadInput(f"inner IPv6 packet, bytes 4-5: payload of {length} bytes; at most {len(data) - 40} are there")
    return IPv6Packet(
        source=IPv6Address(data[8:24]),
        destination=IPv6Address(data[24:40]),
        next_header=data[6],
        payload=data[40 : 40 + length],
        hop_limit=data[7],
        traffic_class=first >> 20 & 0xFF,
        flow_label=first & 0xFFFFF,
    )


def encode_ip(packet: IPPacket) -> bytes:
    """The packet's bytes, with lengths and the IPv4 header checksum computed."""
    if isinstance(packet, IPv6Packet):
        first = 6 << 28 | packet.traffic_class << 20 | packet.flow_label
        header = first.to_bytes(4) + len(packet.payload).to_bytes(2) + bytes([packet.next_header, packet.hop_limit])
        return header + packet.source.packed + packet.destination.packed + packet.payload
    length = 20 + len(packet.options)
    header = bytes([4 << 4 | length // 4, packet.tos]) + (length + len(packet.payload)).to_bytes(2)
    header += packet.identification.to_bytes(2) + (packet.flags << 13 | packet.offset).to_bytes(2)
    header += bytes([packet.ttl, packet.protocol, 0, 0])
    header += packet.source.packed + packet.destination.packed + packet.options
    return header[:10] + internet_checksum(header).to_bytes(2) + header[12:] + packet.payload


def find_transport(packet: IPPacket) -> Transport:
    """Walk the IPv6 extension headers, as far as they are whole, to the transport header."""
    if isinstance(packet, IPv4Packet):
        return Transport(packet.protocol, 20 + len(packet.options), packet.is_fragment)
    following, at = packet.next_header, 0
    while following in extension_headers and len(packet.payload) >= at + 8:
        step = (packet.payload[at + 1] + 1) * 8
        if at + step > len(packet.payload):
            break
        following, at = packet.payload[at], at + step
    return Transport(following, 40 + at, following == protocol_fragment)


def ecn_of(packet: IPPacket) -> int:
    """The two ECN bits: 0 Not-ECT, 1 ECT(1), 2 ECT(0), 3 CE (RFC 3168 section 5)."""
    return (packet.tos if isinstance(packet, IPv4Packet) else packet.traffic_class) & 3


def with_ecn(packet: IPPacket, ecn: int) -> IPPacket:
    """The packet with other ECN bits."""
    if isinstance(packet, IPv4Packet):
        return replace(packet, tos=packet.tos & ~3 | ecn)
    return replace(packet, traffic_class=packet.traffic_class & ~3 | ecn)


def decrement_ttl(data: bytes) -> bytes:
    """The packet's bytes one hop on, the IPv4 checksum changed as flannel changes it; `data` holds a whole packet.

    Raises `BadInput` where TTL or hop limit is used up: then a router drops the packet.
    """
    at = 8 if data[0] >> 4 == 4 else 7
    if data[at] <= 1:
        raise BadInput(f"inner packet, byte {at}: TTL {data[at]} ends here; at least 2 is wanted to go on")
    hop = data[:at] + bytes([data[at] - 1]) + data[at + 1 :]
    if at == 7:
        return hop
    return hop[:10] + decremented_checksum(int.from_bytes(data[10:12])).to_bytes(2) + hop[12:]
