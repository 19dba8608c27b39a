"""Links, addresses and routes of the node, asked for and changed through rtnetlink.

All requests go through one worker thread around pyroute2's synchronous IPRoute: its asynchronous twin does not
work under uvloop. What must stay true: every refusal is a `HostError` that says what was asked, and asking for what
is already so (an address that is there, a route that is gone) is no error.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv6Interface, ip_address, ip_interface, ip_network
from typing import Any, TypeVar

from pyroute2 import IPRoute, NetlinkError
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted

from dataplane.errors import HostError, host_error
from dataplane.host.monitor import watch_changes
from dataplane.model import IPAddress, IPNetwork

Result = TypeVar("Result")

# linux/rtnetlink.h, linux/if_addr.h, linux/if.h, linux/route.h
_rt_table_main, _rt_table_local = 254, 255
_rtn_unicast = 1
_rtn_blackhole = 6
rtprot_boot = 3
_rtnh_f_onlink = 4
_rt_scope_universe = 0
_ifa_f_temporary = 0x01
_ifa_f_nodad = 0x02
_ifa_f_deprecated = 0x20
_ifa_f_permanent = 0x80
_iff_up = 1
_listings = 5
_no_such_route = (errno.ESRCH, errno.ENODEV, errno.ENETUNREACH)
_families = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface; `kind` is "tun", "vxlan", "veth" … and "" for hardware. `mtu` in bytes."""

    index: int
    name: str
    mtu: int
    up: bool
    kind: str = ""


@dataclass(frozen=True, slots=True)
class Address:
    """An address of a link; `scope` as in linux/rtnetlink.h (0 global, 253 link, 254 host)."""

    index: int
    interface: IPv4Interface | IPv6Interface
    scope: int = 0
    permanent: bool = True
    deprecated: bool = False
    temporary: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """A unicast route of the main table; `gateway` None: the prefix is on the link itself.

    `protocol` says who made it (linux/rtnetlink.h RTPROT_*): 3, boot, is what flannel and `ip route add` use.
    """

    prefix: IPNetwork
    index: int
    gateway: IPAddress | None = None
    onlink: bool = False
    protocol: int = rtprot_boot


class Host:
    """This network namespace's links, addresses and routes. Every method raises `HostError` when refused."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="dataplane-netlink")
        self._netlink: IPRoute | None = None
        self._port = 0

    async def links(self) -> list[Link]:
        """Every link, in the kernel's order."""
        return await self.ask("list the links", lambda netlink: [_link(row) for row in netlink.link("dump")])

    async def link(self, name: str) -> Link | None:
        """The link of this name, None if there is none."""

        def get(netlink: IPRoute) -> Link | None:
            try:
                return next(_link(row) for row in netlink.link("get", ifname=name))
            except NetlinkError as error:
                if error.code == errno.ENODEV:
                    return None
                raise

        return await self.ask(f"look up link {name}", get)

    async def addresses(self, index: int | None = None) -> list[Address]:
        """Addresses of one link, or of all, IPv4 first, each family in the kernel's order (primary first)."""

        def dump(netlink: IPRoute) -> list[Address]:
            rows = [row for version in _families for row in _of_family(version, netlink.addr)]
            return [_address(row) for row in rows if index in (None, row["index"])]

        return await self.ask("list the addresses", dump)

    async def set_link(self, index: int, *, mtu: int, up: bool, txqueuelen: int | None = None) -> None:
        """Set a link's MTU (bytes), its state and, if given, its transmit queue (packets)."""
        wanted: dict[str, Any] = {"index": index, "mtu": mtu, "state": "up" if up else "down"}
        if txqueuelen is not None:
            wanted["txqlen"] = txqueuelen
        await self.ask(f"set link {index} to MTU {mtu}", lambda netlink: netlink.link("set", **wanted))

    async def add_address(self, index: int, interface: IPv4Interface | IPv6Interface) -> None:
        """Give a link an address; one that is there already is left as it is. No duplicate address detection."""
        wanted: dict[str, Any] = _address_request(index, interface)
        if interface.version == 6:
            wanted["flags"] = _ifa_f_nodad
        await self.ask(f"add address {interface} to link {index}", lambda netlink: netlink.addr("replace", **wanted))

    async def remove_address(self, index: int, interface: IPv4Interface | IPv6Interface) -> None:
        """Take an address from a link; one that is not there is fine."""
        wanted = _address_request(index, interface)
        await self.ask(
            f"remove address {interface} from link {index}",
            lambda netlink: netlink.addr("del", **wanted),
            absent=(errno.EADDRNOTAVAIL, errno.ENODEV),
        )

    async def routes(self, index: int) -> list[Route]:
        """Unicast routes of the main table through this link, both families."""

        def dump(netlink: IPRoute) -> list[Route]:
            return [
                route
                for version in _families
                for row in _of_family(version, netlink.route, table=_rt_table_main, oif=index)
                if (route := _route(row, version)) is not None and route.index == index
            ]

        return await self.ask(f"list the routes of link {index}", dump)

    async def add_route(self, route: Route) -> None:
        """Put a route into the main table in place of any other with the same prefix and metric."""
        await self.ask(f"add {_name(route)}", lambda netlink: _put_route(netlink, route))

    async def remove_route(self, route: Route) -> None:
        """Take a route out of the main table; one that is not there is fine."""
        await self.ask(
            f"remove {_name(route)}",
            lambda netlink: netlink.route("del", **_route_request(route)),
            absent=_no_such_route,
        )

    async def change_routes(self, put: Sequence[Route], remove: Sequence[Route] = ()) -> dict[Route, str]:
        """Remove and put many routes; return why by each that the kernel refused. The others are done."""

        def change(netlink: IPRoute) -> dict[Route, str]:
            refused: dict[Route, str] = {}
            for route in remove:
                try:
                    netlink.route("del", **_route_request(route))
                except NetlinkError as error:
                    if error.code not in _no_such_route:
                        refused[route] = f"cannot remove {_name(route)}: {os.strerror(error.code)}"
            for route in put:
                try:
                    _put_route(netlink, route)
                except NetlinkError as error:
                    refused[route] = f"cannot add {_name(route)}: {os.strerror(error.code)} (errno {error.code})"
            return refused

        return await self.ask("change routes", change)

    async def main_routes(self, version: int) -> list[Route]:
        """Every unicast route of the main table of IP version 4 or 6."""

        def dump(netlink: IPRoute) -> list[Route]:
            rows = _of_family(version, netlink.route, table=_rt_table_main)
            return [route for row in rows if (route := _route(row, version)) is not None]

        return await self.ask(f"list the IPv{version} routes", dump)

    async def local_destinations(self, version: int) -> frozenset[IPNetwork]:
        """What the host takes in itself: the local table, with its addresses, broadcasts and anycasts."""

        def dump(netlink: IPRoute) -> frozenset[IPNetwork]:
            rows = _of_family(version, netlink.route, table=_rt_table_local)
            return frozenset(
                ip_network(f"{row.get('dst')}/{row['dst_len']}")
                for row in rows
                if row.get("table") == _rt_table_local and row.get("dst")
            )

        return await self.ask(f"list the local IPv{version} addresses", dump)

    async def on_link(self, addresses: Iterable[IPAddress]) -> dict[IPAddress, int]:
        """Those of the addresses that the host reaches without a gateway, with the index of the link (flannel.md 5.5)."""

        def get(netlink: IPRoute) -> dict[IPAddress, int]:
            found = {}
            for address in addresses:
                try:
                    rows = list(netlink.route("get", dst=str(address)))
                except NetlinkError:
                    continue  # there is no way at all
                if len(rows) == 1 and rows[0]["type"] == _rtn_unicast and not _has_gateway(rows[0]):
                    found[address] = int(rows[0].get("oif"))
            return found

        return await self.ask("find the routes to peers", get)

    async def add_blackhole(self, prefix: IPNetwork) -> bool:
        """Add a blackhole route unless the prefix has a route; return whether it has a blackhole route now."""
        request = {"dst": str(prefix), "table": _rt_table_main, "proto": rtprot_boot, "type": "blackhole"}

        def add(netlink: IPRoute) -> bool:
            try:
                netlink.route("add", **request)
            except NetlinkError as error:
                if error.code != errno.EEXIST:
                    raise
                return _has_blackhole(netlink, prefix)
            return True

        return await self.ask(f"add blackhole route {prefix}", add)

    async def remove_blackhole(self, prefix: IPNetwork) -> bool:
        """Remove the prefix's blackhole route; return whether there was one."""

        def remove(netlink: IPRoute) -> bool:
            if not _has_blackhole(netlink, prefix):
                return False
            netlink.route("del", dst=str(prefix), table=_rt_table_main, type="blackhole")
            return True

        return await self.ask(f"remove blackhole route {prefix}", remove)

    async def default_route(self, version: int) -> Route | None:
        """The main table's first (lowest metric) default route of IP version 4 or 6."""

        def first(netlink: IPRoute) -> Route | None:
            rows = _of_family(version, netlink.route, table=_rt_table_main)
            routes = ((row.get("priority") or 0, _route(row, version)) for row in rows if row["dst_len"] == 0)
            found = [(metric, route) for metric, route in routes if route is not None]
            return min(found, key=lambda pair: pair[0])[1] if found else None

        return await self.ask(f"list the IPv{version} routes", first)

    async def route_to(self, address: IPAddress) -> tuple[int, IPAddress | None]:
        """Index of the link by which the kernel reaches `address`, and the source address it would use."""

        def get(netlink: IPRoute) -> tuple[int, IPAddress | None]:
            row = next(iter(netlink.route("get", dst=str(address))))
            source = row.get("prefsrc")
            return int(row.get("oif")), ip_address(source) if source else None

        return await self.ask(f"find the route to {address}", get)

    async def close(self) -> None:
        """Close the netlink socket and end the worker thread."""

        def close() -> None:
            if self._netlink is not None:
                self._netlink.close()
                self._netlink = None

        await asyncio.get_running_loop().run_in_executor(self._thread, close)
        self._thread.shutdown()

    def changes(self) -> AsyncIterator[None]:
        """Yield whenever a link, an address, a route or an IPsec policy changed, but not by this object's requests alone."""
        return watch_changes(lambda: self._port)

    async def ask(self, what: str, request: Callable[[IPRoute], Result], absent: tuple[int, ...] = ()) -> Result:
        """Run a request in the netlink thread and name it in the `HostError`, if the kernel refuses, as "cannot <what>".

        An errno out of `absent` means that there was nothing to remove, and gives None.
        """

        def run() -> Any:
            try:
                if self._netlink is None:
                    self._netlink = _open_netlink()
                    # The answer to any question shows by which port it was asked.
                    self._port = next(iter(self._netlink.link("get", ifname="lo")))["header"]["pid"]
                for _ in range(_listings):
                    with suppress(NetlinkDumpInterrupted):  # it changed while the kernel listed it
                        return request(self._netlink)
                raise HostError(f"cannot {what}: it changes faster than the kernel lists it")
            except NetlinkError as error:
                if error.code in absent:
                    return None
                raise host_error(
                    f"cannot {what}: {os.strerror(error.code)} (errno {error.code})", error.code
                ) from error
            except OSError as error:
                raise host_error(f"cannot {what}: {error.strerror or error}", error.errno) from error

        result: Result = await asyncio.get_running_loop().run_in_executor(self._thread, run)
        return result


def _open_netlink() -> IPRoute:
    """With strict checks the kernel (Linux 4.20) heeds the table and link that a dump asks for."""
    try:
        return IPRoute(strict_check=True)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        return IPRoute()


def _of_family(version: int, dump: Callable[..., Any], **wanted: int) -> list[Any]:
    """Dump one IP version. A kernel without IPv6 answers a question about it with all that it has."""
    family = _families[version]
    # pyroute2 by default asks for everything and filters in Python: 0.4 s for 10,000 routes of other links. With a
    # filter of our own it passes the keywords on, and the kernel filters.
    rows = dump("dump", dump_filter={}, family=family, **wanted)
    return [row for row in rows if row["family"] == family]


def _link(row: Any) -> Link:
    kind = row.get(("linkinfo", "kind")) or ""
    return Link(row["index"], row.get("ifname"), row.get("mtu") or 0, bool(row["flags"] & _iff_up), kind)


def _address(row: Any) -> Address:
    # IFA_LOCAL is our end; IFA_ADDRESS is the other end's on a point-to-point link. IPv6 mostly has only the latter.
    interface = ip_interface(f"{row.get('local') or row.get('address')}/{row['prefixlen']}")
    flags = row.get("flags") or 0
    return Address(
        row["index"],
        interface,
        row["scope"],
        permanent=bool(flags & _ifa_f_permanent),
        deprecated=bool(flags & _ifa_f_deprecated),
        temporary=bool(flags & _ifa_f_temporary) and interface.version == 6,  # IPv4 has SECONDARY in this bit
    )


def _address_request(index: int, interface: IPv4Interface | IPv6Interface) -> dict[str, Any]:
    return {"index": index, "address": str(interface.ip), "prefixlen": interface.network.prefixlen}


def _route(row: Any, version: int) -> Route | None:
    """A dumped route, of several next hops the first; None for those that carry nothing (blackhole, unreachable)."""
    if row["type"] != _rtn_unicast or row.get("table") != _rt_table_main:
        return None
    several = row.get("multipath")
    hop, index = (several[0], several[0]["oif"]) if several else (row, row.get("oif"))
    if not index:
        return None
    prefix = ip_network(f"{row.get('dst') or ('0.0.0.0' if version == 4 else '::')}/{row['dst_len']}")
    gateway = hop.get("gateway")
    onlink = bool(hop["flags"] & _rtnh_f_onlink)
    return Route(prefix, index, ip_address(gateway) if gateway else None, onlink, row["proto"])


def _route_request(route: Route) -> dict[str, Any]:
    request: dict[str, Any] = {"dst": str(route.prefix), "oif": route.index, "table": _rt_table_main}
    if route.gateway is not None:
        request["gateway"] = str(route.gateway)
    if route.onlink:
        request["flags"] = _rtnh_f_onlink
    return request


def _put_route(netlink: IPRoute, route: Route) -> None:
    netlink.route("replace", **_route_request(route), scope=_rt_scope_universe, proto=rtprot_boot)


def _has_blackhole(netlink: IPRoute, prefix: IPNetwork) -> bool:
    rows = _of_family(prefix.version, netlink.route, table=_rt_table_main)
    base, length = str(prefix.network_address), prefix.prefixlen
    return any(row["type"] == _rtn_blackhole and row["dst_len"] == length and row.get("dst") == base for row in rows)


def _has_gateway(row: Any) -> bool:
    return any(row.get(name) is not None for name in ("gateway", "via", "multipath")) or row.get("oif") is None


def _name(route: Route) -> str:
    via = f" via {route.gateway}" if route.gateway is not None else ""
    return f"route {route.prefix}{via} dev {route.index}"
