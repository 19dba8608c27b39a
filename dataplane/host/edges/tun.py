"""Open a TUN device: the edge where overlay packets leave and enter the node's kernel.

The descriptors made here are the whole life of the device, and closing them (or dying) takes its addresses and routes
away, unless it was told to stay (`Tun.stay`): then the next process attaches to it (`attach_tun`), or is given its
descriptors (`given_tun`). What must stay true: a name that is already in use is never shared, a device is attached to only
where it is known to be ours, and no descriptor is inherited by a child process or blocks a reader.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytun

from dataplane.errors import HostError, HostFault
from dataplane.host.edges.steering import steer_tun
from dataplane.host.ethtool import driver_of
from dataplane.host.losses.kernel_counters import read_device

_device_node = "/dev/net/tun"
_tungetiff, _tunsetpersist = 0x800454D2, 0x400454CB  # linux/if_tun.h
_missing = (errno.ENOENT, errno.ENXIO, errno.ENODEV)  # the module, where it is the device node that is opened
_ifreq_size = 40  # sizeof(struct ifreq) on 64-bit kernels; 32-bit ones read less
_base_flags = pytun.IFF_TUN | pytun.IFF_NO_PI
_queue_flags = _base_flags | pytun.IFF_MULTI_QUEUE


@dataclass(slots=True)
class Tun:
    """An open TUN device.

    Attributes:
        name, index: as the kernel knows it.
        fds: one non-blocking descriptor per queue, owned by this object.
        vnet_hdr: every packet carries a struct virtio_net_hdr (needed for offloads).
    """

    name: str
    index: int
    fds: tuple[int, ...]
    vnet_hdr: bool
    _is_closed: bool = False

    def queue_drops(self) -> int:
        """How many packets (a super-packet is one) the kernel threw away because a queue was full; 0 without a device.

        Source: drivers/net/tun.c tun_net_xmit. What the host itself sends before the device's queues are ready (IPv6
        multicast) is among it: net/sched/sch_generic.c noop_enqueue.
        """
        return read_device(self.name).tx_dropped

    def stay(self, whether: bool) -> None:
        """Have the device stay, with addresses and routes, when its last descriptor is closed; raises `HostError`."""
        try:
            fcntl.ioctl(self.fds[0], _tunsetpersist, int(whether))
        except OSError as error:
            raise HostError(f"cannot change how long the TUN device {self.name} lasts: {error.strerror}") from error

    def close(self) -> None:
        """Close every queue; the device, its addresses and its routes vanish unless they are to stay. May be called again."""
        if not self._is_closed:
            self._is_closed = True
            for fd in self.fds:
                os.close(fd)


def open_tun(name: str, workers: int, queues: int = 1) -> Tun:
    """Create a TUN device with `queues` queues for each worker and leave it down and without addresses.

    A packet waits in a queue with those of its inner source alone, as far as there are queues; whose worker it is depends
    on its flow. Where the kernel takes no program for that, it spreads flows over all of them.

    Args:
        name: exact ("flannel.1"), or a template of which the kernel takes the first free one ("flannel%d").
        workers, queues: at least 1; the i-th descriptor is that of worker i modulo `workers`.
    Raises:
        HostError: with a hint: no /dev/net/tun, no privilege, or who holds the name.
    Source: linux/Documentation/networking/tuntap.rst.
    """
    # IFF_TUN_EXCL refuses an existing device; without it a multi-queue device of another daemon would be joined.
    return _open_all(name, workers, queues, pytun.IFF_TUN_EXCL)


def attach_tun(name: str, index: int, workers: int, queues: int = 1) -> Tun:
    """Open the same of a device that stayed; its settings, addresses and routes are as they were.

    Raises:
        HostError: the device of this name and index is not there, or is of another kind.
    """
    if not is_there(name, index):
        raise HostError(f"there is no TUN device {name} with index {index} any more")
    tun = _open_all(name, workers, queues, 0)
    if tun.index != index:
        tun.close()
        raise HostError(f"the TUN device {name} was replaced by another while it was attached to")
    return tun


def is_there(name: str, index: int) -> bool:
    """Whether there is a device of this name and index; raises `HostError` where that cannot be told."""
    try:
        return _index_of(name) == index
    except OSError as error:
        raise HostError(f"cannot look for the TUN device {name}: {error.strerror}") from error


def given_tun(fds: Sequence[int]) -> Tun:
    """The device whose queues another process opened and gave us; raises `HostError`, and closes them, where they are not of
    one device."""
    try:
        names = {_request_of(fd)[0] for fd in fds}
        (name,) = names
        return Tun(name, socket.if_nametoindex(name), tuple(fds), bool(_request_of(fds[0])[1] & pytun.IFF_VNET_HDR))
    except (OSError, ValueError) as error:
        for fd in fds:
            os.close(fd)
        raise HostError(f"what was given are no queues of one TUN device here: {error}") from error


def _open_all(name: str, workers: int, queues: int, exclusive: int) -> Tun:
    # Kernels without virtio headers answer EINVAL, and so do those (gVisor) that know one plain queue only.
    attempts = [_queue_flags | pytun.IFF_VNET_HDR | exclusive, _queue_flags | exclusive]
    if workers == 1:
        attempts.append(_base_flags)
    first, flags = _open_first(name, attempts)
    fds = [first]
    try:
        name, actual = _request_of(first)
        if flags & pytun.IFF_MULTI_QUEUE:
            for _ in range(workers * queues - 1):
                fds.append(_open_queue(name, flags & ~pytun.IFF_TUN_EXCL))
            steer_tun(first, workers, queues)
        return Tun(name, socket.if_nametoindex(name), tuple(fds), bool(actual & pytun.IFF_VNET_HDR))
    except OSError as error:
        for fd in fds:
            os.close(fd)
        raise _refusal(name, error) from error


def check_tun(name: str, is_ours: Callable[[int], bool]) -> None:
    """Raise the `HostError` that opening would raise, as far as can be told without making a device.

    Args:
        is_ours: whether a device of this name and index is one that stayed for us.
    """
    try:
        os.close(os.open(_device_node, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise _refusal(name, error) from error
    index = _index_of(name)
    if index is not None and not is_ours(index):
        raise _refusal(name, OSError(errno.EBUSY, os.strerror(errno.EBUSY)))


def _index_of(name: str) -> int | None:
    return next((index for index, taken in socket.if_nameindex() if taken == name), None)


def _open_first(name: str, attempts: list[int]) -> tuple[int, int]:
    for flags in attempts:
        try:
            return _open_queue(name, flags), flags
        except OSError as error:
            refused = error
            if error.errno != errno.EINVAL:
                break
    raise _refusal(name, refused) from refused


def _open_queue(name: str, flags: int) -> int:
    queue = pytun.TunTapDevice(name=name, flags=flags)
    try:
        # pytun opens without O_CLOEXEC, and closes with the object.
        fd = fcntl.fcntl(queue.fileno(), fcntl.F_DUPFD_CLOEXEC, 0)
    finally:
        queue.close()
    try:
        os.set_blocking(fd, False)
    except OSError:
        os.close(fd)  # or the name stays taken
        raise
    return fd


def _request_of(fd: int) -> tuple[str, int]:
    """Name and flags of the device behind a queue; raises `OSError`."""
    request = array.array("B", bytes(_ifreq_size))
    fcntl.ioctl(fd, _tungetiff, request)
    name, flags = struct.unpack_from("=16sH", request)
    return name.rstrip(b"\0").decode(), flags


def _driver_of(name: str) -> str:
    try:
        return driver_of(name)
    except HostError:
        return ""


def _refusal(name: str, error: OSError) -> HostError:
    """What a person must mend is a `HostFault`: a right, the module, who has the name. All else passes."""
    text = f"cannot open the TUN device {name}: {error.strerror or error}"
    if error.errno in _missing and not _node_is_there():
        return HostFault(f"{text}; {_device_node} is missing: load the tun module, or give the container this device")
    if error.errno in (errno.EPERM, errno.EACCES):
        return HostFault(f"{text}; this needs CAP_NET_ADMIN and read and write access to {_device_node}")
    if error.errno in (errno.EBUSY, errno.EINVAL, errno.EEXIST):
        driver = _driver_of(name)
        if driver == "vxlan":
            return HostFault(
                f"{text}; a kernel vxlan device of this name is left over: remove it with `ip link del {name}`"
            )
        if driver == "tun":
            return HostFault(f"{text}; another process (or a persistent TUN) holds the name")
        if driver:
            return HostFault(f"{text}; a {driver} device has this name")
    return HostFault(text) if error.errno == errno.EINVAL else HostError(text)


def _node_is_there() -> bool:
    """Whether the errno was about something else than the device node and its module."""
    try:
        os.close(os.open(_device_node, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        return error.errno not in _missing
    return True
