"""What the kernel can: offloads of UDP sockets, vxlan, BPF.

What must stay true: vxlan is not loaded by asking for it: by netlink only a kernel without modules is asked.
"""

from __future__ import annotations

import os
import re
import socket
import struct
from contextlib import suppress
from pathlib import Path

from dataplane.bpf import calls
from dataplane.doctor.finding import Finding, ok, warn
from dataplane.doctor.node import Node
from dataplane.errors import HostError
from dataplane.host import vxlan
from dataplane.host.netlink import Host
from dataplane.model import type_vxlan

_sol_udp = 17
_udp_options = {"UDP_SEGMENT": (103, 1200), "UDP_GRO": (104, 1)}  # linux/udp.h, with a value to set
_oldest = (4, 20)  # strict checks of rtnetlink, UDP_SEGMENT
_returns_0 = struct.pack("=BBhi", 0xB7, 0, 0, 0) + struct.pack("=BBhi", 0x95, 0, 0, 0)


async def check_kernel(node: Node, host: Host) -> list[Finding]:
    """Ask it."""
    release = os.uname().release
    return [
        *judge_release(release),
        *_udp(),
        *judge_vxlan(node, await vxlan_refusal(host, release)),
        *_bpf(),
    ]


def judge_release(release: str) -> list[Finding]:
    """Judge the kernel's version."""
    found = re.match(r"(\d+)\.(\d+)", release)
    if found and (int(found[1]), int(found[2])) < _oldest:
        oldest = ".".join(map(str, _oldest))
        return [warn("kernel", f"Linux {release} is older than {oldest}: slower, and little tested", "uname -r")]
    return []


def _udp() -> list[Finding]:
    refused = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for name, (option, value) in _udp_options.items():
            try:
                sock.setsockopt(_sol_udp, option, value)
            except OSError as error:
                refused.append(f"{name} ({error.strerror})")
    if not refused:
        return [ok("kernel", f"{' and '.join(_udp_options)} are accepted")]
    text = f"UDP sockets refuse {', '.join(refused)}: our own data plane sends packet by packet, which is slower"
    return [warn("kernel", text, "uname -r")]


async def vxlan_refusal(host: Host, release: str) -> str:
    """Return why the kernel makes no vxlan devices, "" if it does as far as can be seen."""
    modules = Path("/lib/modules") / release
    if _vxlan_module(modules):
        return ""
    if os.access(modules, os.R_OK):
        return f"there is no vxlan module in {modules}"
    if os.access("/proc/modules", os.R_OK):
        return f"not known, as {modules} is not here"
    # This kernel loads no modules, so asking changes nothing; nor does it make a device.
    try:
        return await vxlan.supported(host)
    except HostError as error:
        return str(error)


def _vxlan_module(modules: Path) -> bool:
    if Path("/sys/module/vxlan").exists():
        return True
    for name in ("modules.builtin", "modules.dep"):
        with suppress(OSError):
            if "/vxlan.ko" in (modules / name).read_text():
                return True
    return False


def judge_vxlan(node: Node, refusal: str) -> list[Finding]:
    """Say what it means; a daemon that carries packets itself needs no vxlan of the kernel."""
    if not refusal:
        return [ok("kernel", "the kernel has vxlan")]
    datapath = (node.document or {}).get("datapath") or {}
    if node.kind not in ("", type_vxlan) or datapath.get("kind") == "userspace":
        return [ok("kernel", f"no vxlan of the kernel ({refusal}), which is not needed")]
    return [warn("kernel", f"no vxlan of the kernel ({refusal}): the daemon carries packets itself", "modprobe vxlan")]


def _bpf() -> list[Finding]:
    try:
        calls.check(calls.tc_ingress, _returns_0)
    except HostError as error:
        text = (
            f"BPF is not permitted: {error}: senders are checked by the firewall alone where the kernel's vxlan is used"
        )
        return [warn("kernel", text, "sudo dataplane doctor")]
    return [ok("kernel", "BPF programs may be loaded")]
