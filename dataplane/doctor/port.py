"""Who has the encapsulation's UDP port?

What must stay true: the daemon that has it is no fault, and who cannot be seen is not called somebody else.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Collection, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from shlex import quote
from typing import Any

from dataplane.doctor.finding import Finding, Level, ok
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


_systemd = Holder(1, "systemd")
_taken = "the daemon cannot have it (address already in use)"


@dataclass(frozen=True, slots=True)
class _Use:
    """Who has a port, how bad that is, and why."""

    who: str
    level: Level
    why: str = ""
    mend: str = ""


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


def holders(inodes: Iterable[int]) -> dict[int, set[Holder]]:
    """Return the processes that have these sockets open, as far as we may see them."""
    wanted = {f"socket:[{inode}]": inode for inode in inodes}
    found: dict[int, set[Holder]] = {}
    for directory in Path("/proc").iterdir() if wanted else ():
        if not directory.name.isdigit():
            continue
        with suppress(OSError):  # it ended, or is not ours to see
            for opened in os.scandir(directory / "fd"):
                with suppress(OSError):
                    inode = wanted.get(os.readlink(opened.path))
                    if inode is not None:
                        name = (directory / "comm").read_text().strip()
                        found.setdefault(inode, set()).add(Holder(int(directory.name), name))
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
    node: Node, bound: Iterable[Bound], held: Mapping[int, Collection[Holder]], devices: Iterable[VxlanDevice]
) -> list[Finding]:
    """Judge who has the ports; `held`: the processes by the inode of the socket."""
    rows, found = list(bound), list(devices)
    findings: list[Finding] = []
    for port in node.ports:
        here = [device for device in found if device.port == port]
        uses = [_of_device(node, device) for device in here]
        # A device's own socket is no process's.
        theirs = [row for row in rows if row.port == port and (held.get(row.inode) or not here)]
        uses += [_of_socket(node, row, held.get(row.inode, ())) for row in theirs]
        findings += _of_port(node, port, list(dict.fromkeys(uses)))
    return findings


def _of_device(node: Node, device: VxlanDevice) -> _Use:
    if device.name in (node.devices or {}):
        return _Use(f"the daemon's kernel vxlan device {device.name}", Level.ok)
    who, mend = f"a kernel vxlan device {device.name} (VNI {device.vni})", f"ip link del {quote(device.name)}"
    if device.name.startswith("flannel"):
        return _Use(who, Level.warn, "left by an earlier daemon; the next takes it over, or removes it", mend)
    return _Use(who, Level.fail, _taken, mend)


def _of_socket(node: Node, row: Bound, processes: Collection[Holder]) -> _Use:
    pid = (node.document or {}).get("pid")
    if any(process.pid == pid for process in processes):
        return _Use(f"the daemon, pid {pid}", Level.ok)
    elsewhere = bool(node.own) and row.address not in node.own and not row.address.is_unspecified
    if not processes and node.devices and not elsewhere:
        return _Use("a process that is not seen from here, which is the daemon if its status is right", Level.ok)
    if not processes:
        who = f"a process that is not seen from here (no right to look, or another PID namespace), at {row.address}"
        mend = f"sudo ss -lunp 'sport = {row.port}'"
    else:
        process = min(processes, key=lambda one: one.pid)
        who, mend = f"{process.name}, pid {process.pid}, at {row.address}", f"kill {process.pid}"
        if process == _systemd:
            return _Use(who, Level.warn, "kept for the service's next start", f"ss -lunp 'sport = {row.port}'")
    if elsewhere:
        why = "our own data plane can have it beside that, the kernel's vxlan cannot"
        return _Use(who, Level.warn, why, mend)
    return _Use(who, Level.fail, _taken, mend)


def _of_port(node: Node, port: int, uses: list[_Use]) -> list[Finding]:
    ours = [use.who for use in uses if use.level is Level.ok]
    others = [use for use in uses if use.level is not Level.ok]
    if not others:
        return [ok("port", f"UDP port {port}: in use by {'; '.join(ours)}" if ours else f"UDP port {port} is free")]
    findings = []
    for use in others:
        level, why = use.level, use.why
        if ours:
            level, why = Level.warn, f"beside {'; '.join(ours)}"
        elif len(node.ports) > 1:
            level, why = Level.warn, f"{why}, if the backend is to use this port"
        findings.append(Finding("port", level, f"UDP port {port} is in use by {use.who}: {why}", use.mend))
    return findings
