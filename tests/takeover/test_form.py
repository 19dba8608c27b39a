"""The form in which one process leaves to the next what it forwards: whole, by its number, or not at all."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dataplane.backends.base import DevicePlan
from dataplane.errors import BadInput
from dataplane.runtime.place import Place
from dataplane.takeover import form
from dataplane.takeover.form import Carried, CarriedDevice, decode, encode, ended, is_outdated

plan = DevicePlan(
    name="flannel.1",
    mtu=1450,
    interface="eth0",
    underlay_family=4,
    underlay_address=ip_address("192.0.2.1"),
    public_address=ip_address("198.51.100.1"),
    subnets=(ip_network("10.244.1.0/24"), ip_network("fd00:244:0:1::/64")),
    networks=(ip_network("10.244.0.0/16"), ip_network("fd00:244::/48")),
    vtep_mac=bytes.fromhex("020000000001"),
    addresses=(ip_interface("10.244.1.0/32"), ip_interface("fd00:244:0:1::/128")),
    port=8472,
    vni=1,
    wire="vxlan",
)
device = CarriedDevice(
    plan=plan,
    name="flannel.1",
    index=7,
    workers=2,
    spin_us=50,
    table=b"table",
    peers=b"peers of it",
    counters={"tx_packets": 5},
    kernel_drops={"tun_queue": 1},
    host_drops={},
    ends={"10.244.2.0/24": 1000.0},
)
carried = Carried(place=Place("boot", 1, 2), since=100.0, contact=900.0, devices=(device, replace(device, table=b"")))


def changed(**fields: Any) -> bytes:
    line, _, blobs = encode(carried).partition(b"\n")
    return json.dumps(json.loads(line) | fields).encode() + b"\n" + blobs


def test_what_is_written_is_read() -> None:
    assert decode(encode(carried)) == carried


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (changed(form=2), "it is in form 2, of another version; this one reads form 1"),
        (changed(form="1"), "it is in form '1', of another version"),
        (changed(layout="struct dp_peer 4: int"), "its tables are laid out as in another version"),
        (changed(crc=1), "its tables are not whole"),
        (encode(carried)[:-1], "its tables are not whole"),
        (encode(carried) + b"x", "its tables are not whole"),
        (changed(devices=7), "it cannot be read"),
        (changed(place=None), "it cannot be read"),
        (changed(since="now"), "it cannot be read"),
        (b"", "it cannot be read"),
        (b"[]\n", "it cannot be read"),
        (b"\xff\xfe\n", "it cannot be read"),
    ],
)
def test_anything_else_is_named(content: bytes, reason: str) -> None:
    with pytest.raises(BadInput, match=reason.replace("(", r"\(")):
        decode(content)


@given(st.binary(max_size=400), st.integers(0, 2000))
def test_no_bytes_are_misread(noise: bytes, at: int) -> None:
    whole = encode(carried)
    content = whole[:at] + noise + whole[at + len(noise) :]
    try:
        read = decode(content)
    except BadInput:
        return
    assert [(each.table, each.peers) for each in read.devices] == [(each.table, each.peers) for each in carried.devices]


def test_leases_end_at_their_time() -> None:
    assert ended(device, 999.9) == frozenset()
    assert ended(device, 1000.0) == {"10.244.2.0/24"}
    assert not is_outdated(carried, device, 1000.0)  # a peer's end is nobody else's
    assert is_outdated(carried, replace(device, ends={"10.244.1.0/24": 950.0}), 950.0)  # ours
    assert is_outdated(carried, replace(device, ends={"fd00:244:0:1::/64": 950.0}), 950.0)


def test_where_no_end_is_told_the_stores_last_word_holds_as_long_as_a_lease() -> None:
    assert not is_outdated(carried, device, carried.contact + form.unknown_lease_s - 1)
    assert is_outdated(carried, device, carried.contact + form.unknown_lease_s)
