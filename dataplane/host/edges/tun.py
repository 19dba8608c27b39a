"""Open a TUN device: the edge where overlay packets leave and enter the node's kernel.

The descriptors made here are the whole life of the device: it is not persistent, so closing them (or dying)
takes its addresses and routes away. What must stay true: a name that is already in use is never shared, and no
descriptor is inherited by a child process or blocks a reader.
"""

from __future__ import annotations

import array
import errno
import fcntl
import os
import socket
import struct
from dataclasses import dataclass, field

import pytun

from dataplane.errors import HostError, HostFault
from dataplane.host.edges.steering import steer_tun
from dataplane.host.ethtool import driver_of
from dataplane.host.losses.kernel_counters import read_device

_device_node = "/dev/net/tun"
_tungetiff = 0x800454D2  # linux/if_tun.h TUNGETIFF
_missing = (errno.ENOENT, errno.ENXIO, errno.ENODEV)  # the module, where it is the device node that is opened
_ifreq_size = 40  # sizeof(struct ifreq) on 64-bit kernels; 32-bit ones read less
_base_flags = pytun.IFF_TUN | pytun.IFF_NO_PI
_queue_flags = _base_flags | pytun.IFF_MULTI_QUEUE


@dataclass(frozen=True, slots=True)
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
    _queues: tuple[pytun.TunTapDevice, ...] = field(repr=False)

    def queue_drops(self) -> int:
        """How many packets (a super-packet is one) the kernel threw away because a queue was full; 0 without a device.

        Source: drivers/net/tun.c tun_net_xmit. What the host itself sends before the device's queues are ready (IPv6
        multicast) is among it: net/sched/sch_generic.c noop_enqueue.
        """
        return read_device(self.name).tx_dropped

    def close(self) -> None:
        """Close every queue; the device, its addresses and its routes vanish. May be called again."""
        for queue in self._queues:
            queue.close()


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
    # Kernels without virtio headers answer EINVAL, and so do those (gVisor) that know one plain queue only.
    attempts = [_queue_flags | pytun.IFF_VNET_HDR | pytun.IFF_TUN_EXCL, _queue_flags | pytun.IFF_TUN_EXCL]
    if workers == 1:
        attempts.append(_base_flags)
    first, flags = _open_first(name, attempts)
    opened = [first]
    try:
        if flags & pytun.IFF_MULTI_QUEUE:
            opened += [_open_queue(first.name, flags & ~pytun.IFF_TUN_EXCL) for _ in range(workers * queues - 1)]
            steer_tun(first.fileno(), workers, queues)
        actual = _flags_of(first.fileno())
        fds = tuple(queue.fileno() for queue in opened)
        return Tun(first.name, socket.if_nametoindex(first.name), fds, bool(actual & pytun.IFF_VNET_HDR), tuple(opened))
    except OSError as error:
        for queue in opened:
            queue.close()
        raise _refusal(name, error) from error


def check_tun(name: str) -> None:
    """Raise the `HostError` that `open_tun` would raise, as far as can be told without making a device."""
    try:
        os.close(os.open(_device_node, os.O_RDWR | os.O_CLOEXEC))
    except OSError as error:
        raise _refusal(name, error) from error
    if name in (taken for _, taken in socket.if_nameindex()):
        raise _refusal(name, OSError(errno.EBUSY, os.strerror(errno.EBUSY)))


def _open_first(name: str, attempts: list[int]) -> tuple[pytun.TunTapDevice, int]:
    for flags in attempts:
        try:
            return _open_queue(name, flags), flags
        except OSError as error:
            refused = error
            if error.errno != errno.EINVAL:
                break
    raise _refusal(name, refused) from refused


def _open_queue(name: str, flags: int) -> pytun.TunTapDevice:
    queue = pytun.TunTapDevice(name=name, flags=flags)
    try:
        os.set_inheritable(queue.fileno(), False)  # pytun opens without O_CLOEXEC
        os.set_blocking(queue.fileno(), False)
    except OSError:
        queue.close()  # or the name stays taken
        raise
    return queue


def _flags_of(fd: int) -> int:
    request = array.array("B", bytes(_ifreq_size))
    fcntl.ioctl(fd, _tungetiff, request)
    flags: int = struct.unpack_from("=16xH", request)[0]
    return flags


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
