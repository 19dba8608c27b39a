"""The core through its Python boundary: the contract, every refusal, offloads off one by one, the table, starting and stopping.

Not provoked here, and why: send_error, send_full, tun_error, tun_full need a socket or device that fails (the namespace tests
meet them); receive_truncated needs a datagram longer than UDP has; unknown_sender stands below with a second sender.
"""

from __future__ import annotations

import ast
import os
import random
import socket
import threading
import time
from ipaddress import IPv4Address, IPv4Network, ip_address, ip_network
from itertools import pairwise
from pathlib import Path

import pytest
from core_edges import Edges, own_mac, peer_mac
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6ND_RA, IPv6
from scapy.packet import Packet, Raw

import dataplane
from dataplane.core import all_offloads, max_peers
from dataplane.errors import CoreError
from dataplane.model import Peer, PeerCounters

source_tree = Path(dataplane.__file__).parent
needs_csum, gso_tcp4, gso_udp = 1, 1, 5


def inward(**changes: object) -> Packet:
    return IP(**{"src": "10.5.2.9", "dst": "10.5.1.9", "flags": "DF", **changes}) / UDP(sport=1, dport=2) / Raw(b"in")


def outward(**changes: object) -> Packet:
    return IP(**{"src": "10.5.1.9", "dst": "10.5.2.9", "flags": "DF", **changes}) / UDP(sport=1, dport=2) / Raw(b"out")


def vxlan(inner: bytes, ethertype: bytes = b"\x08\x00") -> bytes:
    return bytes.fromhex("0800000000000100") + own_mac + peer_mac + ethertype + inner


def test_only_core_imports_the_compiled_module() -> None:
    importers = set()
    for path in source_tree.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if any(name.endswith("._core") for name in names):
                importers.add(path.relative_to(source_tree).as_posix())
    assert importers == {"core.py"}


def test_every_struct_of_the_contract_can_be_made() -> None:
    """A field that header and module disagree on shows here and nowhere earlier."""
    from dataplane._core import ffi

    for name in ("dp_address", "dp_edges", "dp_config", "dp_peer", "dp_peer_counters", "dp_counters"):
        ffi.new(f"struct {name} *")


# Refusals: each datagram moves its own counter by one, and the good packet behind it still comes.

good = bytes(inward())
bad_checksum = good[:-1] + b"!"
received = [
    ("receive_short", b""),
    ("receive_short", vxlan(b"")),
    ("receive_vxlan_flags", b"\x00" + vxlan(good)[1:]),
    *[("receive_vxlan_flags", bytes([8 | 1 << bit]) + vxlan(good)[1:]) for bit in (0, 1, 2, 4, 5, 6, 7)],
    *[("receive_vxlan_flags", vxlan(good)[:at] + b"\x01" + vxlan(good)[at + 1 :]) for at in (1, 2, 3, 7)],
    *[("receive_vni", vxlan(good)[:at] + b"\x02" + vxlan(good)[at + 1 :]) for at in (4, 5, 6)],
    ("receive_inner_mac", vxlan(good).replace(own_mac, b"\xff" * 6)),
    ("receive_inner_mac", vxlan(good).replace(peer_mac, own_mac)),
    ("receive_inner_type", vxlan(good, b"\x08\x06")),
    ("receive_inner_type", vxlan(good, b"\x86\xdd")),
    ("receive_malformed", vxlan(b"\x44" + good[1:])),
    ("receive_malformed", vxlan(b"\x4f" + good[1:])),
    ("receive_malformed", vxlan(good[:-1])),
    ("receive_malformed", vxlan(bytes(inward(chksum=0x1234)))),
    ("receive_malformed", vxlan(bytes(inward(len=19)))),
    ("receive_inner_source", vxlan(bytes(inward(src="8.8.8.8")))),
    ("receive_inner_source", vxlan(bytes(inward(src="10.5.1.9")))),
    ("receive_inner_source", vxlan(bytes(IPv6(src="fe80::1", dst="fd05:1::9") / UDP() / b"x"), b"\x86\xdd")),
    ("receive_inner_destination", vxlan(bytes(inward(dst="10.5.2.9")))),
    ("receive_inner_destination", vxlan(bytes(inward(dst="8.8.8.8")))),
    ("receive_multicast", vxlan(bytes(inward(dst="224.0.0.5")))),
    ("receive_multicast", vxlan(bytes(inward(dst="10.5.1.255")))),
    ("receive_multicast", vxlan(bytes(IPv6(src="fd05:2::9", dst="ff02::1") / UDP() / b"x"), b"\x86\xdd")),
    ("receive_ra", vxlan(bytes(IPv6(src="fd05:2::9", dst="fd05:1::9") / ICMPv6ND_RA()), b"\x86\xdd")),
    ("receive_ra", vxlan(bytes(IP(src="10.5.2.9", dst="10.5.1.9") / ICMP(type=5) / bytes(28)))),
    ("receive_checksum", vxlan(bad_checksum)),
    ("receive_checksum", vxlan(bytes(IP(src="10.5.2.9", dst="10.5.1.9") / TCP(chksum=7) / b"x"))),
]


@pytest.fixture(scope="module")
def edges() -> object:
    with Edges("vxlan") as made:
        yield made


@pytest.mark.parametrize(("reason", "datagram"), received, ids=lambda value: value if isinstance(value, str) else "")
def test_a_refused_datagram_moves_its_own_counter(edges: Edges, reason: str, datagram: bytes) -> None:
    before = edges.dropped()
    edges.send_underlay(datagram)
    edges.send_underlay(vxlan(good))
    assert edges.take_tun() == good
    assert {name: n - before.get(name, 0) for name, n in edges.dropped().items() if n != before.get(name, 0)} == {
        reason: 1
    }


def test_truncated_at_every_byte(edges: Edges) -> None:
    before = sum(edges.dropped().values())
    whole = vxlan(good)
    for length in range(len(whole)):
        edges.send_underlay(whole[:length])
    edges.send_underlay(whole)
    assert edges.take_tun() == good
    assert sum(edges.dropped().values()) - before == len(whole)


def test_a_stranger_is_not_read(edges: Edges) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        stranger.bind(("127.0.0.3", 0))
        edges.send_underlay(vxlan(good), source=stranger)
        edges.send_underlay(b"", source=stranger)
    edges.send_underlay(vxlan(good))
    assert edges.take_tun() == good
    assert edges.dropped()["receive_unknown_sender"] == 2


sent = [
    ("send_malformed", b"\x45"),
    ("send_malformed", bytes(outward())[:-1]),
    ("send_malformed", b"\x75" + bytes(outward())[1:]),
    ("send_multicast", bytes(outward(dst="239.1.1.1"))),
    ("send_multicast", bytes(IPv6(src="fe80::1", dst="ff02::16") / b"x")),
    ("send_no_route", bytes(outward(src="224.0.0.1", dst="10.5.7.7"))),
    ("send_no_route", bytes(outward(src="224.0.0.1", dst="10.5.1.7"))),
]


@pytest.mark.parametrize(("reason", "packet"), sent, ids=lambda value: value if isinstance(value, str) else "")
def test_a_packet_that_cannot_be_sent(edges: Edges, reason: str, packet: bytes) -> None:
    before = edges.dropped().get(reason, 0)
    edges.send_tun(packet)
    edges.send_tun(bytes(outward()))
    assert edges.take_underlay()[0].endswith(bytes(outward()))
    assert edges.dropped()[reason] - before == 1


def test_a_packet_above_the_mtu_is_answered(edges: Edges) -> None:
    big = outward()
    big[Raw].load = bytes(1450)
    edges.send_tun(bytes(big))
    answer = IP(edges.take_tun())
    assert (answer[ICMP].type, answer[ICMP].code, answer[ICMP].nexthopmtu) == (3, 4, 1450)
    big.flags = 0  # without DF the underlay fragments it
    edges.send_tun(bytes(big))
    assert edges.take_underlay()[0].endswith(bytes(big))


@pytest.mark.parametrize("direction", ["send", "receive"])
@pytest.mark.parametrize("ttl", [0, 1])
def test_udp_answers_when_the_ttl_ends(direction: str, ttl: int) -> None:
    with Edges("udp") as udp:
        packet = bytes(outward(ttl=ttl) if direction == "send" else inward(ttl=ttl))
        (udp.send_tun if direction == "send" else udp.send_underlay)(packet)
        answer = IP(udp.take_tun())
        assert (answer[ICMP].type, answer[ICMP].code, answer.src) == (11, 0, "10.5.1.0")
        assert answer.dst == IP(packet).src
        assert udp.dropped() == {f"{direction}_ttl": 1}


def test_icmp_errors_have_a_budget() -> None:
    """50 at once, then 1,000 a second, however long this test takes."""
    with Edges("vxlan") as made:
        start = time.monotonic()
        for _ in range(2000):
            made.send_tun(bytes(outward(dst="10.5.7.7")))
        made.send_tun(bytes(outward()))
        made.take_underlay()
        elapsed = time.monotonic() - start
        answered = made.forwarder.counters()["icmp_sent"]
        assert 50 <= answered <= 51 + 1000 * elapsed
        assert answered + made.dropped().get("icmp_limited", 0) == 2000


# Offloads


def tcp_super(payload: bytes) -> tuple[bytes, Packet]:
    """A super-packet as the kernel hands it over: the checksum field holds the pseudo-header's sum."""
    packet = IP(src="10.5.1.9", dst="10.5.2.9", id=7, flags="DF") / TCP(sport=1, dport=2, seq=2**32 - 500, flags="FPA")
    packet = packet / Raw(payload)
    return bytes(packet), packet


@pytest.mark.parametrize("segment", [True, False])
def test_a_super_packet_is_cut(segment: bool) -> None:
    offloads = all_offloads - (frozenset() if segment else {"udp_segment"})
    with Edges("vxlan", offloads=offloads) as made:
        payload = random.Random(1).randbytes(5000)
        raw, packet = tcp_super(payload)
        made.send_tun(raw, (needs_csum, gso_tcp4, 40, 1400, 20, 16))
        cut = [IP(made.take_underlay()[0][22:]) for _ in range(4)]
        assert b"".join(bytes(one[TCP].payload) for one in cut) == payload
        assert [one[TCP].seq for one in cut] == [(packet[TCP].seq + 1400 * i) % 2**32 for i in range(4)]
        assert [one.id for one in cut] == [7, 8, 9, 10]
        assert [str(one[TCP].flags) for one in cut] == ["A", "A", "A", "FPA"]
        for one in cut:
            fresh = one.copy()
            del fresh.chksum, fresh[TCP].chksum
            assert bytes(fresh) == bytes(one)


@pytest.mark.parametrize(
    "header", [(1, 77, 28, 100, 20, 6), (1, gso_tcp4, 28, 100, 20, 6), (0, gso_udp, 28, 0, 0, 0), (1, 0, 0, 0, 60, 6)]
)
def test_an_impossible_offload_request_is_dropped(edges: Edges, header: tuple[int, ...]) -> None:
    before = edges.dropped().get("send_gso", 0)
    edges.send_tun(bytes(outward()), header)
    edges.send_tun(bytes(outward()))
    edges.take_underlay()
    assert edges.dropped()["send_gso"] - before == 1


@pytest.mark.parametrize(("proto", "size"), [("tcp", 7), ("udp", 1)])
def test_a_super_packet_of_crumbs_is_dropped(edges: Edges, proto: str, size: int) -> None:
    """The kernel makes none; a pod with a raw device could stop everybody else's traffic with them."""
    layer = TCP(flags="A") if proto == "tcp" else UDP()
    packet = bytes(IP(src="10.5.1.9", dst="10.5.2.9") / layer / Raw(bytes(5000)))
    before = edges.dropped().get("send_gso", 0)
    edges.send_tun(packet, (needs_csum, gso_tcp4 if proto == "tcp" else gso_udp, 40, size, 20, 16))
    edges.send_tun(bytes(outward()))
    assert edges.take_underlay()[0].endswith(bytes(outward()))
    assert edges.dropped()["send_gso"] - before == 1


def test_what_the_kernel_drops_at_the_socket_is_counted() -> None:
    """Nobody reads the socket, so its buffer overflows; the kernel's count is ours."""
    with Edges("vxlan") as made:
        made.forwarder.stop()
        for _ in range(2000):
            made.send_underlay(vxlan(good))
        assert 0 < made.dropped()["receive_socket"] < 2000


combinations = [all_offloads, *[all_offloads - {name} for name in sorted(all_offloads)], frozenset()]


@pytest.mark.parametrize("backend", ["udp", "vxlan"])
@pytest.mark.parametrize("vnet_hdr", [True, False])
@pytest.mark.parametrize("offloads", combinations, ids=lambda names: "+".join(sorted(names)) or "none")
def test_every_combination_carries_both_ways(backend: str, vnet_hdr: bool, offloads: frozenset[str]) -> None:
    with Edges(backend, offloads=offloads, vnet_hdr=vnet_hdr) as made:
        for size in (1, 100, 1400):
            for make in (lambda ip: ip / UDP(sport=1, dport=2), lambda ip: ip / TCP(sport=1, dport=2, flags="A")):
                out = bytes(make(IP(src="10.5.1.9", dst="10.5.2.9")) / Raw(bytes(size)))
                into = bytes(make(IP(src="10.5.2.9", dst="10.5.1.9")) / Raw(bytes(size)))
                made.send_tun(out)
                assert made.take_underlay()[0][-size:] == out[-size:]
                made.send_underlay(into if backend == "udp" else vxlan(into))
                came = made.take_tun()
                assert len(came) == len(into)
                assert came[12:] == into[12:]
        assert made.dropped() == {}


# The table


def test_counters_begin_with_the_prefix(edges: Edges) -> None:
    prefix, other = IPv4Network("10.5.3.0/24"), IPv4Network("10.5.4.0/24")
    hop = ip_address("127.0.0.2")
    edges.forwarder.update([Peer(prefix, hop, peer_mac)])
    edges.send_tun(bytes(outward(dst="10.5.3.1")))
    edges.take_underlay()
    assert edges.forwarder.peer_counters()[prefix] == PeerCounters(tx_packets=1, tx_bytes=len(bytes(outward())))
    edges.forwarder.update([], [prefix])
    edges.forwarder.update([Peer(other, hop, peer_mac)])  # takes the slot that became free
    assert edges.forwarder.peer_counters()[other] == PeerCounters()
    edges.forwarder.update([], [other])
    assert other not in edges.forwarder.peers


def test_a_refused_peer_costs_no_slot(edges: Edges) -> None:
    wrong = Peer(IPv4Network("10.5.9.0/24"), ip_address("2001:db8::1"))
    for _ in range(3):
        with pytest.raises(CoreError, match=r"10\.5\.9\.0/24"):
            edges.forwarder.update([wrong])
    assert wrong.prefix not in edges.forwarder.peers
    edges.forwarder.update([Peer(wrong.prefix, ip_address("127.0.0.2"), peer_mac)], [])
    edges.forwarder.update([], [wrong.prefix])


def test_ten_thousand_peers_replaced_under_traffic() -> None:
    """Packets to a peer that stays are carried all the while; each moment's table is whole."""
    with Edges("vxlan") as made:
        hops = [IPv4Address(0x7F010000 + i) for i in range(10_000)]
        nets = list(IPv4Network("11.0.0.0/8").subnets(new_prefix=24))
        made.forwarder.update(Peer(net, hop, peer_mac) for net, hop in zip(nets, hops, strict=False))
        assert len(made.forwarder.peers) == 10_004
        done = threading.Event()

        def churn() -> None:
            for first, second in pairwise(range(0, 2000, 20)):
                made.forwarder.update([], nets[first:second])
            done.set()

        thread = threading.Thread(target=churn)
        thread.start()
        carried = 0
        while not done.is_set() or carried < 100:
            made.send_tun(bytes(outward()))
            assert made.take_underlay()[0].endswith(bytes(outward()))
            carried += 1
        thread.join()
        made.send_tun(bytes(outward(dst="11.0.0.1")))  # gone: an answer, not a packet
        assert IP(made.take_tun())[ICMP].type == 3
        assert made.forwarder.counters()["table_changes"] > 1


def test_the_longest_prefix_wins() -> None:
    with Edges("vxlan") as made:
        other = bytes.fromhex("0200000000aa")
        made.forwarder.update([Peer(ip_network("10.5.2.128/25"), ip_address("127.0.0.2"), other)])
        for destination, mac in (("10.5.2.127", peer_mac), ("10.5.2.128", other)):
            made.send_tun(bytes(outward(dst=destination)))
            assert made.take_underlay()[0][8:14] == mac


def test_more_peers_than_the_table_holds() -> None:
    with Edges("vxlan") as made:
        prefixes = IPv4Network("20.0.0.0/8").subnets(new_prefix=32)
        hop = ip_address("127.0.0.2")
        with pytest.raises(CoreError, match=f"at most {max_peers}"):
            made.forwarder.update(Peer(next(prefixes), hop, peer_mac) for _ in range(max_peers))


# Starting and stopping


def test_start_and_stop_leave_nothing() -> None:
    with Edges("vxlan"):
        pass
    descriptors, threads = len(os.listdir("/proc/self/fd")), threading.active_count()
    for _ in range(20):
        with Edges("vxlan") as made:
            made.send_tun(bytes(outward()))
            made.take_underlay()
    assert len(os.listdir("/proc/self/fd")) == descriptors
    assert threading.active_count() == threads


def test_a_worker_that_ends_says_why() -> None:
    with Edges("vxlan") as made:
        made.tun.close()  # the other end of the TUN is gone: the read ends as on a deleted device
        for thread in list(made.forwarder._threads):
            thread.join(5)
        assert made.forwarder.failures
        made.forwarder.stop()


def test_nothing_grows_with_packets() -> None:
    """Nothing is allocated per packet: 20,000 packets each way move the resident size by less than 1 MB."""

    def resident_kb() -> int:
        fields = Path("/proc/self/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGESIZE") // 1024

    with Edges("vxlan") as made:

        def exchange(rounds: int) -> None:
            out, into = bytes(outward()), vxlan(good)
            for _ in range(rounds):
                made.send_tun(out)
                made.send_underlay(into)
                made.take_underlay()
                made.take_tun()

        exchange(2000)
        before = resident_kb()
        exchange(20_000)
        assert resident_kb() - before < 1024
