"""The same balance where the kernel's vxlan carries the packets, and a BPF filter in front of it lets them in."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from scapy.packet import Packet

from dataplane.lab.cluster import Lab, net_conf
from tests.netns.losses.field import Field, standing, stranger_number
from tests.netns.losses.test_losses import inwards, liar, outer, remote

# What the filter judges; the rest the kernel's receive path and the pod's own host do, each with counters of its own.
judged = ["inner source", "inner destination", "group", "flags (vxlan)", "MAC (vxlan)", "type (vxlan)"]


@pytest.fixture(scope="module", params=[4, 6])
def field(request: pytest.FixtureRequest) -> Iterator[Field]:
    lab = Lab(net_conf("vxlan", ipv6=True), options=("--datapath=kernel",))
    with standing(lab, request.param) as made:
        yield made


@pytest.mark.parametrize("segments", [1, 20])
def test_from_a_pod(field: Field, segments: int) -> None:
    assert field.balance(lambda: field.offer(remote(field), 60, segments)) == (60, {})


@pytest.mark.parametrize(("count", "segments", "size"), [(30, 1, 100), (400, 1, 1200), (600, 20, 100)])
def test_to_a_dead_peer(field: Field, count: int, segments: int, size: int) -> None:
    dead = field.pod_at(field.address(100))
    assert field.balance(lambda: field.offer(dead, count, segments, size)) == (0, {"send_neighbour": count})


def test_more_than_the_interfaces_queue_holds(field: Field) -> None:
    field.target.run(
        "tc", "qdisc", "add", "dev", "eth0", "root", "tbf", *["rate", "2mbit", "burst", "2000", "limit", "4000"]
    )
    try:
        delivered, lost = field.balance(lambda: field.offer(remote(field), 200, size=500))
    finally:
        field.target.run("tc", "qdisc", "delete", "dev", "eth0", "root")
    assert lost.keys() == {"device_send"}
    assert delivered > 0


def test_a_leased_peer_is_heard(field: Field) -> None:
    datagram = inwards["nothing is in the way"][1](field)
    assert field.balance(lambda: field.send(liar, datagram, 3, trains=2, segments=7)) == (17, {})


@pytest.mark.parametrize("way", judged)
def test_from_a_leased_peer(field: Field, way: str) -> None:
    reason, make = inwards[way]
    datagram = make(field)
    assert field.balance(lambda: field.send(liar, datagram, 3, trains=2, segments=7)) == (0, {reason: 17})


def test_from_a_stranger(field: Field) -> None:
    datagram = field.wire(field.inner())
    balance = field.balance(lambda: field.send(stranger_number, datagram, 3, trains=2, segments=7))
    assert balance == (0, {"receive_unknown_sender": 17})


@pytest.mark.parametrize("size", [10, 1000])
def test_wrong_outer_checksums(field: Field, size: int) -> None:
    packets: list[Packet] = [outer(field, field.wire(field.inner(size=size)), chksum=0xBAD)] * 10

    def offer() -> int:
        field.send_raw(packets)
        return len(packets)

    assert field.balance(offer) == (0, {"receive_udp": 10})
