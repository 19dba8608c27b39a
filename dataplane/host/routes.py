"""Routes of the node: those of the main table, and what the host takes in itself.

What must stay true: many routes are one request of the worker thread, and one that the kernel refuses stops no other.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from dataplane.host.requests import Netlink, families, of_family
from dataplane.model import IPAddress, IPNetwork

# linux/rtnetlink.h, linux/route.h
_rt_table_main, _rt_table_local = 254, 255
_rtn_unicast = 1
_rtn_blackhole = 6
rtprot_boot = 3
_rtnh_f_onlink = 4
_rt_scope_universe = 0
_no_such_route = (errno.ESRCH, errno.ENODEV, errno.ENETUNREACH)


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


class Routes(Netlink):
    """This network namespace's routes."""

    async def routes(self, index: int) -> list[Route]:
        """Unicast routes of the main table through this link, both families."""

        def dump(netlink: IPRoute) -> list[Route]:
            return [
                route
                for version in families
                for row in of_family(version, netlink.route, table=_rt_table_main, oif=index)
                if (route := _route(row, version)) is not None and route.index == index
            ]

        return await self.ask(f"list the routes of link {index}", dump)

    async def main_routes(self, version: int) -> list[Route]:
        """Every unicast route of the main table of IP version 4 or 6."""

        def dump(netlink: IPRoute) -> list[Route]:
            rows = of_family(version, netlink.route, table=_rt_table_main)
            return [route for row in rows if (route := _route(row, version)) is not None]

        return await self.ask(f"list the IPv{version} routes", dump)

    async def default_route(self, version: int) -> Route | None:
        """The main table's first (lowest metric) default route of IP version 4 or 6."""

        def first(netlink: IPRoute) -> Route | None:
            rows = of_family(version, netlink.route, table=_rt_table_main)
            routes = ((row.get("priority") or 0, _route(row, version)) for row in rows if row["dst_len"] == 0)
            found = [(metric, route) for metric, route in routes if route is not None]
            return min(found, key=lambda pair: pair[0])[1] if found else None

        return await self.ask(f"list the IPv{version} routes", first)

    async def local_destinations(self, version: int) -> frozenset[IPNetwork]:
        """What the host takes in itself: the local table, with its addresses, broadcasts and anycasts."""

        def dump(netlink: IPRoute) -> frozenset[IPNetwork]:
            rows = of_family(version, netlink.route, table=_rt_table_local)
            return frozenset(
                ip_network(f"{row.get('dst')}/{row['dst_len']}")
                for row in rows
                if row.get("table") == _rt_table_local and row.get("dst")
            )

        return await self.ask(f"list the local IPv{version} addresses", dump)

    async def route_to(self, address: IPAddress) -> tuple[int, IPAddress | None]:
        """Index of the link by which the kernel reaches `address`, and the source address it would use."""

        def get(netlink: IPRoute) -> tuple[int, IPAddress | None]:
            row = next(iter(netlink.route("get", dst=str(address))))
            source = row.get("prefsrc")
            return int(row.get("oif")), ip_address(source) if source else None

        return await self.ask(f"find the route to {address}", get)

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
    rows = of_family(prefix.version, netlink.route, table=_rt_table_main)
    base, length = str(prefix.network_address), prefix.prefixlen
    return any(row["type"] == _rtn_blackhole and row["dst_len"] == length and row.get("dst") == base for row in rows)


def _has_gateway(row: Any) -> bool:
    return any(row.get(name) is not None for name in ("gateway", "via", "multipath")) or row.get("oif") is None


def _name(route: Route) -> str:
    via = f" via {route.gateway}" if route.gateway is not None else ""
    return f"route {route.prefix}{via} dev {route.index}"
