"""Leases by number, as many as are wanted: what bench/holds.py and bench/holds_stores.py measure with."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network

from dataplane.model import Lease, LeaseAttrs, NetConf

conf = NetConf(network=IPv4Network("8.0.0.0/6"), subnet_len=24, backend_type="vxlan")


def good(number: int, round_: int = 0) -> Lease:
    """A lease like any other; each round gives a node another address and VTEP MAC."""
    mac = f"02:00:{round_:02x}:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
    public = IPv4Address("172.16.0.0") + number + (round_ << 18)
    attrs = LeaseAttrs(public, None, "vxlan", {"VNI": 1, "VtepMAC": mac})
    subnet = IPv4Network((int(IPv4Address("8.0.0.0")) + (number << 8), 24))
    return Lease(subnet, None, attrs, born=(float(number), ""))
