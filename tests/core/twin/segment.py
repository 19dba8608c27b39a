"""One super-packet in, wire-size packets out, as Linux cuts them (net/ipv4/tcp_offload.c, udp_offload.c).

The slow twin of csrc/packet/segment.c, and what a host does with a joined packet that the core wrote. What must stay true:
each segment is a whole packet of its own, with every length and checksum computed from nothing.
"""

from __future__ import annotations

from dataclasses import replace

from tests.core.twin.checksum import internet_checksum, transport_checksum
from tests.core.twin.ip import IPPacket, IPv4Packet, decode_ip, encode_ip, find_transport, protocol_tcp, protocol_udp

fin, psh, cwr = 0x01, 0x08, 0x80


def with_payload(packet: IPPacket, payload: bytes) -> IPPacket:
    """The packet with other bytes behind its IP header."""
    return replace(packet, payload=payload)


def finish_transport(packet: bytes) -> bytes:
    """The packet with its TCP or UDP checksum computed from nothing; 0 becomes ffff for UDP (RFC 768)."""
    decoded = decode_ip(packet)
    at = find_transport(decoded).offset
    protocol = find_transport(decoded).protocol
    field = at + (16 if protocol == protocol_tcp else 6)
    blank = packet[:field] + b"\0\0" + packet[field + 2 :]
    checksum = transport_checksum(decoded.source.packed, decoded.destination.packed, protocol, blank[at:])
    if protocol == protocol_udp:
        checksum = checksum or 0xFFFF
    return packet[:field] + checksum.to_bytes(2) + packet[field + 2 :]


def finish_partial(packet: bytes, start: int, offset: int) -> bytes:
    """What a device does for CHECKSUM_PARTIAL: sum from `start` to the end into the field (virtio 1.2, 5.1.6.2)."""
    field = start + offset
    checksum = internet_checksum(packet[start:]) or 0xFFFF
    return packet[:field] + checksum.to_bytes(2) + packet[field + 2 :]


def cut(packet: bytes, gso_size: int) -> list[bytes]:
    """The TCP or UDP super-packet in segments of `gso_size` payload bytes; the last may be shorter."""
    decoded = decode_ip(packet)
    transport = find_transport(decoded)
    at = transport.offset - (len(packet) - len(decoded.payload))
    is_tcp = transport.protocol == protocol_tcp
    header_end = at + ((decoded.payload[at + 12] >> 4) * 4 if is_tcp else 8)
    header, payload = bytearray(decoded.payload[:header_end]), decoded.payload[header_end:]
    sequence, flags = int.from_bytes(header[at + 4 : at + 8]), header[at + 13] if is_tcp else 0
    segments = []
    for index, offset in enumerate(range(0, len(payload), gso_size)):
        piece = payload[offset : offset + gso_size]
        if is_tcp:
            header[at + 4 : at + 8] = ((sequence + offset) % 2**32).to_bytes(4)
            header[at + 13] = flags
            if offset + gso_size < len(payload):
                header[at + 13] &= ~(fin | psh) & 0xFF
            if index:
                header[at + 13] &= ~cwr & 0xFF
        else:
            header[at + 4 : at + 6] = (8 + len(piece)).to_bytes(2)
        segment = with_payload(decoded, bytes(header) + piece)
        if isinstance(segment, IPv4Packet):
            segment = replace(segment, identification=(segment.identification + index) % 2**16)
        segments.append(finish_transport(encode_ip(segment)))
    return segments
