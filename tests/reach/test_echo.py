"""Echo packets byte for byte, beside scapy's."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest

from dataplane.reach.echo import mark_bytes, reply_mark, request

mark = bytes(range(mark_bytes))


@pytest.mark.parametrize("body", [mark, mark + b"\xff", mark + bytes(1400), b"\xff" * 1401])
def test_requests_are_scapys(body: bytes) -> None:
    assert request(4, body) == bytes(ICMP(type=8, id=0, seq=0) / body)
    assert request(6, body) == bytes(ICMPv6EchoRequest(id=0, seq=0, data=body))


def test_the_mark_of_a_reply_is_found() -> None:
    assert reply_mark(4, bytes(IP(options=[]) / ICMP(type=0) / (mark + b"more"))) == mark
    assert reply_mark(4, bytes(IP(ihl=6, options=b"\x01\x01\x01\x00") / ICMP(type=0) / mark)) == mark
    assert reply_mark(6, bytes(ICMPv6EchoReply(data=mark))) == mark


@pytest.mark.parametrize(
    "packet", [b"", b"\x45", bytes(IP() / ICMP(type=8) / mark), bytes(IP() / ICMP(type=0) / mark[1:])]
)
def test_what_is_no_reply_of_ours_has_none(packet: bytes) -> None:
    assert reply_mark(4, packet) == b""
