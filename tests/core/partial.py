"""TCP and UDP packets as a device sees them that is to finish the checksum (CHECKSUM_PARTIAL)."""

from __future__ import annotations

from typing import Any

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet, Raw

from tests.core.edges import Offload, needs_csum
from tests.core.twin.checksum import pseudo_header, word_sum
from tests.core.twin.ip import decode_ip, find_transport, protocol_tcp


def transport_packet(source: int, destination: int, version: int, is_tcp: bool, payload: bytes, **tcp: Any) -> bytes:
    """A whole packet between two nodes; `tcp` goes into the TCP header."""
    header: Packet = IP(src=f"10.5.{source}.9", dst=f"10.5.{destination}.9", flags="DF", id=77)
    if version == 6:
        header = IPv6(src=f"fd05:{source}::9", dst=f"fd05:{destination}::9", fl=0x12345)
    transport = TCP(**{"sport": 5, "dport": 6, "flags": "A", "ack": 9, **tcp}) if is_tcp else UDP(sport=5, dport=6)
    return bytes(header / transport / Raw(payload))


def leave_partial(packet: bytes, *, gso_type: int = 0, gso_size: int = 0) -> tuple[bytes, Offload]:
    """The packet with only the pseudo-header's sum in its checksum field, and the header that says so."""
    decoded = decode_ip(packet)
    transport = find_transport(decoded)
    at = transport.offset
    offset = 16 if transport.protocol == protocol_tcp else 6
    source, destination = decoded.source.packed, decoded.destination.packed
    partial = word_sum(pseudo_header(source, destination, transport.protocol, len(packet) - at))
    data = packet[: at + offset] + partial.to_bytes(2) + packet[at + offset + 2 :]
    header_bytes = at + ((packet[at + 12] >> 4) * 4 if transport.protocol == protocol_tcp else 8)
    return data, Offload(needs_csum, gso_type, header_bytes, gso_size, at, offset)
