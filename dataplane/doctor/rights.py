"""May a TUN device be made here, and which rights has this process?

What must stay true: no device is made by asking.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import struct
from pathlib import Path

from dataplane.doctor.finding import Finding, fail, ok, warn

device_node = Path("/dev/net/tun")
_major_minor = (10, 200)
_tunsetiff = 0x400454CA  # linux/if_tun.h
_no_pi = 0x1000  # IFF_NO_PI
_missing = (errno.ENOENT, errno.ENXIO, errno.ENODEV)
# linux/capability.h: number, whether the daemon cannot do without, what it is for.
_capabilities = {
    "CAP_NET_ADMIN": (12, True, "devices, addresses, routes and firewall rules"),
    "CAP_NET_RAW": (13, False, "what ICMP says of peers, and telling neighbours a new MAC"),
    "CAP_BPF": (39, False, "senders checked before the kernel's vxlan, losses counted by reason"),
}


def check_tun(node: Path = device_node) -> Finding:
    """Look at the device node, open it, and ask whether a device could be made."""
    made = f"mkdir -p {node.parent} && modprobe tun && mknod -m 666 {node} c 10 200"
    try:
        seen = os.stat(node)
    except OSError as error:
        return fail("tun", f"{node}: {error.strerror}: no TUN device can be made", made)
    device = (os.major(seen.st_rdev), os.minor(seen.st_rdev))
    if not stat.S_ISCHR(seen.st_mode) or device != _major_minor:
        return fail("tun", f"{node} is not the character device 10:200", f"rm {node} && mknod -m 666 {node} c 10 200")
    try:
        opened = os.open(node, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in _missing:
            return fail(
                "tun", f"{node} cannot be opened: {error.strerror}: the kernel has no tun module", "modprobe tun"
            )
        return fail(
            "tun", f"{node} cannot be opened: {error.strerror}: the user or the container may not", _permit(node)
        )
    try:
        return judge_tun(_refusal(opened), node)
    finally:
        os.close(opened)


def _permit(node: Path) -> str:
    return f"chmod 666 {node}"


def _refusal(opened: int) -> int:
    """Errno of TUNSETIFF for a device that is neither TUN nor TAP.

    The kernel asks for the right before it sees that (drivers/net/tun.c tun_set_iff), so EINVAL means: allowed.
    """
    try:
        fcntl.ioctl(opened, _tunsetiff, struct.pack("16sH22x", b"dataplane-asks", _no_pi))
    except OSError as error:
        return error.errno or 0
    return 0


def judge_tun(code: int, node: Path = device_node) -> Finding:
    """Say what the kernel's answer to TUNSETIFF means."""
    if code == errno.EINVAL:
        return ok("tun", f"{node} can be opened, and TUN devices may be made")
    if code in (errno.EPERM, errno.EACCES):
        text = f"TUNSETIFF on {node}: {os.strerror(code)}: making a TUN device needs CAP_NET_ADMIN in this network namespace"
        return fail("tun", text, _more_rights(os.geteuid()))
    return warn("tun", f"TUNSETIFF on {node}: {os.strerror(code)}", "dmesg | tail")


def _more_rights(user: int) -> str:
    return "sudo dataplane doctor" if user else "systemctl show dataplane -p CapabilityBoundingSet"


def check_rights() -> list[Finding]:
    """Look at the capabilities of this process."""
    return judge_rights(Path("/proc/self/status").read_text(), os.geteuid())


def judge_rights(status: str, user: int) -> list[Finding]:
    """Judge the text of /proc/PID/status."""
    found = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    held = int(found[1], 16) if found else 0
    missing = [name for name, (number, _, _) in _capabilities.items() if not held >> number & 1]
    mend = _more_rights(user)
    findings = []
    for name in missing:
        _, needed, purpose = _capabilities[name]
        text = f"this process (user {user}) has no {name}, which the daemon needs for: {purpose}"
        findings.append((fail if needed else warn)("rights", text, mend))
    return findings or [ok("rights", f"this process has {', '.join(_capabilities)}")]
