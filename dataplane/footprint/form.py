"""The record's form: what a footprint says, and the JSON file that says it.

What must stay true: of a file that can be read in part, that part is used and the rest is named.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

from dataplane.errors import BadInput
from dataplane.model import IPNetwork
from dataplane.runtime.place import Place, here
from dataplane.runtime.private_files import open_file

Item = TypeVar("Item")

most_bytes = 1 << 20
most_entries = 256  # of one kind


@dataclass(frozen=True, slots=True)
class Footprint:
    """What may be left.

    Attributes:
        devices: names of vxlan devices of the kernel, with the MACs that ours may have; none: not written down.
        interfaces: external interfaces, through which direct routes go; the present one last.
        networks, subnets: the overlay's, and our own, for routes and blackhole routes.
        blackhole: whether blackhole routes were asked for.
        firewall: whether rules were.
        subnet_file: path of subnet.env.
        place: where it is; None: written by a version that did not say.
        faults: what of the file cannot be read.
        tuns: TUN devices that stay, with their indexes, which no other device of this boot and namespace gets.
    """

    devices: Mapping[str, frozenset[str]]
    interfaces: tuple[str, ...]
    networks: tuple[IPNetwork, ...]
    subnets: tuple[IPNetwork, ...]
    blackhole: bool
    firewall: bool
    subnet_file: str
    place: Place | None = field(default_factory=here)
    faults: tuple[str, ...] = ()
    tuns: Mapping[str, int] = field(default_factory=dict)

    @property
    def is_here(self) -> bool:
        """Whether it is of this network namespace, or of an earlier boot, of which nothing is left anywhere."""
        return self.place is None or not self.place.same_boot(here()) or self.place.same_netns(here())

    @property
    def is_gone(self) -> bool:
        """Whether it is of an earlier boot: only files can be left."""
        return self.place is not None and not self.place.same_boot(here())


def text_of(footprint: Footprint) -> str:
    """Return the file's text."""
    document: dict[str, Any] = {
        "devices": {name: sorted(macs) for name, macs in sorted(footprint.devices.items())},
        "interface": footprint.interfaces[-1],  # versions before this one know no other
        "interfaces": footprint.interfaces,
        "networks": [str(network) for network in footprint.networks],
        "subnets": [str(subnet) for subnet in footprint.subnets],
        "blackhole": footprint.blackhole,
        "firewall": footprint.firewall,
        "subnet_file": footprint.subnet_file,
        "tuns": dict(sorted(footprint.tuns.items())),
    }
    if footprint.place is not None:
        place = footprint.place
        document["place"] = {"boot": place.boot, "netns": place.netns, "cookie": place.cookie}
    return json.dumps(document, indent=1) + "\n"


def load(directory: int, path: Path) -> Footprint | None:
    """Read a file in an opened directory; None if there is none, or none of which anything is to be kept.

    Raises:
        BadInput: nothing in it can be used.
        OSError: it cannot be opened.
    """
    try:
        with os.fdopen(open_file(directory, path, os.O_RDONLY), "rb") as file:
            text = file.read(most_bytes + 1)
        if len(text) > most_bytes:
            raise ValueError(f"larger than {most_bytes} bytes")
        document = json.loads(text)
        if not isinstance(document, dict):
            raise ValueError("no JSON object")
        place = _place(document["place"]) if "place" in document else None
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise BadInput(f"{path} cannot be read ({error}); remove it, and what it names by hand") from error
    faults: list[str] = []
    interfaces = _items(document, "interfaces" if "interfaces" in document else "interface", _name, faults)
    devices = document.get("devices", [])
    return Footprint(
        devices={name: _macs(devices, name, faults) for name in _items(document, "devices", _name, faults)},
        interfaces=interfaces,
        networks=_items(document, "networks", ip_network, faults),
        subnets=_items(document, "subnets", ip_network, faults),
        blackhole=document.get("blackhole") is True,
        firewall=document.get("firewall") is True,
        subnet_file=next(iter(_items(document, "subnet_file", _path, faults)), ""),
        place=place,
        tuns=_tuns(document.get("tuns", {}), faults),
        faults=tuple(faults),
    )


def _items(document: dict[str, Any], key: str, parse: Callable[[str], Item], faults: list[str]) -> tuple[Item, ...]:
    """Return the entries that can be read, of a list, an object's keys or a single text."""
    value = document.get(key)
    entries = [value] if isinstance(value, str) else list(value) if isinstance(value, list | dict) else None
    if entries is None or len(entries) > most_entries:
        faults.append(f"{key} is missing or no list" if entries is None else f"more than {most_entries} {key}")
        return ()
    read = []
    for entry in entries:
        try:
            if not isinstance(entry, str):
                raise ValueError(f"{entry!r:.80} is no text")
            read.append(parse(entry))
        except ValueError as error:
            faults.append(f"{key}: {error!s:.200}")
    return tuple(read)


def _macs(devices: object, name: str, faults: list[str]) -> frozenset[str]:
    return frozenset(_items(devices, name, _mac, faults)) if isinstance(devices, dict) else frozenset()


def _tuns(tuns: object, faults: list[str]) -> dict[str, int]:
    if not isinstance(tuns, dict) or len(tuns) > most_entries:
        faults.append("tuns is no object of few entries")
        return {}
    names = _items({"tuns": tuns}, "tuns", _name, faults)
    odd = [name for name in names if type(tuns[name]) is not int or tuns[name] <= 0]
    faults += [f"tuns: {name} has no index" for name in odd]
    return {name: tuns[name] for name in names if name not in odd}


def _mac(text: str) -> str:
    if len(bytes.fromhex(text.replace(":", ""))) != 6:
        raise ValueError(f"{text!r:.80} is no MAC address")
    return text


def _name(text: str) -> str:
    if not 0 < len(text.encode()) < 16 or "/" in text or not text.isprintable() or " " in text:
        raise ValueError(f"{text!r:.80} is no name of a network interface")
    return text


def _path(text: str) -> str:
    if not text or "\0" in text:
        raise ValueError(f"{text!r:.80} is no path")
    return text


def _place(value: object) -> Place:
    if not isinstance(value, dict):
        raise ValueError("place is no object")
    boot, netns, cookie = (value.get(key) for key in ("boot", "netns", "cookie"))
    if not isinstance(boot, str) or type(netns) is not int or type(cookie) is not int:
        raise ValueError("place is not boot, netns and cookie")
    return Place(boot, netns, cookie)
