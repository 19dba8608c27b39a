"""What the core gives the TAP, read slowly: a virtio-net header and a frame that it must be true of.

What must stay true: nothing here knows how the core writes a frame; every expectation is found by walking the bytes.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from tests.core.edges import Edges, needs_csum
from tests.core.twin.checksum import pseudo_header, word_sum
from tests.core.twin.ip import IPPacket, IPv4Packet, decode_ip, ecn_of, encode_ip, find_transport, protocol_udp
from tests.core.twin.segment import with_payload

# struct virtio_net_hdr_v1_hash_tunnel (VIRTIO 1.4, 5.1.6).
_tunnel_header = struct.Struct("<BBHHHHHIHHHH")
tunnel_ipv4, tunnel_ipv6, outer_checksum = 0x20, 0x40, 8


class Header(NamedTuple):
    """The virtio-net header of a tunnel super-packet."""

    flags: int
    gso_type: int
    hdr_len: int
    gso_size: int
    csum_start: int
    csum_offset: int
    num_buffers: int
    hash_value: int
    hash_report: int
    padding: int
    outer_th_offset: int
    inner_nh_offset: int


class Frame(NamedTuple):
    """A frame taken apart: `outer` without payload, `datagram` the outer UDP payload, `start` where the inner IP begins."""

    header: Header
    outer: IPPacket
    ports: tuple[int, int]
    checksum: int
    datagram: bytes
    start: int


def read_frame(data: bytes, overhead: int) -> Frame:
    """Take a frame apart; its own lengths must agree, and its outer IP header's checksum be right."""
    header, frame = Header(*_tunnel_header.unpack(data[:24])), data[24:]
    version = {b"\x08\x00": 4, b"\x86\xdd": 6}[frame[12:14]]
    outer = decode_ip(frame[14:])
    assert (frame[14] >> 4, len(encode_ip(outer))) == (version, len(frame) - 14)
    source, destination, length, checksum = struct.unpack(">HHHH", outer.payload[:8])
    assert length == len(outer.payload)
    start = len(frame) - len(outer.payload) + 8 + overhead
    return Frame(header, with_payload(outer, b""), (source, destination), checksum, outer.payload[8:], start)


def expected_header(frame: Frame, super_data: bytes, gso_type: int, gso_size: int) -> Header:
    """What the header must say of this frame, found by walking the inner packet."""
    transport = find_transport(decode_ip(super_data))
    is_udp = transport.protocol == protocol_udp
    transport_bytes = 8 if is_udp else (super_data[transport.offset + 12] >> 4) * 4
    outer_bytes = 20 if isinstance(frame.outer, IPv4Packet) else 40
    return Header(
        flags=needs_csum | outer_checksum,
        gso_type=gso_type | (tunnel_ipv4 if isinstance(frame.outer, IPv4Packet) else tunnel_ipv6),
        hdr_len=frame.start + transport.offset + transport_bytes,
        gso_size=gso_size,
        csum_start=frame.start + transport.offset,
        csum_offset=6 if is_udp else 16,
        num_buffers=0,
        hash_value=0,
        hash_report=0,
        padding=0,
        outer_th_offset=14 + outer_bytes,
        inner_nh_offset=frame.start,
    )


def pseudo_sum(packet: IPPacket, length: int) -> int:
    return word_sum(pseudo_header(packet.source.packed, packet.destination.packed, protocol_udp, length))


def check_outer(frame: Frame, edges: Edges, inner: bytes) -> None:
    """The outer headers: as a socket of ours would write them, but for the checksum that the kernel is to finish."""
    outer, ecn = frame.outer, ecn_of(decode_ip(inner)) if edges.backend == "vxlan" else 0
    if isinstance(outer, IPv4Packet):
        assert (str(outer.source), str(outer.destination)) == ("127.0.0.1", "127.0.0.2")
        assert (outer.protocol, outer.ttl, outer.tos, outer.flags, outer.offset) == (protocol_udp, 64, ecn, 0, 0)
        assert outer.options == b""
    else:
        assert (str(outer.source), str(outer.destination)) == ("::1", "::1")
        assert (outer.next_header, outer.hop_limit, outer.traffic_class) == (protocol_udp, 64, ecn)
    assert frame.ports[1] == edges.config.port
    assert frame.checksum == pseudo_sum(outer, len(frame.datagram) + 8)
