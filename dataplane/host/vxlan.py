"""The kernel's own vxlan device: made, taken over and programmed as flannel does it.

A device that an earlier life (ours or flanneld's) left behind is kept when it is what is wanted, with its MAC, so that
traffic goes on over a restart; otherwise it is made anew. What must stay true: only a vxlan device is ever deleted
here, and only one that has our name; entries are permanent, so nothing is asked of the wire.

Source: flannel pkg/backend/vxlan/device.go (flannel.md sections 5.1 and 5.4); Linux drivers/net/vxlan.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from dataplane.errors import HostError, HostFault
from dataplane.host.netlink import Host
from dataplane.host.sysctl import write_sysctl
from dataplane.model import IPAddress, VxlanLink

# linux/neighbour.h
_nud_permanent = 0x80
_ntf_self = 0x02
_families = {4: 2, 6: 10}
_absent = (errno.ENOENT, errno.ENODEV)


@dataclass(frozen=True, slots=True)
class Entries:
    """What a vxlan device knows of its peers.

    Attributes:
        neighbours: inner next hop (the base address of a peer's subnet) to VTEP MAC.
        fdb: VTEP MAC to the peer's underlay address.
    """

    neighbours: dict[IPAddress, bytes] = field(default_factory=dict)
    fdb: dict[bytes, IPAddress] = field(default_factory=dict)


async def supported(host: Host) -> str:
    """Return why this kernel cannot make vxlan devices, "" if it can. Leaves nothing behind.

    Raises:
        HostError: it does not say now.
    """

    def probe(netlink: IPRoute) -> str:
        try:
            # No VNI, so it cannot be made; a kernel that knows the kind says EINVAL (vxlan_validate), others EOPNOTSUPP.
            netlink.link("add", ifname="vxlanprobe", kind="vxlan")
        except NetlinkError as error:
            if error.code not in (errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM):
                raise
            return "" if error.code == errno.EINVAL else os.strerror(error.code)
        return "it made a vxlan device without a VNI"

    return await host.ask("ask the kernel for vxlan", probe)


async def ensure_device(host: Host, wanted: VxlanLink, mac: bytes) -> tuple[int, bytes]:
    """Make the device, or take over one that is as wanted; returns its index and its MAC, which then need not be `mac`.

    Raises:
        HostError: the kernel refuses, the external interface is missing, or something else has the name.
    """
    interface = await host.link(wanted.interface)
    if interface is None:
        raise HostError(f"interface {wanted.interface} is gone")
    existing = await host.ask(f"look up device {wanted.name}", lambda netlink: _get(netlink, wanted.name))
    if existing is not None:
        if _kind(existing) != "vxlan":
            raise HostFault(
                f"cannot make the vxlan device {wanted.name}: a {_kind(existing) or 'hardware'} device has this name"
            )
        if not _differs(existing, wanted, interface.index):
            return existing["index"], _mac(existing)
        await remove_device(host, wanted.name)
    await host.ask(
        f"make the vxlan device {wanted.name} (VNI {wanted.vni}, port {wanted.port})",
        lambda netlink: _make(netlink, _request(wanted, interface.index, mac)),
    )
    made = await host.ask(f"look up device {wanted.name}", lambda netlink: _get(netlink, wanted.name))
    if made is None or _mac(made) != mac:
        # systemd's MACAddressPolicy and the like (flannel #1155): peers would send to a MAC that is not ours.
        raise HostError(f"device {wanted.name} vanished, or somebody gave it another MAC than {mac.hex(':')}")
    with suppress(HostError):  # a kernel without IPv6
        write_sysctl(f"net/ipv6/conf/{wanted.name}/accept_ra", 0)
    return made["index"], mac


async def bring_up(host: Host, wanted: VxlanLink, index: int) -> None:
    """Set the device's MTU and state; the kernel takes the UDP port only now.

    Raises:
        HostError: refused; where somebody else has the port, it is the port that is named.
    """

    def change(netlink: IPRoute) -> bool:
        try:
            netlink.link("set", index=index, mtu=wanted.mtu, state="up")
        except NetlinkError as error:
            if error.code != errno.EADDRINUSE:
                raise
            return False
        return True

    if not await host.ask(f"bring up {wanted.name} with MTU {wanted.mtu}", change):
        raise HostFault(
            f"cannot bring up {wanted.name}: UDP port {wanted.port} is in use by a socket of another program "
            f"(`ss -lunp sport = {wanted.port}` shows which)"
        )


async def device_mac(host: Host, name: str) -> bytes | None:
    """The MAC of an existing vxlan device, None if there is none."""
    row = await host.ask(f"look up device {name}", lambda netlink: _get(netlink, name))
    return _mac(row) if row is not None and _kind(row) == "vxlan" else None


async def difference(host: Host, wanted: VxlanLink, index: int, mac: bytes) -> str:
    """Return what has become of the device since, "" if it is as it was made."""
    row = await host.ask(f"look up device {wanted.name}", lambda netlink: _get(netlink, wanted.name))
    if row is None or row["index"] != index:
        return "somebody deleted or renamed the device"
    if _mac(row) != mac:
        return f"somebody gave the device the MAC {_mac(row).hex(':')}"
    interface = await host.link(wanted.interface)
    if interface is None:
        return f"interface {wanted.interface} is gone"
    return _differs(row, wanted, interface.index)


async def remove_device(host: Host, name: str) -> bool:
    """Delete a vxlan device with its routes and entries; returns whether there was one. Others are left alone."""

    def remove(netlink: IPRoute) -> bool:
        row = _get(netlink, name)
        if row is None or _kind(row) != "vxlan":
            return False
        netlink.link("del", index=row["index"])
        return True

    return bool(await host.ask(f"remove the vxlan device {name}", remove, absent=(errno.ENODEV,)))


async def read_entries(host: Host, index: int) -> Entries:
    """The permanent neighbours of the device, and its FDB entries to single MACs."""

    def dump(netlink: IPRoute) -> Entries:
        neighbours = {
            ip_address(row.get("dst")): bytes.fromhex(row.get("lladdr").replace(":", ""))
            for family in _families.values()
            for row in netlink.neigh("dump", ifindex=index, family=family)
            if row["ifindex"] == index and row["state"] & _nud_permanent and row.get("lladdr")
        }
        fdb = {
            bytes.fromhex(row.get("lladdr").replace(":", "")): ip_address(row.get("dst"))
            for row in netlink.fdb("dump", ifindex=index)
            if row["ifindex"] == index and row.get("dst") and row.get("lladdr")
        }
        return Entries(neighbours, fdb)

    return await host.ask(f"list the entries of link {index}", dump)


async def put_entries(host: Host, index: int, put: Entries) -> dict[IPAddress | bytes, str]:
    """Make entries, or change them; returns why by the key of each that the kernel refused. The others are done."""

    def change(netlink: IPRoute) -> dict[IPAddress | bytes, str]:
        common = {"ifindex": index, "state": _nud_permanent}
        refused: dict[IPAddress | bytes, str] = {}
        for ip, mac in put.neighbours.items():
            with _reported(refused, ip, f"set neighbour {ip}"):
                netlink.neigh("replace", dst=str(ip), lladdr=mac.hex(":"), **common)
        for mac, ip in put.fdb.items():
            with _reported(refused, mac, f"set FDB entry {mac.hex(':')}"):
                netlink.fdb("replace", lladdr=mac.hex(":"), dst=str(ip), flags=_ntf_self, **common)
        return refused

    return await host.ask(f"program link {index}", change) if put.neighbours or put.fdb else {}


async def remove_entries(host: Host, index: int, remove: Entries) -> dict[IPAddress | bytes, str]:
    """Remove entries, those that are gone already too; returns why by the key of each that the kernel refused."""

    def change(netlink: IPRoute) -> dict[IPAddress | bytes, str]:
        refused: dict[IPAddress | bytes, str] = {}
        for ip in remove.neighbours:
            with _reported(refused, ip, f"remove neighbour {ip}", _absent):
                netlink.neigh("del", dst=str(ip), ifindex=index)
        for mac in remove.fdb:
            with _reported(refused, mac, f"remove FDB entry {mac.hex(':')}", _absent):
                netlink.fdb("del", lladdr=mac.hex(":"), flags=_ntf_self, ifindex=index)
        return refused

    return await host.ask(f"program link {index}", change) if remove.neighbours or remove.fdb else {}


@contextmanager
def _reported(
    refused: dict[IPAddress | bytes, str], key: IPAddress | bytes, what: str, harmless: tuple[int, ...] = ()
) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code not in harmless:
            refused[key] = f"cannot {what}: {os.strerror(error.code)} (errno {error.code})"


def _make(netlink: IPRoute, request: dict[str, Any]) -> None:
    try:
        netlink.link("add", **request)
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise
        other = _holder(netlink, request)
        if not other:
            raise  # our name came up since we looked, which the next look judges
        raise HostFault(
            f"cannot make the vxlan device {request['ifname']}: the device {other} has its VNI {request['vxlan_id']} and "
            f"port {request['vxlan_port']}; remove it with `ip link del {other}`, or take another VNI"
        ) from error


def _holder(netlink: IPRoute, request: dict[str, Any]) -> str:
    """The other device that has VNI and port of the same underlay family (drivers/net/vxlan vxlan_config_validate), or ""."""
    for row in netlink.link("dump", kind="vxlan"):
        name, data = str(row.get("ifname")), row.get(("linkinfo", "data"))
        if data is None or name == request["ifname"]:
            continue
        same = all(data.get(what) == request[what] for what in ("vxlan_id", "vxlan_port"))
        if same and bool(data.get("vxlan_local6")) == ("vxlan_local6" in request):
            return name
    return ""


def _get(netlink: IPRoute, name: str) -> Any:
    try:
        return next(iter(netlink.link("get", ifname=name)))
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise


def _kind(row: Any) -> str:
    return row.get(("linkinfo", "kind")) or ""


def _mac(row: Any) -> bytes:
    return bytes.fromhex((row.get("address") or "").replace(":", ""))


def _request(wanted: VxlanLink, interface: int, mac: bytes) -> dict[str, Any]:
    request: dict[str, Any] = {
        "ifname": wanted.name,
        "kind": "vxlan",
        "vxlan_id": wanted.vni,
        "vxlan_link": interface,
        "vxlan_local" if wanted.local.version == 4 else "vxlan_local6": str(wanted.local),
        "vxlan_port": wanted.port,
        "vxlan_learning": wanted.learning,
        "address": mac.hex(":"),
        "mtu": wanted.mtu,
        "txqlen": 0,
    }
    if wanted.group_policy:
        request["vxlan_gbp"] = True
    return request


def _differs(row: Any, wanted: VxlanLink, interface: int) -> str:
    """What of an existing device cannot be changed and is not as wanted, "" for nothing (flannel.md section 5.1)."""
    data = row.get(("linkinfo", "data"))
    local = data.get("vxlan_local") or data.get("vxlan_local6")
    for what, found, ours in (
        ("VNI", data.get("vxlan_id"), wanted.vni),
        ("port", data.get("vxlan_port"), wanted.port),
        ("local address", local and str(ip_address(local)), str(wanted.local)),
        ("interface index", data.get("vxlan_link"), interface),
        ("group", data.get("vxlan_group") or data.get("vxlan_group6"), None),
        ("group policy", bool(data.get("vxlan_gbp")), wanted.group_policy),
        ("learning", bool(data.get("vxlan_learning")), wanted.learning),
    ):
        if found != ours:
            return f"{what} is {found}, not {ours}"
    return ""
