"""Where this process is: which boot of which machine, and which network namespace of it.

A run directory is seen from every network namespace, and may outlive a boot; devices, routes and rules are of one only.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_so_netns_cookie = 71  # asm-generic/socket.h, from Linux 5.14 on


@dataclass(frozen=True, slots=True)
class Place:
    """A network namespace of a boot.

    Attributes:
        boot: the kernel's boot id, "" if it is not told.
        netns: inode of the network namespace, as in `net:[4026531833]`, 0 if it is not told; another one may get it later.
        cookie: number of the network namespace that no other one of this boot gets, 0 on a kernel without.
    """

    boot: str
    netns: int
    cookie: int

    def same_boot(self, other: Place) -> bool:
        """Whether nothing speaks against both being of one boot."""
        return self.boot == other.boot or not (self.boot and other.boot)

    def same_netns(self, other: Place) -> bool:
        """Whether nothing speaks against both being one network namespace of one boot."""
        if self.cookie and other.cookie:
            return self.cookie == other.cookie
        return self.netns == other.netns or not (self.netns and other.netns)


def here() -> Place:
    """Return where this process is; what the kernel does not tell is left empty."""
    boot, netns, cookie = "", 0, 0
    with suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    with suppress(OSError):
        netns = os.stat("/proc/self/ns/net").st_ino
    with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as asked:
        cookie = int.from_bytes(asked.getsockopt(socket.SOL_SOCKET, _so_netns_cookie, 8), "little")
    return Place(boot, netns, cookie)
