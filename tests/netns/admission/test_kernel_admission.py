"""Whom the kernel's vxlan lets in with our filter in front of it: each hostile datagram ends in its own counter."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from scapy.layers.inet import UDP, IPOption
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, IPv6ExtHdrHopByHop, PadN
from scapy.packet import Packet, Raw

from dataplane.lab.commands import inside_of, wait_for
from dataplane.lab.topology import Place
from tests.netns.admission.siege import (
    Siege,
    besieged,
    expect_dropped,
    expect_it_outlives_the_daemon,
    expect_other_tunnels_left_alone,
    outer,
    refused,
    stranger_number,
    udp_received,
    versions,
    vxlan,
)
from tests.programs import program


@pytest.fixture(scope="module")
def siege() -> Iterator[Siege]:
    with besieged() as made:
        yield made


def expect_train_dropped(siege: Siege, place: Place, version: int, datagrams: list[bytes], reason: str) -> None:
    """Whole, and counted as what is in it."""
    before, arrived = refused(siege.target), udp_received(siege.target.pods[0], version)
    siege.send(place, version, datagrams, train=True)
    wait_for(lambda: refused(siege.target) != before, 90, "the train to be dropped")
    assert refused(siege.target) - before == {reason: len(datagrams)}
    assert udp_received(siege.target.pods[0], version) == arrived


@versions
def test_pods_reach_each_other_and_the_filter_is_told(siege: Siege, version: int) -> None:
    ours, _, kernels = siege.lab.pods
    before = refused(siege.target)
    assert ours.ping(kernels, version, count=5).ok
    assert kernels.ping(ours, version, count=5).ok
    assert refused(siege.target) == before
    status = siege.target.status()
    assert status is not None
    assert status["problems"] == []
    assert [device["admission"] for device in status["devices"]] == ["full", "full"]


@versions
def test_a_leased_peer_that_does_not_lie_is_heard(siege: Siege, version: int) -> None:
    """With a pod's inner source, and with its own underlay address."""
    node_address = str(siege.liar.address if version == 4 else siege.liar.address6)
    before = udp_received(siege.target.pods[0], version)
    siege.send(siege.liar, version, [vxlan(siege.frame(version)), vxlan(siege.frame(version, node_address))])
    wait_for(lambda: udp_received(siege.target.pods[0], version) == before + 2, 90, "both datagrams")


@versions
def test_a_sender_without_a_lease(siege: Siege, version: int) -> None:
    datagrams = [vxlan(siege.frame(version))] * 5
    expect_dropped(siege, siege.stranger, version, datagrams, "receive_unknown_sender")


@versions
def test_a_train_counts_as_its_datagrams(siege: Siege, version: int) -> None:
    """The filter sees them once."""
    before, datagrams = refused(siege.target), [vxlan(siege.frame(version))] * 7
    siege.send(siege.stranger, version, datagrams, train=True)
    wait_for(lambda: refused(siege.target) != before, 90, "the train to be dropped")
    assert refused(siege.target) - before == {"receive_unknown_sender": 7}


@versions
def test_a_leased_peers_train_is_heard(siege: Siege, version: int) -> None:
    before = udp_received(siege.target.pods[0], version)
    siege.send(siege.liar, version, [vxlan(siege.frame(version))] * 7, train=True)
    wait_for(lambda: udp_received(siege.target.pods[0], version) == before + 7, 90, "seven datagrams")


@versions
@pytest.mark.parametrize("place", [1, 5, 63])
def test_one_bad_frame_in_a_peers_train(siege: Siege, version: int, place: int) -> None:
    """The kernel would cut the train behind the filter, and hand in each frame by itself."""
    outside = "8.8.8.8" if version == 4 else "2001:db8:8::8"
    datagrams = [vxlan(siege.frame(version))] * 64
    datagrams[place] = vxlan(siege.frame(version, outside))
    expect_train_dropped(siege, siege.liar, version, datagrams, "receive_inner_source")


@versions
def test_trains_hide_nothing_else(siege: Siege, version: int) -> None:
    """Nor does a first frame that is none of our business, nor a last one that is cut off."""
    good = vxlan(siege.frame(version))
    foreign = vxlan(siege.frame(version), 77)
    expect_train_dropped(siege, siege.stranger, version, [foreign, good], "receive_unknown_sender")
    for reason, bad in (
        ("receive_inner_mac", vxlan(siege.frame(version, sender="02:00:00:00:00:99"))),
        ("receive_vxlan_flags", vxlan(siege.frame(version), flags=0x0C)),
        ("receive_short", good[:30]),
    ):
        expect_train_dropped(siege, siege.liar, version, [good, good, bad], reason)
    # As many as old kernels put into one, of either VNI, and a shorter one at the end.
    before, arrived = refused(siege.target), udp_received(siege.target.pods[0], version)
    siege.send(siege.liar, version, [good, foreign] * 31 + [good, good[:-5]], train=True)
    wait_for(lambda: udp_received(siege.target.pods[0], version) == arrived + 32, 90, "our frames of the train")
    assert refused(siege.target) == before


@versions
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("sender", [1, 2], ids=["ours", "kernel"])
def test_super_packets_in_a_tunnel_are_no_trains(siege: Siege, version: int, protocol: str, sender: int) -> None:
    """A peer's kernel leaves them whole here: one frame with one header, whatever its payload looks like."""
    target, pod = siege.target.pods[0], siege.lab.pods[sender]
    before = refused(siege.target)
    receiving = inside_of(target.name, program("bulk", protocol, "receive", target.address_of(version)))
    with subprocess.Popen(receiving, stdout=subprocess.PIPE, text=True) as receiver:
        assert receiver.stdout is not None and receiver.stdout.readline() == "ready\n"
        pod.run(*program("bulk", protocol, "send", target.address_of(version)))
        assert receiver.stdout.read() == "whole\n"
    assert refused(siege.target) == before


@versions
@pytest.mark.parametrize("whose", ["target's", "kernel node's", "outside"])
def test_an_inner_source_that_is_not_the_senders(siege: Siege, version: int, whose: str) -> None:
    target, _, kernels = siege.lab.pods
    outside = "8.8.8.8" if version == 4 else "2001:db8:8::8"
    source = {"target's": target.address_of(version), "kernel node's": kernels.address_of(version)}.get(whose, outside)
    expect_dropped(siege, siege.liar, version, [vxlan(siege.frame(version, source))] * 3, "receive_inner_source")


@versions
def test_other_lies_of_a_leased_peer(siege: Siege, version: int) -> None:
    kernels = siege.lab.pods[2].address_of(version)
    group = "224.0.0.5" if version == 4 else "ff02::5"
    own = str(siege.target.address if version == 4 else siege.target.address6)
    stranger_mac = "02:00:00:00:00:99"
    lies = (
        ("receive_inner_destination", vxlan(siege.frame(version, "", kernels))),
        ("receive_inner_destination", vxlan(siege.frame(version, "", own))),
        ("receive_multicast", vxlan(siege.frame(version, "", group))),
        ("receive_inner_mac", vxlan(siege.frame(version, sender=stranger_mac))),
        ("receive_inner_mac", vxlan(siege.frame(version, receiver=stranger_mac))),
        ("receive_vxlan_flags", vxlan(siege.frame(version), flags=0x0C)),
        ("receive_inner_type", vxlan(siege.frame(version)[:12] + b"\x08\x06" + bytes(28))),
        ("receive_short", vxlan(siege.frame(version)[:20])),
        ("receive_inner_source", vxlan(siege.frame(version, inner=10 - version))),
    )
    for reason, datagram in lies:
        expect_dropped(siege, siege.liar, version, [datagram] * 2, reason)


@versions
def test_other_tunnels_are_left_alone(siege: Siege, version: int) -> None:
    expect_other_tunnels_left_alone(siege, version)


def test_no_address_of_the_host_is_a_way_around(siege: Siege) -> None:
    """The kernel's device hears them all, and broadcasts and groups."""
    siege.target.batch("address add 198.51.100.7/32 dev lo", "address add 2001:db8:77::7/128 dev lo")
    net = siege.target.net
    assert net is not None and net.ipv4 is not None and net.ipv6 is not None
    places = {
        4: ["198.51.100.7", net.ipv4[0], net.ipv4[1], "192.0.2.255", "255.255.255.255", "224.0.0.1"],
        6: ["2001:db8:77::7", net.ipv6[0], net.ipv6[1], "ff02::1"],
    }
    try:
        for version, destinations in places.items():
            # A change of addresses is heard within a moment.
            probe = outer(siege, version, stranger_number, destinations[0]) / UDP(sport=9, dport=8472)
            probe /= Raw(vxlan(siege.frame(version)))

            def dropped(probe: Packet = probe) -> bool:
                before = siege.target.drops().get("receive_unknown_sender", 0)
                siege.send_raw(siege.stranger, [probe])
                return siege.target.drops().get("receive_unknown_sender", 0) > before

            wait_for(dropped, 90, "the new address to be looked at")
            packets = [
                outer(siege, version, stranger_number, destination)
                / UDP(sport=9, dport=8472)
                / Raw(vxlan(siege.frame(version)))
                for destination in destinations
            ]
            expect_dropped(siege, siege.stranger, version, packets, "receive_unknown_sender")
    finally:
        siege.target.batch("address del 198.51.100.7/32 dev lo", "address del 2001:db8:77::7/128 dev lo")


def test_what_the_host_forwards_is_left_alone(siege: Siege) -> None:
    """A stranger's frame to another node by way of this one gets as far as the firewall, whose business it is."""

    def forwarded() -> int:
        lines = siege.target.run("iptables", "-t", "mangle", "-vnxL", "DATAPLANE-ENCAP-FWD").stdout.splitlines()
        return sum(int(line.split()[0]) for line in lines if " DROP " in line)

    drops, packets = refused(siege.target), forwarded()
    to = siege.lab.nodes[2].address
    siege.send_raw(
        siege.stranger, [outer(siege, 4, stranger_number, to) / UDP(sport=9, dport=8472) / Raw(vxlan(siege.frame(4)))]
    )
    wait_for(lambda: forwarded() == packets + 1, 90, "the firewall to see it")
    assert refused(siege.target) == drops


@versions
def test_headers_before_udp_hide_nothing(siege: Siege, version: int) -> None:
    """IPv4 options; IPv6 extension headers, and more of them than anybody needs."""
    carried = UDP(sport=9, dport=8472) / Raw(vxlan(siege.frame(version)))
    if version == 4:
        packets = [outer(siege, 4, stranger_number, options=[IPOption(b"\x01" * words)]) / carried for words in (4, 36)]
    else:
        base = outer(siege, 6, stranger_number)
        packets = [
            base / IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))]) / carried,
            base / IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(12))]) / IPv6ExtHdrDestOpt() / carried,
            base / IPv6ExtHdrFragment(m=0, offset=0, id=7) / carried,
        ]
        many = base
        for _ in range(9):
            many /= IPv6ExtHdrDestOpt()
        expect_dropped(siege, siege.stranger, 6, [many / carried], "receive_malformed")
    expect_dropped(siege, siege.stranger, version, packets, "receive_unknown_sender")


@versions
def test_fragments(siege: Siege, version: int) -> None:
    """What a peer sends in pieces arrives whole; a first piece that does not show the inner addresses does not."""
    udp = UDP(sport=9, dport=8472) / Raw(vxlan(siege.frame(version)))
    whole = outer(siege, version, 2) / udp
    data = bytes(whole)[len(outer(siege, version, 2)) :]

    def pieces(size: int, number: int, ident: int) -> list[Packet]:
        made: list[Packet] = []
        for at in range(0, len(data), size):
            more = at + size < len(data)
            if version == 4:
                header = outer(siege, 4, number, id=ident, flags="MF" if more else 0, frag=at // 8, proto=17)
            else:
                header = outer(siege, 6, number) / IPv6ExtHdrFragment(nh=17, m=more, offset=at // 8, id=ident)
            made.append(header / Raw(data[at : at + size]))
        return made

    size = 64 if version == 4 else 80  # UDP, VXLAN, Ethernet, inner IP, and a little
    before = udp_received(siege.target.pods[0], version)
    siege.send_raw(siege.liar, pieces(size, 2, 100))
    wait_for(lambda: udp_received(siege.target.pods[0], version) == before + 1, 90, "the datagram of several pieces")
    expect_dropped(siege, siege.liar, version, pieces(32, 2, 101)[:1], "receive_short")
    expect_dropped(siege, siege.stranger, version, pieces(size, stranger_number, 102)[:1], "receive_unknown_sender")


@versions
def test_the_filter_outlives_the_daemon_and_a_restart(siege: Siege, version: int) -> None:
    expect_it_outlives_the_daemon(siege, version)
