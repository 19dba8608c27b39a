"""A named BPF program at the ingress of a device that needs no descriptor to stay: by tcx (Linux 6.6), else by clsact.

What must stay true: the program of a name is replaced without a moment between, and other programs and filters are left
as they are. All functions block, and raise `HostError` or pyroute2's `NetlinkError`.
"""

from __future__ import annotations

import errno
import zlib
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from dataplane import bpf
from dataplane.bpf import BpfError, tc_ingress

_parent = 0xFFFFFFF2  # linux/pkt_sched.h TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
_parent_egress = 0xFFFFFFF3
_qdisc_handle = 0xFFFF0000
_every_protocol = 0x0003  # linux/if_ether.h ETH_P_ALL
_priority = 1  # before whatever accepts
_absent = (errno.ENOENT, errno.EINVAL, errno.ENODEV)  # no clsact, or no device any more


def attach(netlink: IPRoute, program: bytes, name: str, index: int) -> str:
    """Attach the program in the place of the one of this name; returns "tcx" or "clsact"."""
    with bpf.loaded(tc_ingress, program, name) as descriptor:
        try:
            bpf.attach_named(tc_ingress, descriptor, name, index)
        except BpfError as error:
            if error.code != errno.EINVAL:
                raise
        else:
            return "tcx"
        try:
            netlink.tc("add", "clsact", index)
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
        netlink.tc("replace-filter", "bpf", index, fd=descriptor, name=name, direct_action=True, **_place(name))
    return "clsact"


def is_attached(netlink: IPRoute, name: str, index: int) -> bool:
    """Whether a program of this name is attached."""
    try:
        return bpf.is_attached(tc_ingress, name, index)
    except BpfError as error:
        if error.code != errno.EINVAL:
            raise
    return name in _names(netlink, index, _parent)


def detach(netlink: IPRoute, name: str, index: int) -> bool:
    """Detach the program of this name; returns whether there was one. A clsact that is left empty goes too."""
    try:
        return bpf.detach_named(tc_ingress, name, index)
    except BpfError as error:
        if error.code not in (errno.EINVAL, errno.EPERM):
            raise
    if name not in _names(netlink, index, _parent):
        return False
    netlink.tc("del-filter", "bpf", index, **_place(name))
    if not any(_names(netlink, index, parent) for parent in (_parent, _parent_egress)):
        netlink.tc("del", "clsact", index)
    return True


def _place(name: str) -> dict[str, Any]:
    """The handle is the name's, so that two of our programs do not take one place."""
    handle = zlib.crc32(name.encode()) | 1
    return {"parent": _parent, "prio": _priority, "protocol": _every_protocol, "handle": handle}


def _names(netlink: IPRoute, index: int, parent: int) -> list[str]:
    """Names of the filters there; of those that are not BPF their kind."""
    try:
        rows = list(netlink.get_filters(index=index, parent=parent))
    except NetlinkError as error:
        if error.code in _absent:
            return []
        raise
    found = []
    for row in rows:
        options = row.get("options")
        if options is not None:  # else a line that only says that there is a priority
            found.append(str(options.get_attr("TCA_BPF_NAME") if row.get("kind") == "bpf" else row.get("kind")))
    return found
