"""What keeps one plan's part of the host as it should be: a TUN with its forwarder, a kernel vxlan device, or routes.

What must stay true of each keeper: `publish` never waits, `flush` and `ensure` may be called at any time and any number
of times, and a failure is told (state, log) and tried again later, never raised.
"""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import IPv4Interface, IPv6Interface
from typing import Protocol

from dataplane.errors import HostError
from dataplane.host.links import Address, Link
from dataplane.host.routes import Route
from dataplane.leases.diff import Change
from dataplane.model import IPAddress


class HostNet(Protocol):
    """What control asks of `host.netlink.Host`; every method raises `HostError`."""

    async def link(self, name: str) -> Link | None:
        """The link of this name."""
        ...

    async def addresses(self, index: int | None = None) -> list[Address]:
        """Addresses of a link."""
        ...

    async def routes(self, index: int) -> list[Route]:
        """Routes through a link."""
        ...

    async def main_routes(self, version: int) -> list[Route]:
        """All routes of one IP version."""
        ...

    async def on_link(self, addresses: Sequence[IPAddress]) -> dict[IPAddress, int]:
        """Which of the addresses are reached without a gateway, and by which link."""
        ...

    async def set_link(self, index: int, *, mtu: int, up: bool, txqueuelen: int | None = None) -> None:
        """Set a link's MTU and state."""
        ...

    async def add_address(self, index: int, interface: IPv4Interface | IPv6Interface) -> None:
        """Give a link an address."""
        ...

    async def remove_address(self, index: int, interface: IPv4Interface | IPv6Interface) -> None:
        """Take an address from a link."""
        ...

    async def add_route(self, route: Route) -> None:
        """Put a route into the main table."""
        ...

    async def change_routes(self, put: Sequence[Route], remove: Sequence[Route] = ()) -> dict[Route, str]:
        """Change many routes; returns those that the kernel refused, and why."""
        ...


class Keeper(Protocol):
    """One plan's part of the host."""

    @property
    def failed(self) -> bool:
        """Whether it has to be built again, which `ensure` does."""
        ...

    async def open(self) -> None:
        """Build it; raises `HostError`, `CoreError`. What failed is built by `ensure`."""
        ...

    async def close(self) -> None:
        """Let go of it at the daemon's end. What flannel leaves behind for a restart stays."""
        ...

    async def withdraw(self) -> None:
        """Take away all of it: our lease is lost, and nothing may be forwarded for it any more."""
        ...

    def publish(self, change: Change) -> None:
        """Take in a change of the wanted peers: at once, or by the next `flush`."""
        ...

    async def flush(self) -> None:
        """Do what `publish` left to do."""
        ...

    async def ensure(self) -> None:
        """Look at the whole and put back what is missing."""
        ...


async def find_external(host: HostNet, name: str, address: IPAddress) -> Link:
    """Return the external interface, fit for use; raises `HostError` saying what it lacks."""
    interface = await host.link(name)
    if interface is None:
        raise HostError(f"interface {name} is gone")
    if all(found.interface.ip != address for found in await host.addresses(interface.index)):
        raise HostError(f"interface {name} no longer has our address {address}")
    if not interface.up:
        raise HostError(f"interface {name} is down")
    return interface
