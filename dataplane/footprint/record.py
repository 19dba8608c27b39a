"""What this daemon leaves on the host when it ends, written down in the run directory for `dataplane cleanup`.

What must stay true: what was left is written before it is made, so that also a daemon that is killed can be cleaned
up after; only what is written here, of this boot and network namespace, and still looks like ours, is ever removed; a
file that is not of here, or cannot be read, is moved aside, never written over.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from ipaddress import ip_network
from pathlib import Path
from typing import Any, TypeVar

from dataplane.errors import BadInput, HostError
from dataplane.flannel import subnet_env
from dataplane.host import vxlan
from dataplane.host.netlink import Host
from dataplane.keepers import admission, firewall
from dataplane.keepers.peer_routes import is_peer_route
from dataplane.model import IPNetwork
from dataplane.runtime.place import Place, here
from dataplane.runtime.private_files import open_file, opened_directory, replace_file

log = logging.getLogger(__name__)
Item = TypeVar("Item")

file_name = "footprint.json"
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

    @property
    def is_here(self) -> bool:
        """Whether it is of this network namespace, or of an earlier boot, of which nothing is left anywhere."""
        return self.place is None or not self.place.same_boot(here()) or self.place.same_netns(here())

    @property
    def is_gone(self) -> bool:
        """Whether it is of an earlier boot: only files can be left."""
        return self.place is not None and not self.place.same_boot(here())


def add(run_dir: Path, footprint: Footprint, *, made: bool = False) -> None:
    """Write it down beside what earlier lives wrote here, which `remove` has not removed yet; raises `HostError`.

    Args:
        made: whether its devices stand, so that no other MACs than these are ours.
    """
    path = run_dir / file_name
    aside = _aside(path, here())
    try:
        with opened_directory(run_dir) as directory:
            earlier = [_kept(directory, each) for each in (aside, path)]
            merged = footprint
            for each in earlier:
                merged = merged if each is None or each.is_gone else _merge(each, merged, made)
            replace_file(directory, path, json.dumps(_document(merged), indent=1) + "\n")
            if earlier[0] is not None:
                os.unlink(aside.name, dir_fd=directory)
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error


def read(run_dir: Path) -> Footprint | None:
    """Return what was written here, None if nothing was; raises `BadInput` if it cannot be read or is not of here."""
    found = find(run_dir)
    return None if found is None else found[1]


def find(run_dir: Path) -> tuple[Path, Footprint] | None:
    """Return what was written here, and in which file; None if nothing was.

    Raises:
        BadInput: it cannot be read, or is of another network namespace.
    """
    path = run_dir / file_name
    others = []
    try:
        with opened_directory(run_dir) as directory:
            for each in (path, _aside(path, here())):
                found = _read(directory, each)
                if found is not None and found.is_here:
                    return each, found
                if found is not None:
                    others.append(f"{each} {_of(found)}")
    except FileNotFoundError:
        return None
    except OSError as error:
        raise BadInput(f"{path} cannot be read ({error}); remove it, and what it names by hand") from error
    if others:
        raise BadInput(
            f"{'; '.join(others)}: what it names is not touched from here; run the command there "
            "(ip netns exec NAME …), or remove the file if that namespace is gone"
        )
    return None


async def remove(path: Path, footprint: Footprint) -> tuple[list[str], list[str]]:
    """Remove all of it, at last the file itself; return what was removed, and what is left as not ours, one line each.

    Raises:
        BadInput: it is another node's, as far as can be told; nothing is removed.
        HostError: something could not be removed; everything else is, and the footprint stays.
    """
    done: list[str] = []
    left: list[str] = []
    errors: list[str] = []
    if not footprint.is_gone:
        host = Host()
        try:
            if footprint.place is None:
                await _refuse_strangers(host, path, footprint)
            for name, macs in footprint.devices.items():
                with _noted(errors):
                    await _remove_device(host, name, macs, done, left)
            for interface in footprint.interfaces:
                with _noted(errors):
                    done += await _remove_routes(host, footprint, interface)
            for subnet in footprint.subnets if footprint.blackhole else ():
                with _noted(errors):
                    if await host.remove_blackhole(subnet):
                        done.append(f"blackhole route {subnet}")
        finally:
            await host.close()
        if footprint.firewall:
            with _noted(errors):
                await firewall.remove()
                done.append("masquerade and forward rules")
    with _noted(errors):
        _remove_subnet_file(footprint, done, left)
    errors += [f"{path}: {fault}; see to what that meant by hand, then remove the file" for fault in footprint.faults]
    if errors:
        raise HostError("; ".join(errors))
    _remove_file(path, done)
    return done, left


async def strange(host: Host, name: str, macs: frozenset[str]) -> str:
    """Return why the vxlan device of this name is not the one that was written down, "" if it is, or there is none."""
    mac = await vxlan.device_mac(host, name)
    if mac is None or not macs or mac.hex(":") in macs:
        return ""
    return f"device {name} has the MAC {mac.hex(':')}, ours had {' or '.join(sorted(macs))}: somebody else's"


async def _remove_device(host: Host, name: str, macs: frozenset[str], done: list[str], left: list[str]) -> None:
    if reason := await strange(host, name, macs):
        left.append(reason)
        return
    if await vxlan.remove_device(host, name):
        done.append(f"device {name}, with its routes, neighbours and FDB entries")
    done += await admission.remove(host, name)


async def _remove_routes(host: Host, footprint: Footprint, name: str) -> list[str]:
    interface = await host.link(name)
    if interface is None:
        return []
    routes = [
        route
        for version in {network.version for network in footprint.networks}
        for route in await host.main_routes(version)
        if is_peer_route(route, (interface.index,), footprint.subnets)
        and any(
            route.prefix.version == network.version and route.prefix.subnet_of(network)  # type: ignore[arg-type]
            for network in footprint.networks
        )
    ]
    refused = await host.change_routes((), routes)
    if refused:
        raise HostError("; ".join(refused.values()))
    return [f"route {route.prefix} via {route.gateway} dev {interface.name}" for route in routes]


def _remove_subnet_file(footprint: Footprint, done: list[str], left: list[str]) -> None:
    path = Path(footprint.subnet_file)
    if not footprint.subnet_file or not os.path.lexists(path):
        return
    if path.is_symlink() or not path.is_file():
        left.append(f"{path} is no plain file: not ours")
        return
    said = subnet_env.read(path)
    subnets = [subnet for subnet in (said.subnet, said.ipv6_subnet) if subnet is not None]
    if subnets and not set(subnets) & set(footprint.subnets):
        left.append(f"{path} is of another node: it says {', '.join(map(str, subnets))}")
        return
    _remove_file(path, done)


def _remove_file(path: Path, done: list[str]) -> None:
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise HostError(f"cannot remove {path}: {error.strerror}") from error
    done.append(str(path))


async def _refuse_strangers(host: Host, path: Path, footprint: Footprint) -> None:
    """Raise `BadInput` if a device of a footprint that does not say where it is has addresses, and none that we had."""
    for name in footprint.devices:
        link = await host.link(name)
        if link is None or link.kind != "vxlan" or not footprint.subnets:
            continue
        # The kernel gives a link-local one by itself.
        addresses = [own.interface.ip for own in await host.addresses(link.index) if not own.interface.ip.is_link_local]
        if addresses and not any(ip in subnet for ip in addresses for subnet in footprint.subnets):
            raise BadInput(
                f"{path} is of another node: its subnets are {', '.join(map(str, footprint.subnets))}, "
                f"and {name} here has {', '.join(map(str, addresses))}; nothing is removed"
            )


@contextmanager
def _noted(errors: list[str]) -> Iterator[None]:
    try:
        yield
    except HostError as error:
        errors.append(str(error))


def _merge(earlier: Footprint, later: Footprint, made: bool) -> Footprint:
    devices = {**earlier.devices, **later.devices}
    for name in () if made else earlier.devices.keys() & later.devices.keys():
        known, planned = earlier.devices[name], later.devices[name]
        devices[name] = known | planned if known and planned else frozenset()  # one may be there of which none is known
    return replace(
        later,
        devices=devices,
        interfaces=(*(name for name in earlier.interfaces if name not in later.interfaces), *later.interfaces),
        networks=_union(earlier.networks, later.networks),
        subnets=_union(earlier.subnets, later.subnets),
        blackhole=earlier.blackhole or later.blackhole,
        firewall=earlier.firewall or later.firewall,
    )


def _union(earlier: tuple[IPNetwork, ...], later: tuple[IPNetwork, ...]) -> tuple[IPNetwork, ...]:
    return tuple(sorted({*earlier, *later}, key=str))


def _aside(path: Path, place: Place) -> Path:
    return path.with_name(f"{path.name}.{place.netns}")


def _of(footprint: Footprint) -> str:
    there = footprint.place
    return f"is of another network namespace (net:[{there.netns if there else 0}], here is net:[{here().netns}])"


def _kept(directory: int, path: Path) -> Footprint | None:
    """Read an earlier footprint; one that cannot be read, or is not of here, is moved aside. Raises `OSError`."""
    try:
        found = _read(directory, path)
        fault = "" if found is None or not found.faults else "; ".join(found.faults)
    except (OSError, BadInput) as error:
        found, fault = None, error.strerror or str(error) if isinstance(error, OSError) else str(error)
    if found is not None and not found.is_here and found.place is not None:
        to = _aside(path, found.place)
        os.rename(path.name, to.name, src_dir_fd=directory, dst_dir_fd=directory)
        log.warning("%s %s: moved to %s", path, _of(found), to)
        return None
    if fault:
        to = path.with_name(f"{file_name}.bad")
        os.rename(path.name, to.name, src_dir_fd=directory, dst_dir_fd=directory)
        log.warning("%s: %s; moved to %s, see to what else it names by hand", path, fault, to)
    return found


def _document(footprint: Footprint) -> dict[str, Any]:
    document: dict[str, Any] = {
        "devices": {name: sorted(macs) for name, macs in sorted(footprint.devices.items())},
        "interface": footprint.interfaces[-1],  # versions before this one know no other
        "interfaces": footprint.interfaces,
        "networks": [str(network) for network in footprint.networks],
        "subnets": [str(subnet) for subnet in footprint.subnets],
        "blackhole": footprint.blackhole,
        "firewall": footprint.firewall,
        "subnet_file": footprint.subnet_file,
    }
    if footprint.place is not None:
        place = footprint.place
        document["place"] = {"boot": place.boot, "netns": place.netns, "cookie": place.cookie}
    return document


def _read(directory: int, path: Path) -> Footprint | None:
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
