"""Who has the encapsulation's UDP port?

What must stay true: the daemon that has it is no fault, and who cannot be seen is not called somebody else.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from shlex import quote
from typing import Any

from dataplane.doctor.finding import Finding, fail, ok, warn
from dataplane.doctor.node import Node
from dataplane.host.netlink import Host
from dataplane.model import IPAddress

_tables = (Path("/proc/thread-self/net/udp"), Path("/proc/thread-self/net/udp6"))


@dataclass(frozen=True, slots=True)
class Bound:
    """A UDP socket that has a port."""

    address: IPAddress
    port: int
    inode: int


@dataclass(frozen=True, slots=True)
class Holder:
    """A process, by the socket that it has open."""

    pid: int
    name: str


@dataclass(frozen=True, slots=True)
class VxlanDevice:
    """A vxlan device of the kernel."""

    name: str
    vni: int
    port: int


async def check_port(node: Node, host: Host) -> list[Finding]:
    """Look who has the ports."""
    if not node.ports:
        return [ok("port", f"the backend {node.kind} needs no UDP port")]
    bound = [row for path in _tables if path.exists() for row in read_bound(path.read_text())]
    wanted = [row for row in bound if row.port in node.ports]
    devices = await vxlan_devices(host)
    return judge_port(node, wanted, holders(row.inode for row in wanted), devices)


def read_bound(text: str) -> list[Bound]:
    """Read /proc/net/udp or udp6. Addresses are words of 32 bits in the host's order, as numbers."""
    found = []
    for line in text.splitlines()[1:]:
        words = line.split()
        address, port = words[1].split(":")
        packed = b"".join(
            socket.htonl(int.from_bytes(bytes.fromhex(address[at : at + 8]), "big")).to_bytes(4, "big")
            for at in range(0, len(address), 8)
        )
        found.append(Bound(ip_address(packed), int(port, 16), int(words[9])))
    return found


def holders(inodes: Iterable[int]) -> dict[int, Holder]:
    """Return the processes that have these sockets open, as far as we may see them."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, Holder] = {}
    for directory in Path("/proc").iterdir() if wanted else ():
        if not directory.name.isdigit():
            continue
        with suppress(OSError):  # it ended, or is not ours to see
            for opened in os.scandir(directory / "fd"):
                with suppress(OSError):
                    inode = wanted.get(os.readlink(opened.path))
                    if inode is not None:
                        found[inode] = Holder(int(directory.name), (directory / "comm").read_text().strip())
    return found


async def vxlan_devices(host: Host) -> list[VxlanDevice]:
    """Return the kernel's vxlan devices of this network namespace."""

    def dump(netlink: Any) -> list[VxlanDevice]:
        rows = [(row, row.get(("linkinfo", "data"))) for row in netlink.link("dump", kind="vxlan")]
        return [
            VxlanDevice(str(row.get("ifname")), data.get("vxlan_id") or 0, data.get("vxlan_port") or 0)
            for row, data in rows
            if data is not None and row.get(("linkinfo", "kind")) == "vxlan"
        ]

    return await host.ask("list the vxlan devices", dump)


def judge_port(
    node: Node, bound: Iterable[Bound], held: Mapping[int, Holder], devices: Iterable[VxlanDevice]
) -> list[Finding]:
    """Judge who has the ports."""
    rows, document = list(bound), node.document or {}
    findings = []
    for port in node.ports:
        ours, others = [], []
        here = [device for device in devices if device.port == port]
        for device in here:
            if device.name in (node.devices or {}):
                ours.append(f"the daemon's kernel vxlan device {device.name}")
            else:
                others.append(
                    (f"a kernel vxlan device {device.name} (VNI {device.vni})", f"ip link del {quote(device.name)}")
                )
        for row in rows:
            if row.port != port:
                continue
            holder = held.get(row.inode)
            if holder is None and here:
                continue  # a device's own socket is no process's
            if holder is not None and holder.pid == document.get("pid"):
                ours.append(f"the daemon, pid {holder.pid}")
            elif holder is None and node.devices and not _foreign(row, node):
                ours.append("a process that is not seen from here, which is the daemon if its status is right")
            elif holder is None:
                who = "a process that is not seen from here (no right to look, or another PID namespace)"
                others.append((f"{who}, at {row.address}", f"sudo ss -lunp 'sport = {port}'"))
            else:
                others.append((f"{holder.name}, pid {holder.pid}, at {row.address}", f"kill {holder.pid}"))
        findings.extend(_of_port(node, port, sorted(set(ours)), sorted(set(others))))
    return findings


def _foreign(row: Bound, node: Node) -> bool:
    return row.address not in node.own and not row.address.is_unspecified


def _of_port(node: Node, port: int, ours: list[str], others: list[tuple[str, str]]) -> list[Finding]:
    if not others:
        return [ok("port", f"UDP port {port}: in use by {'; '.join(ours)}" if ours else f"UDP port {port} is free")]
    kept = all("systemd, pid 1," in who for who, _ in others)
    judge = warn if ours or kept or len(node.ports) > 1 else fail
    findings = []
    for who, mend in others:
        text = f"UDP port {port} is in use by {who}"
        if kept:
            text += ": kept for the service's next start"
        elif ours:
            text += f", beside {'; '.join(ours)}"
        elif len(node.ports) > 1:
            text += ": the daemon cannot have it, if its backend is to use this port"
        elif "vxlan device flannel" in who:
            judge = warn
            text += ": left by an earlier daemon; the next takes it over, or removes it"
        else:
            text += ": the daemon cannot have it (address already in use)"
        findings.append(judge("port", text, mend))
    return findings
