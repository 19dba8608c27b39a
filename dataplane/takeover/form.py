"""What one process leaves to the next about each TUN that it carries: the form in which it is written down or handed on.

A line of JSON, then the tables as the core lays them out. What must stay true: what another version wrote in another form
is refused by name, never misread; a change of what is in here is a new number of `form`.
"""

from __future__ import annotations

import json
import time
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from dataplane.backends.base import DevicePlan
from dataplane.core import table_layout
from dataplane.errors import BadInput
from dataplane.runtime.place import Place

form = 1
most_bytes = 64 << 20
unknown_lease_s = (
    24 * 3600.0
)  # of a lease whose end the store does not tell: what flannel's last (pkg/subnet/subnet.go)


@dataclass(frozen=True, slots=True, kw_only=True)
class CarriedDevice:
    """One TUN with its forwarder.

    Attributes:
        plan: what it was opened for.
        name, index: as the kernel knows it.
        workers, spin_us: as it ran.
        table, peers: `core.Forwarder.table`, and its peers' counters.
        counters: the core's, by name.
        kernel_drops, host_drops: what was told of the kernel's, by reason.
        ends: when leases end that tell it, seconds of CLOCK_BOOTTIME by prefix.
    """

    plan: DevicePlan
    name: str
    index: int
    workers: int
    spin_us: int
    table: bytes
    peers: bytes
    counters: Mapping[str, int]
    kernel_drops: Mapping[str, int]
    host_drops: Mapping[str, int]
    ends: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Carried:
    """All that is carried.

    Attributes:
        place: where.
        since: Unix time from when on packets have been forwarded without a break that we know of.
        contact: seconds of CLOCK_BOOTTIME of the store's last word.
        devices: may be none: kernel datapath, host-gw.
    """

    place: Place
    since: float
    contact: float
    devices: tuple[CarriedDevice, ...]


def boot_now() -> float:
    """Seconds of CLOCK_BOOTTIME: goes on while the machine sleeps, and nobody sets it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def ended(device: CarriedDevice, now: float) -> frozenset[str]:
    """Prefixes whose leases have ended by `now` (`boot_now`)."""
    return frozenset(prefix for prefix, end in device.ends.items() if end <= now)


def is_outdated(carried: Carried, device: CarriedDevice, now: float) -> bool:
    """Whether our own lease has ended, or all of them may have."""
    own = {str(subnet) for subnet in device.plan.subnets}
    return now - carried.contact >= unknown_lease_s or not own.isdisjoint(ended(device, now))


def encode(carried: Carried) -> bytes:
    """Return the form."""
    blobs = b"".join(device.table + device.peers for device in carried.devices)
    place = carried.place
    head = {
        "form": form,
        "layout": table_layout,
        "crc": zlib.crc32(blobs),
        "place": {"boot": place.boot, "netns": place.netns, "cookie": place.cookie},
        "since": carried.since,
        "contact": carried.contact,
        "devices": [_device(device) for device in carried.devices],
    }
    return json.dumps(head).encode() + b"\n" + blobs


def decode(content: bytes) -> Carried:
    """Read the form; raises `BadInput` saying what cannot be read, or which version's it is."""
    line, _, blobs = content.partition(b"\n")
    try:
        head = json.loads(line)
        if head["form"] != form:
            raise BadInput(f"it is in form {head['form']!r:.40}, of another version; this one reads form {form}")
        if head["layout"] != table_layout:
            raise BadInput("its tables are laid out as in another version")
        if zlib.crc32(blobs) != head["crc"]:
            raise BadInput("its tables are not whole")
        place = head["place"]
        devices, at = [], 0
        for told in head["devices"]:
            sizes = int(told["table"]), int(told["peers"])
            table, peers = blobs[at : at + sizes[0]], blobs[at + sizes[0] : at + sum(sizes)]
            at += sum(sizes)
            devices.append(_read_device(told, table, peers))
        return Carried(
            place=Place(str(place["boot"]), int(place["netns"]), int(place["cookie"])),
            since=float(head["since"]),
            contact=float(head["contact"]),
            devices=tuple(devices),
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadInput(f"it cannot be read ({type(error).__name__}: {error})") from error


def _device(device: CarriedDevice) -> dict[str, Any]:
    plan = device.plan
    return {
        "plan": {
            "name": plan.name,
            "mtu": plan.mtu,
            "interface": plan.interface,
            "underlay_family": plan.underlay_family,
            "underlay_address": str(plan.underlay_address),
            "public_address": str(plan.public_address),
            "subnets": [str(subnet) for subnet in plan.subnets],
            "networks": [str(network) for network in plan.networks],
            "vtep_mac": plan.vtep_mac.hex(),
            "addresses": [str(address) for address in plan.addresses],
            "port": plan.port,
            "vni": plan.vni,
            "wire": plan.wire,
        },
        "name": device.name,
        "index": device.index,
        "workers": device.workers,
        "spin_us": device.spin_us,
        "counters": device.counters,
        "kernel_drops": device.kernel_drops,
        "host_drops": device.host_drops,
        "ends": device.ends,
        "table": len(device.table),
        "peers": len(device.peers),
    }


def _read_device(told: dict[str, Any], table: bytes, peers: bytes) -> CarriedDevice:
    plan = told["plan"]
    if plan["wire"] not in ("udp", "vxlan") or plan["underlay_family"] not in (4, 6):
        raise ValueError("its wire format or underlay family is unknown")
    return CarriedDevice(
        plan=DevicePlan(
            name=str(plan["name"]),
            mtu=int(plan["mtu"]),
            interface=str(plan["interface"]),
            underlay_family=plan["underlay_family"],
            underlay_address=ip_address(plan["underlay_address"]),
            public_address=ip_address(plan["public_address"]),
            subnets=tuple(ip_network(subnet) for subnet in plan["subnets"]),
            networks=tuple(ip_network(network) for network in plan["networks"]),
            vtep_mac=bytes.fromhex(plan["vtep_mac"]),
            addresses=tuple(ip_interface(address) for address in plan["addresses"]),
            port=int(plan["port"]),
            vni=int(plan["vni"]),
            wire=plan["wire"],
        ),
        name=str(told["name"]),
        index=int(told["index"]),
        workers=int(told["workers"]),
        spin_us=int(told["spin_us"]),
        table=table,
        peers=peers,
        counters=_counts(told["counters"]),
        kernel_drops=_counts(told["kernel_drops"]),
        host_drops=_counts(told["host_drops"]),
        ends={str(prefix): float(end) for prefix, end in told["ends"].items()},
    )


def _counts(told: dict[str, Any]) -> dict[str, int]:
    return {str(name): int(count) for name, count in told.items()}
