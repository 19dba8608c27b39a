"""How many next hops of a device are being asked for their MAC: what is sent to them waits with the kernel.

Source: linux/neighbour.h; net/core/neighbour.c.
"""

from __future__ import annotations

import socket
import struct

from dataplane.errors import HostError

_get_neighbours, _new_neighbour = 30, 28  # linux/rtnetlink.h RTM_GETNEIGH, RTM_NEWNEIGH
_dump_request = 0x301  # NLM_F_REQUEST | NLM_F_DUMP
_done, _error = 3, 2  # NLMSG_DONE, NLMSG_ERROR
_ifindex = 8  # NDA_IFINDEX: of these alone, where the kernel heeds it (Linux 4.4)
_incomplete = 1  # NUD_INCOMPLETE


def awaited(index: int, version: int) -> int:
    """How many neighbours of device `index` have not answered and are not given up yet.

    Raises:
        HostError: the kernel does not say.
    """
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    # struct ndmsg, then one attribute.
    body = struct.pack("=BxxxiHBB", family, 0, 0, 0, 0) + struct.pack("=HHI", 8, _ifindex, index)
    request = struct.pack("=IHHII", 16 + len(body), _get_neighbours, _dump_request, 1, 0) + body
    try:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as asking:
            asking.settimeout(1.0)
            asking.sendto(request, (0, 0))
            found = 0
            while True:
                more, awaiting = _count(asking.recv(1 << 16), index)
                found += awaiting
                if not more:
                    return found
    except OSError as error:
        raise HostError(f"cannot list the neighbours: {error.strerror or error}") from error


def _count(answer: bytes, index: int) -> tuple[bool, int]:
    """Return whether more is to come, and how many in this part of the answer are incomplete."""
    at = found = 0
    while at + 16 <= len(answer):
        length, kind = struct.unpack_from("=IH", answer, at)
        if kind == _done:
            return False, found
        if kind == _error or length < 16:
            raise HostError("cannot list the neighbours: the kernel refuses")
        if kind == _new_neighbour:
            device, state = struct.unpack_from("=iH", answer, at + 20)
            found += device == index and state == _incomplete
        at += (length + 3) // 4 * 4
    return True, found
