"""Links and addresses of the node."""

from __future__ import annotations

import errno
from dataclasses import dataclass, field
from ipaddress import IPv4Interface, IPv6Interface, ip_interface
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from dataplane.host.requests import Netlink, families, of_family

# linux/if_addr.h, linux/if.h
_ifa_f_temporary = 0x01
_ifa_f_nodad = 0x02
_ifa_f_deprecated = 0x20
_ifa_f_permanent = 0x80
_iff_up = 1


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface; `kind` is "tun", "vxlan", "veth" … and "" for hardware. `mtu` in bytes.

    `mac` is "" where there is none; it is what names a link of Ethernet, and no part of what one is equal by.
    """

    index: int
    name: str
    mtu: int
    up: bool
    kind: str = ""
    mac: str = field(default="", compare=False)


@dataclass(frozen=True, slots=True)
class Address:
    """An address of a link; `scope` as in linux/rtnetlink.h (0 global, 253 link, 254 host)."""

    index: int
    interface: IPv4Interface | IPv6Interface
    scope: int = 0
    permanent: bool = True
    deprecated: bool = False
    temporary: bool = False


class Links(Netlink):
    """This network namespace's links and addresses."""

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
            rows = [row for version in families for row in of_family(version, netlink.addr)]
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


def _link(row: Any) -> Link:
    kind = row.get(("linkinfo", "kind")) or ""
    return Link(
        row["index"],
        row.get("ifname"),
        row.get("mtu") or 0,
        bool(row["flags"] & _iff_up),
        kind,
        row.get("address") or "",
    )


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
