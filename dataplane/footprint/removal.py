"""Removes what daemons that have ended left on the host, by their footprint.

What must stay true: only what is written there, of this boot and network namespace, and still looks like ours, is ever
removed.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from dataplane.errors import BadInput, HostError
from dataplane.footprint.form import Footprint
from dataplane.footprint.record import read
from dataplane.host import vxlan
from dataplane.host.netlink import Host
from dataplane.keepers import admission, firewall, opening, subnet_file
from dataplane.keepers.peer_routes import is_peer_route
from dataplane.model import IPNetwork

log = logging.getLogger(__name__)


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
            with _noted(errors):
                done += [f"TUN device {name}, with its routes" for name in opening.remove_all(footprint.tuns.items())]
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


async def left_here(host: Host, run_dir: Path) -> tuple[Sequence[str], tuple[IPNetwork, ...]]:
    """Return the devices that lives of ours left here, if they are still ours, and the overlay networks."""
    left = read(run_dir)
    if left is None:
        return (), ()
    names = []
    for name, macs in left.devices.items():
        if reason := await strange(host, name, macs):
            log.warning("left alone: %s", reason)
        else:
            names.append(name)
    return names, left.networks


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
    said = subnet_file.read(path)
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
