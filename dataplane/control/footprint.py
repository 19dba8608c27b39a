"""What this daemon leaves on the host when it ends, written down in the run directory for `dataplane cleanup`.

What must stay true: what was left is written before it is made, so that also a daemon that is killed can be cleaned
up after; and only what is written here, and still looks like ours, is ever removed.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

from dataplane.control import admission, firewall
from dataplane.control.peer_routes import is_peer_route
from dataplane.errors import BadInput, HostError
from dataplane.host import vxlan
from dataplane.host.netlink import Host
from dataplane.model import IPNetwork
from dataplane.private_files import open_file, opened_directory, replace_file

file_name = "footprint.json"


@dataclass(frozen=True, slots=True)
class Footprint:
    """What may be left.

    Attributes:
        devices: names of vxlan devices of the kernel.
        interface: the external interface, through which direct routes go.
        networks, subnets: the overlay's, and our own, for routes and blackhole routes.
        blackhole: whether blackhole routes were asked for.
        firewall: whether rules were.
        subnet_file: path of subnet.env.
    """

    devices: tuple[str, ...]
    interface: str
    networks: tuple[IPNetwork, ...]
    subnets: tuple[IPNetwork, ...]
    blackhole: bool
    firewall: bool
    subnet_file: str


def add(run_dir: Path, footprint: Footprint) -> None:
    """Write it down beside what earlier lives wrote, which `remove` has not removed yet; raises `HostError`."""
    try:
        earlier = read(run_dir) or footprint
    except BadInput:
        earlier = footprint
    document = {
        "devices": sorted({*earlier.devices, *footprint.devices}),
        "interface": footprint.interface,
        "networks": sorted({str(network) for network in (*earlier.networks, *footprint.networks)}),
        "subnets": sorted({str(subnet) for subnet in (*earlier.subnets, *footprint.subnets)}),
        "blackhole": earlier.blackhole or footprint.blackhole,
        "firewall": earlier.firewall or footprint.firewall,
        "subnet_file": footprint.subnet_file,
    }
    path = run_dir / file_name
    try:
        with opened_directory(run_dir) as directory:
            replace_file(directory, path, json.dumps(document, indent=1) + "\n")
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error


def read(run_dir: Path) -> Footprint | None:
    """Return what was written, None if nothing was; raises `BadInput` if it cannot be read."""
    path = run_dir / file_name
    try:
        with opened_directory(run_dir) as directory, os.fdopen(open_file(directory, path, os.O_RDONLY)) as file:
            document: dict[str, Any] = json.loads(file.read())
        return Footprint(
            devices=tuple(str(name) for name in document["devices"]),
            interface=str(document["interface"]),
            networks=tuple(ip_network(text) for text in document["networks"]),
            subnets=tuple(ip_network(text) for text in document["subnets"]),
            blackhole=bool(document["blackhole"]),
            firewall=bool(document["firewall"]),
            subnet_file=str(document["subnet_file"]),
        )
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BadInput(f"{path} cannot be read ({error}); remove it, and what it names by hand") from error


async def remove(run_dir: Path, footprint: Footprint) -> list[str]:
    """Remove all of it and return what was removed, one line each.

    Raises:
        HostError: something could not be removed; everything else is, and the footprint stays.
    """
    done: list[str] = []
    errors: list[str] = []
    host = Host()
    try:
        for name in footprint.devices:
            if await vxlan.remove_device(host, name):
                done.append(f"device {name}, with its routes, neighbours and FDB entries")
            done += await admission.remove(host, name)
        done += await _remove_routes(host, footprint)
        if footprint.blackhole:
            for subnet in footprint.subnets:
                if await host.remove_blackhole(subnet):
                    done.append(f"blackhole route {subnet}")
    except HostError as error:
        errors.append(str(error))
    finally:
        await host.close()
    if footprint.firewall:
        try:
            await firewall.remove()
            done.append("masquerade and forward rules")
        except HostError as error:
            errors.append(str(error))
    if errors:
        raise HostError("; ".join(errors))
    for path in (Path(footprint.subnet_file), run_dir / file_name):
        if path.exists():
            path.unlink()
            done.append(str(path))
    return done


async def _remove_routes(host: Host, footprint: Footprint) -> list[str]:
    interface = await host.link(footprint.interface)
    if interface is None:
        return []
    routes = [
        route
        for version in {network.version for network in footprint.networks}
        for route in await host.main_routes(version)
        if any(
            route.prefix.version == network.version and route.prefix.subnet_of(network)  # type: ignore[arg-type]
            for network in footprint.networks
        )
        and is_peer_route(route, (interface.index,), footprint.subnets)
    ]
    refused = await host.change_routes((), routes)
    if refused:
        raise HostError("; ".join(refused.values()))
    return [f"route {route.prefix} via {route.gateway} dev {interface.name}" for route in routes]
