"""What several senders put on the wire, in good order and in bad, for the joining of received packets.

What must stay true: a stream says for each datagram whether it is sound, so that a test knows what must come out.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.packet import Packet, Raw

from tests.core.partial import leave_partial
from tests.core.twin.ip import IPv4Packet, decode_ip, encode_ip, find_transport, protocol_tcp, protocol_udp
from tests.core.twin.segment import with_payload


@dataclass(frozen=True)
class Datagram:
    """One inner packet on the wire.

    Attributes:
        wire: its bytes.
        comes_as: the bytes that must reach the host, checksum finished; None where it must be dropped.
    """

    wire: bytes
    comes_as: bytes | None


@dataclass
class Flow:
    """A sender's state: what its next in-order packet looks like."""

    version: int
    is_tcp: bool
    port: int
    dont_fragment: bool
    sequence: int
    identification: int = 7

    def header(self, **changes: int) -> Packet:
        ttl = changes.get("ttl", 64)
        if self.version == 6:
            return IPv6(
                src="fd05:2::9", dst="fd05:1::9", hlim=ttl, tc=changes.get("tos", 0), fl=changes.get("label", 5)
            )
        flags = "DF" if self.dont_fragment else ""
        identification = self.identification % 65536
        return IP(src="10.5.2.9", dst="10.5.1.9", ttl=ttl, tos=changes.get("tos", 0), flags=flags, id=identification)

    def packet(self, payload: bytes, *, flags: str = "A", **changes: int) -> bytes:
        """The next packet in order; `changes` to ttl, tos, label, window, ack, timestamp, urgent pointer."""
        transport: Packet = UDP(sport=self.port, dport=53)
        if self.is_tcp:
            options = [("NOP", None), ("NOP", None), ("Timestamp", (changes.get("timestamp", 1), 2))]
            transport = TCP(
                sport=self.port,
                dport=53,
                seq=self.sequence % 2**32,
                ack=changes.get("ack", 1),
                window=changes.get("window", 500),
                urgptr=changes.get("urgent", 0),
                flags=flags,
                options=options,
            )
        raw = bytes(self.header(**changes) / transport / Raw(payload))
        self.identification += 1
        self.sequence += len(payload)
        return raw


_change = st.sampled_from(
    [{"ttl": 63}, {"tos": 0x10}, {"label": 6}, {"window": 501}, {"ack": 2}, {"timestamp": 9}, {"urgent": 1}]
)
_flags = st.sampled_from(["PA", "FA", "SA", "RA", "EA", "CA", "UA", "S", ""])
_event = st.sampled_from(
    ["next"] * 12
    + ["short", "long", "push", "flags", "change", "ack", "repeat", "swap", "gap", "id gap", "partial", "no checksum"]
    + ["damaged", "cut", "padded", "trailing", "fragment", "icmp", "odd header"]
)


def _damaged(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 0x55])


def _without_checksum(raw: bytes) -> bytes:
    at = 26 if raw[0] >> 4 == 4 else 46
    return raw[:at] + b"\0\0" + raw[at + 2 :]


def _trailing(raw: bytes) -> bytes:
    """Four bytes inside the IP packet behind the UDP datagram, which its length leaves out."""
    decoded = decode_ip(raw)
    return encode_ip(with_payload(decoded, decoded.payload + b"tail"))


def _odd_header(raw: bytes) -> bytes:
    """A TCP header that claims 60 bytes and has fewer: an IP packet of unknown content, to be carried as it is."""
    at = 32 if raw[0] >> 4 == 4 else 52
    return raw[:at] + b"\xf0" + raw[at + 1 :]


def _fragment(flow: Flow) -> bytes:
    if flow.version == 6:
        return bytes(flow.header() / IPv6ExtHdrFragment(nh=6, m=1, offset=0, id=3) / Raw(struct.pack("!HH", 9, 9) * 4))
    header = flow.header()
    header.flags, header.proto = "MF", 6 if flow.is_tcp else 17
    return bytes(header / Raw(struct.pack("!HH", flow.port, 53) * 4))


def _one(draw: st.DrawFn, flow: Flow, event: str, size: int) -> Datagram:
    """One datagram of the flow as the event wants it."""
    payload = draw(st.randoms(use_true_random=False)).randbytes(size)
    if event in ("icmp", "fragment"):
        raw = bytes(flow.header() / ICMP() / payload) if event == "icmp" and flow.version == 4 else _fragment(flow)
        return Datagram(raw, raw)
    if event == "short":
        payload = payload[: draw(st.integers(1, size))]
    elif event == "long":
        payload += b"long"
    elif event == "ack":
        payload = b""
    elif event == "gap":
        flow.sequence += draw(st.sampled_from([1, size, 2**31]))
    elif event == "id gap":
        flow.identification += draw(st.integers(1, 65534))
    flags = draw(_flags) if event == "flags" else "PA" if event == "push" else "A"
    changes = draw(_change) if event == "change" else {}
    raw = flow.packet(payload, flags=flags, **changes)
    wire = raw
    comes_as: bytes | None = raw
    if event == "partial":
        wire = leave_partial(raw)[0]
    elif event == "damaged" and payload:
        wire, comes_as = _damaged(raw), None
    elif event == "cut":
        wire, comes_as = raw[: draw(st.integers(20, len(raw) - 1))], None
    elif event == "padded":
        wire = raw + bytes(draw(st.integers(1, 9)))
    elif event == "no checksum" and not flow.is_tcp and flow.version == 4:
        wire = comes_as = _without_checksum(raw)
    elif event == "trailing" and not flow.is_tcp:
        wire = comes_as = _trailing(raw)
    elif event == "odd header" and flow.is_tcp:
        wire = _odd_header(raw)
        # With 60 bytes there it is a header, and its checksum wrong.
        comes_as = wire if len(decode_ip(raw).payload) < 60 else None
    return Datagram(wire, comes_as)


@st.composite
def streams(draw: st.DrawFn) -> list[Datagram]:
    """Up to 60 datagrams of up to 4 flows, interleaved in runs, with all that goes wrong on a path."""
    count = draw(st.integers(1, 4))
    flows = [
        Flow(
            version=draw(st.sampled_from([4, 6])),
            is_tcp=draw(st.booleans()),
            port=1000 + index,
            dont_fragment=draw(st.booleans()),
            sequence=draw(st.sampled_from([0, 1, 2**32 - 300, 2**31])),
        )
        for index in range(count)
    ]
    sizes = [draw(st.integers(1, 300)) for _ in flows]
    made: list[Datagram] = []
    for _ in range(draw(st.integers(2, 60))):
        which = draw(st.integers(0, count - 1))
        event = draw(_event)
        if event == "repeat" and made:
            made.append(made[draw(st.integers(max(0, len(made) - 4), len(made) - 1))])
        elif event == "swap" and len(made) > 1:
            made[-1], made[-2] = made[-2], made[-1]
        else:
            made.append(_one(draw, flows[which], event, sizes[which]))
    return made


def flow_key(raw: bytes) -> tuple[object, ...]:
    """Packets with the same key must keep their order; a fragment belongs to every flow: its key is empty."""
    packet = decode_ip(raw)
    transport = find_transport(packet)
    if transport.is_fragment:
        return ()
    rest = raw[transport.offset :]
    known = (transport.protocol == protocol_tcp and len(rest) >= 20 and 20 <= (rest[12] >> 4) * 4 <= len(rest)) or (
        transport.protocol == protocol_udp and len(rest) >= 8 and 8 <= int.from_bytes(rest[4:6]) <= len(rest)
    )
    return (packet.source, packet.destination, transport.protocol, rest[:4] if known else b"")


def without_free_id(raw: bytes) -> bytes:
    """An IPv4 packet with DF has an ID without meaning (RFC 6864 section 4.1), which joining does not keep: set to 0."""
    packet = decode_ip(raw)
    if isinstance(packet, IPv4Packet) and packet.flags & 2:
        return raw[:4] + b"\0\0" + raw[6:10] + b"\0\0" + raw[12:]
    return raw
