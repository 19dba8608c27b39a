"""The twin itself: against scapy, against truncation at every byte, and whatever bytes come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.inet6 import IPv6
from scapy.layers.vxlan import VXLAN
from scapy.utils import checksum

from dataplane.errors import BadInput
from tests.core.edges import own_mac, peer_mac
from tests.core.packets import examples, good_in, ipv4_packets, ipv6_packets, outward, packets, sound
from tests.core.twin.checksum import internet_checksum
from tests.core.twin.ecn import merge_ecn
from tests.core.twin.ip import decode_ip, decrement_ttl, ecn_of, with_ecn
from tests.core.twin.segment import finish_transport
from tests.core.twin.wire import VxlanDatagram, decode_udp, decode_vxlan, encode_udp, encode_vxlan


@given(st.binary(max_size=200))
def test_checksum_is_scapys(data: bytes) -> None:
    assert internet_checksum(data) == checksum(data)


@examples(200)
@given(packets(1, 2), st.binary(max_size=20))
def test_decoding_and_encoding_is_the_identity(raw: bytes, padding: bytes) -> None:
    packet = decode_udp(raw + padding)
    assert encode_udp(packet) == raw
    datagram = VxlanDatagram(7, own_mac, peer_mac, packet)
    assert decode_vxlan(encode_vxlan(datagram) + padding) == datagram
    frame = VXLAN(encode_vxlan(datagram))
    assert (frame.vni, int(frame.flags), bytes(frame["Ethernet"].payload)) == (7, 8, raw)


@examples(100)
@given(ipv4_packets(1, 2))
def test_one_hop_is_scapys(packet: IP) -> None:
    hop = decrement_ttl(bytes(packet))
    assert hop[8] == packet.ttl - 1
    assert hop == sound(hop)


@examples(50)
@given(ipv6_packets(1, 2), st.integers(0, 3))
def test_ecn_keeps_the_rest(packet: IPv6, ecn: int) -> None:
    decoded = decode_ip(bytes(packet))
    changed = with_ecn(decoded, ecn)
    assert ecn_of(changed) == ecn
    assert with_ecn(changed, ecn_of(decoded)) == decoded


@examples(100)
@given(st.sampled_from([4, 6]), st.binary(max_size=99))
def test_transport_checksum_is_scapys(version: int, payload: bytes) -> None:
    raw = bytes(outward(version, payload))
    field = 26 if version == 4 else 46
    assert finish_transport(raw[:field] + b"\xab\xcd" + raw[field + 2 :]) == raw


def test_every_cut_is_refused() -> None:
    datagram = encode_vxlan(VxlanDatagram(1, own_mac, peer_mac, decode_ip(good_in)))
    for length in range(len(datagram)):
        with pytest.raises(BadInput):
            decode_vxlan(datagram[:length])


@examples(300)
@given(st.binary(max_size=120))
def test_any_bytes_are_a_value_or_one_error(data: bytes) -> None:
    for decode in (decode_ip, decode_udp, decode_vxlan):
        try:
            decode(data)
        except BadInput as error:
            assert (
                "allowed" in str(error)
                or "wanted" in str(error)
                or "before" in str(error)
                or "wrong" in str(error)
                or "at most" in str(error)
            )


def test_the_whole_of_figure_4() -> None:
    """RFC 6040 section 4.2, by its sentences: CE on Not-ECT drops, CE always wins, ECT(1) outside beats ECT(0)."""
    for inner in range(4):
        for outer in range(4):
            merged = merge_ecn(inner, outer)
            if outer == 3:
                assert merged == (None if inner == 0 else 3)
            elif (inner, outer) == (2, 1):
                assert merged == 1
            else:
                assert merged == inner
