"""Packets to try: a plain one each way, and hypothesis strategies that build all kinds with scapy.

What must stay true: what a strategy gives is sound (right lengths and checksums, unicast between leased subnets), so
that the core has no reason to drop it.
"""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_RR, IPOption_Timestamp
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.packet import Packet, Raw


def examples(count: int) -> Any:
    """How hard hypothesis looks; no deadline for single examples, because the machine is shared."""
    quiet = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    return settings(max_examples=count, deadline=None, print_blob=True, suppress_health_check=quiet)


def inward(version: int = 4, /, payload: bytes = b"in", **fields: Any) -> Packet:
    """UDP from node 2 to node 1; `fields` go into the IP header."""
    return _ip(version, 2, 1, fields) / UDP(sport=1, dport=2) / Raw(payload)


def outward(version: int = 4, /, payload: bytes = b"out", **fields: Any) -> Packet:
    """UDP from node 1 to node 2; `fields` go into the IP header."""
    return _ip(version, 1, 2, fields) / UDP(sport=1, dport=2) / Raw(payload)


def _ip(version: int, source: int, destination: int, fields: dict[str, Any]) -> Packet:
    if version == 4:
        return IP(**{"src": f"10.5.{source}.9", "dst": f"10.5.{destination}.9", "flags": "DF", **fields})
    return IPv6(**{"src": f"fd05:{source}::9", "dst": f"fd05:{destination}::9", **fields})


good_in = bytes(inward(payload=b"marker"))
good_out = bytes(outward(payload=b"marker"))

_port = st.integers(1, 65535)
_payload = st.binary(max_size=600)
_word = st.integers(0, 65535)


@st.composite
def _tcp(draw: st.DrawFn) -> Packet:
    options = [("MSS", 1400), ("SAckOK", b""), ("Timestamp", (draw(_word), 0)), ("NOP", None), ("WScale", 7)]
    return TCP(
        sport=draw(_port),
        dport=draw(_port),
        seq=draw(st.integers(0, 2**32 - 1)),
        ack=draw(st.integers(0, 2**32 - 1)),
        window=draw(_word),
        flags=draw(st.integers(0, 0x1FF)),
        urgptr=draw(_word),
        options=draw(st.lists(st.sampled_from(options), max_size=3)),
    )


_udp = st.builds(lambda sport, dport: UDP(sport=sport, dport=dport), _port, _port)
_udp_without_checksum = st.builds(lambda sport: UDP(sport=sport, dport=7, chksum=0), _port)
_ip_options = st.lists(
    st.sampled_from([IPOption_NOP(), IPOption_RR(), IPOption_Timestamp(flg=0, timestamp=0)]), max_size=2
)
_pad = st.builds(lambda size: PadN(optdata=bytes(size)), st.integers(0, 20))
_extension = st.one_of(
    st.builds(lambda option: IPv6ExtHdrDestOpt(options=[option]), _pad),
    st.builds(lambda option: IPv6ExtHdrHopByHop(options=[option]), _pad),
    st.just(IPv6ExtHdrRouting(type=3, segleft=0)),
)


@st.composite
def ipv4_packets(draw: st.DrawFn, source: int, destination: int, *, ecn: bool = True) -> Packet:
    """IPv4 with options, any transport, fragments."""
    header = IP(
        src=f"10.5.{source}.{draw(st.integers(0, 255))}",
        dst=f"10.5.{destination}.{draw(st.integers(0, 254))}",
        tos=draw(st.integers(0, 255)) if ecn else draw(st.integers(0, 63)) << 2,
        id=draw(_word),
        ttl=draw(st.integers(2, 255)),
        flags=draw(st.sampled_from(["", "DF"])),
        options=draw(_ip_options),
    )
    kind = draw(st.sampled_from(["tcp", "udp", "udp0", "icmp", "other", "fragment"]))
    payload = Raw(draw(_payload))
    if kind == "fragment":
        header.flags, header.frag, header.proto = "MF", draw(st.integers(0, 8000)), draw(st.sampled_from([1, 6, 17]))
        return header / payload
    if kind == "other":
        header.proto = draw(st.sampled_from([33, 89, 132, 253, 254]))
        return header / payload
    if kind == "icmp":
        return header / ICMP(type=draw(st.sampled_from([0, 3, 8, 11, 12, 13]))) / payload
    return header / draw({"tcp": _tcp(), "udp": _udp, "udp0": _udp_without_checksum}[kind]) / payload


@st.composite
def ipv6_packets(draw: st.DrawFn, source: int, destination: int, *, ecn: bool = True) -> Packet:
    """IPv6 with extension headers, any transport, fragments."""
    packet: Packet = IPv6(
        src=f"fd05:{source}::{draw(_word):x}",
        dst=f"fd05:{destination}::{draw(_word):x}",
        tc=draw(st.integers(0, 255)) if ecn else draw(st.integers(0, 63)) << 2,
        fl=draw(st.integers(0, 2**20 - 1)),
        hlim=draw(st.integers(2, 255)),
    )
    for extension in draw(st.lists(_extension, max_size=3)):
        packet = packet / extension.copy()
    kind = draw(st.sampled_from(["tcp", "udp", "icmp", "other", "fragment"]))
    payload = Raw(draw(_payload))
    if kind == "fragment":
        return packet / IPv6ExtHdrFragment(offset=draw(st.integers(0, 8000)), m=1, id=7, nh=17) / payload
    if kind == "other":
        packet.lastlayer().nh = 59
        return packet / payload
    if kind == "icmp":
        return packet / ICMPv6EchoRequest(id=draw(_word), seq=draw(_word), data=payload.load)
    return packet / draw({"tcp": _tcp(), "udp": _udp}[kind]) / payload


def packets(source: int, destination: int, *, ecn: bool = True) -> st.SearchStrategy[bytes]:
    """Bytes of a sound packet of any kind between two nodes; `ecn` False: always Not-ECT."""
    return st.one_of(ipv4_packets(source, destination, ecn=ecn), ipv6_packets(source, destination, ecn=ecn)).map(bytes)


def sound(packet: bytes) -> bytes:
    """The packet with its own checksums (not those of packets inside it) computed afresh by scapy."""
    parsed = (IP if packet[0] >> 4 == 4 else IPv6)(packet)
    if IP in parsed:
        del parsed.chksum
        if parsed.flags.MF or parsed.frag:
            return bytes(parsed)
    if IPv6ExtHdrFragment in parsed:
        return packet
    for layer, name in ((TCP, "chksum"), (UDP, "chksum"), (ICMP, "chksum"), (ICMPv6EchoRequest, "cksum")):
        if layer in parsed and getattr(parsed[layer], name):
            delattr(parsed[layer], name)
            break
    return bytes(parsed)
