"""What is read into ICMP errors: the datagram that they quote, and nothing into whatever else comes."""

from __future__ import annotations

import array
import random
import socket
import struct
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption
from scapy.layers.inet6 import ICMPv6DestUnreach, IPv6, IPv6ExtHdrFragment
from scapy.packet import Packet, Raw

from dataplane.host.edges.icmp_errors import Unreachable, enough_bytes, read_ipv4, read_ipv6
from dataplane.host.edges.icmp_socket import port_program

ours, peers, router = "192.0.2.1", "192.0.2.2", "198.51.100.9"
ours6, peers6, router6 = "2001:db8::1", "2001:db8::2", "2001:db8:9::9"
port = 8472
most_options = [IPOption(b"\x83\x27\x04" + bytes(36)), IPOption(b"\x01")]  # 40 bytes
datagram = UDP(sport=50000, dport=port) / Raw(bytes(8))


def message(code: int = 3, quoted: Packet | bytes | None = None, kind: int = 3, **outer: object) -> bytes:
    quoted = IP(src=ours, dst=peers) / datagram if quoted is None else quoted
    return bytes(IP(src=router, dst=ours, **outer) / ICMP(type=kind, code=code) / Raw(bytes(quoted)))


def message6(code: int = 4, quoted: Packet | bytes | None = None) -> bytes:
    quoted = IPv6(src=ours6, dst=peers6) / datagram if quoted is None else quoted
    return bytes(IPv6(src=router6, dst=ours6) / ICMPv6DestUnreach(code=code) / Raw(bytes(quoted)))[40:]


reasons = {
    0: "no_route",
    1: "host_unreachable",
    3: "port_closed",
    6: "no_route",
    7: "host_unreachable",
    9: "prohibited",
}
reasons |= {10: "prohibited", 11: "no_route", 12: "host_unreachable", 13: "prohibited"}


@pytest.mark.parametrize("code", range(17))
def test_each_code_of_ipv4(code: int) -> None:
    found = read_ipv4(message(code))
    if code not in reasons:
        assert found is None
    else:
        expected = (IPv4Address(router), IPv4Address(ours), IPv4Address(peers), port)
        assert found == Unreachable(reasons[code], *expected)  # type: ignore[arg-type]


reasons6 = {0: "no_route", 1: "prohibited", 2: "no_route", 3: "host_unreachable", 4: "port_closed", 5: "prohibited"}
reasons6 |= {6: "prohibited"}


@pytest.mark.parametrize("code", range(9))
def test_each_code_of_ipv6(code: int) -> None:
    found = read_ipv6(message6(code), IPv6Address(router6))
    if code not in reasons6:
        assert found is None
    else:
        expected = (IPv6Address(router6), IPv6Address(ours6), IPv6Address(peers6), port)
        assert found == Unreachable(reasons6[code], *expected)  # type: ignore[arg-type]


def test_options_in_both_headers_and_the_shortest_quote() -> None:
    quoted = IP(src=ours, dst=peers, options=most_options) / datagram
    assert len(quoted) == 60 + 8 + 8
    long = message(quoted=bytes(quoted)[: 60 + 8], options=most_options)
    assert len(long) == enough_bytes
    found = read_ipv4(long)
    assert found is not None and (found.port, found.destination) == (port, IPv4Address(peers))


@pytest.mark.parametrize(
    "packet",
    [
        message(kind=11),  # time exceeded
        message(quoted=IP(src=ours, dst=peers) / TCP(dport=port)),
        message(quoted=IP(src=ours, dst=peers, frag=1, proto=17) / Raw(bytes(datagram))),
        message(quoted=IPv6(src=ours6, dst=peers6) / datagram),
    ],
)
def test_what_quotes_no_datagram_says_nothing(packet: bytes) -> None:
    assert read_ipv4(packet) is None


def test_what_quotes_no_datagram_says_nothing_ipv6() -> None:
    sender = IPv6Address(router6)
    assert read_ipv6(message6(quoted=IPv6(src=ours6, dst=peers6) / TCP(dport=port)), sender) is None
    assert read_ipv6(message6(quoted=IPv6(src=ours6, dst=peers6) / IPv6ExtHdrFragment() / datagram), sender) is None
    assert read_ipv6(message6(quoted=bytes(IP(src=ours, dst=peers) / datagram) + bytes(20)), sender) is None
    assert read_ipv6(b"\x80" + message6()[1:], sender) is None  # an echo request


def changed(data: bytes, at: int, value: int) -> bytes:
    return data[:at] + bytes([value]) + data[at + 1 :]


def test_headers_of_another_version_or_of_no_length_say_nothing() -> None:
    whole, whole6 = message(), message6()
    for at in (0, 20 + 8):
        assert read_ipv4(changed(whole, at, 0x65)) is None
        for words in (0, 1, 4):
            assert read_ipv4(changed(whole, at, 0x40 | words)) is None
    assert read_ipv4(changed(whole, 20 + 8, 0x4F)) is None  # longer than what is there
    assert read_ipv6(changed(whole6, 8, 0x45), IPv6Address(router6)) is None


def test_every_shorter_message_says_nothing() -> None:
    whole, whole6 = message()[: 20 + 8 + 20 + 4], message6()[: 8 + 40 + 4]
    assert read_ipv4(whole) is not None and read_ipv6(whole6, IPv6Address(router6)) is not None
    assert {read_ipv4(whole[:length]) for length in range(len(whole))} == {None}
    assert {read_ipv6(whole6[:length], IPv6Address(router6)) for length in range(len(whole6))} == {None}


@given(st.binary(max_size=200))
def test_no_bytes_raise(data: bytes) -> None:
    read_ipv4(data)
    read_ipv6(data, IPv6Address(router6))


def test_no_damage_raises() -> None:
    dice = random.Random(1)
    for whole in (message(), message(options=most_options), message6()):
        for _ in range(5000):
            data = bytearray(whole[: dice.randrange(len(whole) + 1)])
            for _ in range(min(len(data), dice.randrange(4))):
                data[dice.randrange(len(data))] = dice.randrange(256)
            read_ipv4(bytes(data))
            read_ipv6(bytes(data), IPv6Address(router6))


@pytest.mark.parametrize(
    ("family", "data", "taken"),
    [
        (4, message(), True),
        (4, message(options=most_options), True),
        (4, message(quoted=IP(src=ours, dst=peers, options=most_options) / datagram), True),
        (4, message(quoted=IP(src=ours, dst=peers) / UDP(sport=port, dport=53) / Raw(bytes(40))), False),
        (4, message()[: 20 + 8 + 20 + 3], False),
        (4, b"\x45", False),
        (6, message6(), True),
        (6, message6(quoted=IPv6(src=ours6, dst=peers6) / UDP(sport=port, dport=53) / Raw(bytes(40))), False),
        (6, message6()[: 8 + 40 + 3], False),
    ],
)
def test_the_kernels_filter_takes_what_quotes_our_port_alone(family: int, data: bytes, taken: bool) -> None:
    """Filters see what is sent over a pair of unix sockets as they see a raw socket's messages."""
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with here, there:
        code = array.array("B", port_program(family, port))  # type: ignore[arg-type]
        there.setsockopt(socket.SOL_SOCKET, 26, struct.pack("HP", len(code) // 8, code.buffer_info()[0]))
        there.setblocking(False)
        here.send(data)
        if taken:
            assert there.recv(1500) == data
        else:
            with pytest.raises(BlockingIOError):
                there.recv(1500)
