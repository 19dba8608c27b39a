"""A named BPF program at the ingress of a device that needs no descriptor to stay: by clsact, else by tcx (Linux 6.6).

clsact comes first, since its filters can be listed and replaced by name with CAP_NET_ADMIN, and `tc` shows them; to find
a program of tcx again takes CAP_SYS_ADMIN. tcx is for kernels without cls_bpf. What must stay true: the program of a name is replaced without a moment between, and other programs and filters are left
as they are. All functions block, and raise `HostError` or pyroute2's `NetlinkError`.
"""

from __future__ import annotations

import errno
import zlib
from collections.abc import Callable
from typing import Any

from pyroute2 import IPRoute, NetlinkError

from dataplane.bpf import calls
from dataplane.bpf.calls import BpfError, Hook, tc_ingress

_parent = 0xFFFFFFF2  # linux/pkt_sched.h TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)
_parent_egress = 0xFFFFFFF3
_qdisc_handle = 0xFFFF0000
_every_protocol = 0x0003  # linux/if_ether.h ETH_P_ALL
_priorities = range(1, 9)  # before whatever accepts; one that has filters of another kind cannot be ours too
_no_clsact = (
    errno.ENOENT,
    errno.EOPNOTSUPP,
    errno.EINVAL,
)  # sch_ingress or cls_bpf is not there, or others are in its way
_absent = (errno.ENOENT, errno.EINVAL, errno.ENODEV, errno.EOPNOTSUPP)  # no clsact (here, or at all), or no device now


def attach(netlink: IPRoute, program: bytes, name: str, index: int) -> str:
    """Attach the program in the place of the one of this name; returns "clsact" or "tcx"."""
    with calls.loaded(tc_ingress, program, name) as descriptor:
        try:
            _attach_clsact(netlink, descriptor, name, index)
        except NetlinkError as error:
            if error.code not in _no_clsact:
                raise
            _attach_tcx(descriptor, name, index)
            return "tcx"
    return "clsact"


def is_attached(netlink: IPRoute, name: str, index: int) -> bool:
    """Whether a program of this name is attached."""
    return name in _filters(netlink, index, _parent) or _on_tcx(calls.is_attached, name, index)


def detach(netlink: IPRoute, name: str, index: int) -> bool:
    """Detach the program of this name; returns whether there was one. A clsact that is left empty goes too."""
    priority = _filters(netlink, index, _parent).get(name)
    if priority is None:
        return _on_tcx(calls.detach_named, name, index)
    netlink.tc("del-filter", "bpf", index, **_place(name, priority))
    _remove_empty(netlink, index)
    return True


def _attach_clsact(netlink: IPRoute, descriptor: int, name: str, index: int) -> None:
    try:
        netlink.tc("add", "clsact", index)
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise
    present = _filters(netlink, index, _parent).get(name)
    try:
        for priority in _priorities if present is None else (present,):
            try:
                place = _place(name, priority)
                netlink.tc("replace-filter", "bpf", index, fd=descriptor, name=name, direct_action=True, **place)
            except NetlinkError as error:
                if error.code != errno.EINVAL or priority == _priorities[-1]:
                    raise
            else:
                return
    except NetlinkError:
        _remove_empty(netlink, index)
        raise


def _attach_tcx(descriptor: int, name: str, index: int) -> None:
    calls.attach_named(tc_ingress, descriptor, name, index)
    try:
        calls.is_attached(tc_ingress, name, index)
    except BpfError:
        calls.detach(tc_ingress, descriptor, index)  # what cannot be found again must not stay
        raise


def _remove_empty(netlink: IPRoute, index: int) -> None:
    if not any(_filters(netlink, index, parent) for parent in (_parent, _parent_egress)):
        netlink.tc("del", "clsact", index)


def _on_tcx(question: Callable[[Hook, str, int], bool], name: str, index: int) -> bool:
    """The answer, or False where there is no tcx, or where we may not ask and so have attached nothing by it."""
    try:
        return question(tc_ingress, name, index)
    except BpfError as error:
        if error.code not in (errno.EINVAL, errno.EPERM, errno.ENOSYS):
            raise
        return False


def _place(name: str, priority: int) -> dict[str, Any]:
    """The handle is the name's, so that two of our programs do not take one place."""
    handle = zlib.crc32(name.encode()) | 1
    return {"parent": _parent, "prio": priority, "protocol": _every_protocol, "handle": handle}


def _filters(netlink: IPRoute, index: int, parent: int) -> dict[str, int]:
    """Priorities of the filters there by name; by kind of those that are not BPF."""
    try:
        rows = list(netlink.get_filters(index=index, parent=parent))
    except NetlinkError as error:
        if error.code in _absent:
            return {}
        raise
    found: dict[str, int] = {}
    for row in rows:
        options = row.get("options")
        if options is not None:  # else a line that only says that there is a priority
            name = options.get_attr("TCA_BPF_NAME") if row.get("kind") == "bpf" else row.get("kind")
            found[str(name)] = row["info"] >> 16
    return found
