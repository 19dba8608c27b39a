"""Every packet offered is delivered or counted, in every way that it can be lost, super-packets as the packets that they are.

A loss is made certain, not likely: what is offered cannot pass, or the daemon stands still (SIGSTOP) while more is sent than
a queue holds. Nothing is timed: the balance is waited for.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6ND_RA, IPv6, IPv6ExtHdrFragment, fragment6
from scapy.packet import Packet, Raw

from dataplane.keepers.tun import tx_queue_packets
from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.commands import run, wait_for
from tests.netns.losses.field import Field, not_offered, standing, standing_still, stranger_number
from tests.netns.transfers import transfer, tunnel_sends

liar = 3
Offer = Callable[[Field], int]
fields = ["udp-4", "udp-6", "vxlan-4", "vxlan-6"]


@pytest.fixture(scope="module", params=fields)
def field(request: pytest.FixtureRequest) -> Iterator[Field]:
    backend, _, version = request.param.partition("-")
    with standing(Lab(net_conf(backend, ipv6=True)), int(version)) as made:
        yield made


def remote(field: Field) -> str:
    """The honest node's pod."""
    return field.honest.pods[0].address_of(field.version)


def no_lease(field: Field) -> str:
    return "10.244.250.5" if field.version == 4 else "fd00:244:0:fa::5"


# Pod to underlay

outwards: dict[str, tuple[str, Offer]] = {
    "nothing is in the way": ("", lambda field: field.offer(remote(field), 30)),
    "in super-packets": ("", lambda field: field.offer(remote(field), 60, segments=20)),
    "no lease": ("send_no_route", lambda field: field.offer(no_lease(field), 30)),
    "no lease, super-packets": ("send_no_route", lambda field: field.offer(no_lease(field), 60, segments=20)),
    "a dead peer": ("send_neighbour", lambda field: field.offer(field.pod_at(field.address(100)), 30)),
    # More than the kernel holds for one neighbour.
    "a dead peer, much": (
        "send_neighbour",
        lambda field: field.offer(field.pod_at(field.address(100)), 400, size=1200),
    ),
    "a dead peer, super-packets": (
        "send_neighbour",
        lambda field: field.offer(field.pod_at(field.address(100)), 600, segments=20),
    ),
    "multicast": ("send_multicast", lambda field: field.frames(20, to_group(field))),
    "no whole packet": ("send_malformed", lambda field: field.frames(20, bytes(outgoing(field))[:-5])),
    "too big": ("send_too_big", lambda field: field.frames(5, *super_packet(field, 6000, 2000)) * 3),
    "a super-packet that cannot be cut": ("send_gso", lambda field: field.frames(4, *super_packet(field, 100, 2)) * 50),
}


@pytest.mark.parametrize("way", outwards)
def test_from_a_pod(field: Field, way: str) -> None:
    reason, offer = outwards[way]
    ignored = ("icmp_limited",) if reason == "send_multicast" else ("icmp_limited", "send_multicast")
    delivered, lost = field.balance(lambda: offer(field), ignored)
    if reason == "send_multicast":
        assert lost.keys() == {reason}  # the host's own too
    elif reason:
        assert (delivered, set(lost)) == (0, {reason})
    else:
        assert lost == {}


def outgoing(field: Field, size: int = 64, destination: str = "", **fields: object) -> Packet:
    """A packet as the target's pod sends it."""
    source = field.target.pods[0].address_of(field.version)
    if field.version == 4:
        fields.setdefault("flags", "DF")
    network = (IP if field.version == 4 else IPv6)(src=source, dst=destination or remote(field), **fields)
    return network / UDP(sport=7, dport=7) / Raw(bytes(size))


def to_group(field: Field) -> Packet:
    return outgoing(field, destination="224.0.0.5" if field.version == 4 else "ff02::5")


def super_packet(field: Field, size: int, segment: int) -> tuple[Packet, bytes]:
    """TCP with `size` bytes of payload, `segment` in each packet, and its virtio-net header: what a raw socket may send."""
    network = outgoing(field).copy()
    network.remove_payload()
    packet = network / TCP(sport=7, dport=7) / Raw(bytes(size))
    at = len(network)
    return packet, struct.pack("=BBHHHH", 1, 1 if field.version == 4 else 4, at + 20, segment, at, 16)


@pytest.mark.parametrize("segments", [1, 10])
def test_used_up_hops(field: Field, segments: int) -> None:
    """The udp backend is a hop; with vxlan the packet comes to the other node, which forwards it no more."""
    if field.backend == "vxlan":
        delivered, lost = field.balance(lambda: field.offer(remote(field), 20, segments, ttl=3))
        assert (delivered, lost) == (20, {})
    else:
        delivered, lost = field.balance(lambda: field.offer(remote(field), 20, segments, ttl=2))
        assert (delivered, lost) == (0, {"send_ttl": 20})


@pytest.mark.parametrize("segments", [1, 20])
def test_more_than_the_tuns_queue_holds(field: Field, segments: int) -> None:
    def offer() -> int:
        with standing_still(field.target):
            return field.offer(remote(field), (tx_queue_packets + 300) * segments, segments)

    delivered, lost = field.balance(offer)
    # The queue's places are given back some at a time (linux/ptr_ring.h).
    assert lost.keys() == {"tun_queue"}
    assert (tx_queue_packets - 16) * segments <= delivered <= tx_queue_packets * segments


@pytest.mark.parametrize("segments", [1, 20])
def test_the_hosts_own_firewall(field: Field, segments: int) -> None:
    """The kernel refuses the datagram, and says so."""
    tool = "iptables" if field.outer == 4 else "ip6tables"
    rule = ["OUTPUT", "-d", field.address(2), "-p", "udp", "-j", "DROP"]
    field.target.run(tool, "-I", *rule)
    try:
        delivered, lost = field.balance(lambda: field.offer(remote(field), 60, segments))
    finally:
        field.target.run(tool, "-D", *rule)
    assert (delivered, lost) == (0, {"send_error": 60})


def test_more_than_the_interfaces_queue_holds(field: Field) -> None:
    field.target.run(
        *["tc", "qdisc", "add", "dev", "eth0", "root", "tbf", "rate", "2mbit", "burst", "2000", "limit", "4000"]
    )
    try:
        delivered, lost = field.balance(lambda: field.offer(remote(field), 200, size=500, grow=1))
    finally:
        field.target.run(*["tc", "qdisc", "delete", "dev", "eth0", "root"])
    assert lost.keys() == {"send_queue"}
    assert delivered > 0


def test_a_pulled_cable(field: Field) -> None:
    """Nobody answers any more."""
    port = field.lab.underlay.port(1)
    run(None, "ip", "link", "set", port, "down")
    try:
        # The host asks for its neighbours in vain.
        delivered, lost = field.balance(lambda: field.offer(remote(field), 60, 20), (*not_offered, "interface_send"))
    finally:
        run(None, "ip", "link", "set", port, "up")
        wait_for(lambda: field.target.pods[0].ping(field.honest.pods[0], field.version, count=1).ok, 90, "the cable")
    assert (delivered, lost) == (0, {"send_neighbour": 60})


def test_super_packets_that_leave_whole_for_a_dead_peer(field: Field) -> None:
    """The peer has shown that it takes them whole (vxlan); then its cable is pulled."""
    port, version = field.lab.underlay.port(2), field.version
    transfer(field.target.pods[0], field.honest.pods[0], "tcp", version, 1 << 20)
    before = tunnel_sends(field.target)
    run(None, "ip", "link", "set", port, "down")
    try:
        field.target.batch("neigh flush dev eth0")
        delivered, lost = field.balance(lambda: field.offer(remote(field), 600, 20))
    finally:
        run(None, "ip", "link", "set", port, "up")
        wait_for(lambda: field.target.pods[0].ping(field.honest.pods[0], version, count=1).ok, 90, "the cable")
    assert tunnel_sends(field.target) == before + (30 if field.backend == "vxlan" else 0)
    assert (delivered, lost) == (0, {"send_neighbour": 600})


# Underlay to pod


def flip(datagram: bytes) -> bytes:
    return datagram[:-1] + bytes([datagram[-1] ^ 1])


def group(field: Field) -> str:
    return "224.0.0.5" if field.version == 4 else "ff02::5"


def outside(field: Field) -> str:
    return "8.8.8.8" if field.version == 4 else "2001:db8:8::8"


def router_message(field: Field) -> Packet:
    network = field.inner().copy()
    network.remove_payload()
    if field.version == 6:
        return network / ICMPv6ND_RA()
    return network / ICMP(type=5, gw="10.0.0.1") / outgoing(field)


def hops(field: Field, left: int) -> Packet:
    return field.inner(**{"ttl" if field.version == 4 else "hlim": left})


inwards: dict[str, tuple[str, Callable[[Field], bytes]]] = {
    "nothing is in the way": ("", lambda field: field.wire(field.inner())),
    "inner source": ("receive_inner_source", lambda field: field.wire(field.inner(source=outside(field)))),
    "inner destination": (
        "receive_inner_destination",
        lambda field: field.wire(field.inner(destination=outside(field))),
    ),
    "group": ("receive_multicast", lambda field: field.wire(field.inner(destination=group(field)))),
    "inner checksum": ("receive_checksum", lambda field: flip(field.wire(field.inner()))),
    "cut short": ("receive_malformed", lambda field: field.wire(bytes(field.inner())[:-3])),
    "too short": ("receive_short", lambda field: field.wire(field.inner())[:15]),
    "router message": ("receive_ra", lambda field: field.wire(router_message(field))),
    "hops (udp)": ("receive_ttl", lambda field: field.wire(hops(field, 1 if field.backend == "udp" else 2))),
    "flags (vxlan)": ("receive_vxlan_flags", lambda field: field.wire(field.inner(), flags=0x0C)),
    "VNI (vxlan)": ("receive_vni", lambda field: field.wire(field.inner(), vni=2)),
    "MAC (vxlan)": ("receive_inner_mac", lambda field: field.wire(field.inner(), to="02:00:00:00:00:99")),
    "type (vxlan)": ("receive_inner_type", lambda field: field.wire(field.inner(), kind=0x0806)),
}


@pytest.mark.parametrize("way", inwards)
def test_from_a_leased_peer(field: Field, way: str) -> None:
    """Each in datagrams of their own, and in trains."""
    reason, make = inwards[way]
    datagram = make(field)
    found = field.balance(lambda: field.send(liar, datagram, 3, trains=2, segments=7))
    # What only the other format has is not in it.
    is_lost = reason and ("(" not in way or f"({field.backend})" in way)
    assert found == ((0, {reason: 17}) if is_lost else (17, {}))


def test_from_a_stranger(field: Field) -> None:
    datagram = field.wire(field.inner())
    delivered, lost = field.balance(lambda: field.send(stranger_number, datagram, 3, trains=2, segments=7))
    assert (delivered, lost) == (0, {"receive_unknown_sender": 17})


def outer(field: Field, datagram: bytes, number: int = liar, **fields: object) -> Packet:
    """The datagram as an IP packet from the liar; the keywords are of its UDP header."""
    network = (IP if field.outer == 4 else IPv6)(src=field.address(number), dst=field.address(1))
    return network / UDP(sport=9, dport=field.port, **fields) / Raw(datagram)


@pytest.mark.parametrize(("size", "reason"), [(0, "receive_udp"), (1000, "receive_socket")])
def test_wrong_outer_checksums(field: Field, size: int, reason: str) -> None:
    """Of a small datagram the kernel finds it before it knows whose it is: its counter is the whole host's."""
    datagram = field.wire(field.inner(size=size))[:60] if not size else field.wire(field.inner(size=size))
    packets = [outer(field, datagram, chksum=0xBAD)] * 10

    def offer() -> int:
        field.send_raw(packets)
        return len(packets)

    assert field.balance(offer) == (0, {reason: 10})


def test_wrong_outer_lengths(field: Field) -> None:
    packets = [outer(field, field.wire(field.inner()), len=2000)] * 10

    def offer() -> int:
        field.send_raw(packets)
        return len(packets)

    assert field.balance(offer) == (0, {"receive_udp": 10})


@pytest.mark.parametrize("missing", [False, True])
def test_datagrams_in_pieces(field: Field, missing: bool) -> None:
    """Each is put together, or given up when a piece does not come."""
    pieces: list[Packet] = []
    for ident in range(5):
        whole = outer(field, field.wire(field.inner(size=1000)))
        if field.outer == 4:
            whole.id = 100 + ident
            made = fragment(whole, 600)
        else:
            header = IPv6(src=whole.src, dst=whole.dst) / IPv6ExtHdrFragment(id=100 + ident + 10 * missing)
            made = fragment6(header / whole[UDP], 600)
        assert len(made) > 1
        pieces += made[:-1] if missing else made

    def offer() -> int:
        field.send_raw(pieces)
        return 5

    assert field.balance(offer) == ((0, {"receive_fragments": 5}) if missing else (5, {}))


@pytest.mark.parametrize(("singles", "trains"), [(9000, 0), (100, 1000)])
def test_more_than_a_socket_holds(field: Field, singles: int, trains: int) -> None:
    datagram = field.wire(field.inner())

    def offer() -> int:
        with standing_still(field.target):
            return field.send(liar, datagram, singles, trains, segments=40)

    delivered, lost = field.balance(offer)
    assert lost.keys() == {"receive_socket"}
    assert delivered > 1000


def test_a_device_that_is_down(field: Field) -> None:
    """It is up again within a moment; what came before then is counted."""
    device, datagram = field.device, field.wire(field.inner())

    def offer() -> int:
        with standing_still(field.target):
            field.target.batch(f"link set {device} down")
            return field.send(liar, datagram, 20, trains=10, segments=20)

    _, lost = field.balance(offer)
    assert lost.keys() <= {"tun_error"}
    wait_for(lambda: field.target.pods[0].ping(field.honest.pods[0], field.version, count=1).ok, 90, "the device")
