"""What the kernel counts of this network namespace: its UDP, which is of the whole host (every program's sockets), and its devices.

Source: linux/Documentation/networking/snmp_counter.rst; net/core/net-procfs.c dev_seq_printf_stats.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

# Not /proc/self: it shows the namespace of the first thread. Not sysfs, which shows the namespace that mounted it.
_proc_net = Path("/proc/thread-self/net")


@dataclass(frozen=True, slots=True)
class UnderlayCounters:
    """Datagrams that the kernel discarded.

    Attributes:
        reassembly_failures: in pieces, of which not all came in time.
        in_errors: on their way to a socket: a wrong checksum or length, a full buffer.
        sndbuf_errors: on their way out: a full send buffer, or a full queue of the device, of which the sender is not told;
            a train counts once.
    """

    reassembly_failures: int
    in_errors: int
    sndbuf_errors: int


@dataclass(frozen=True, slots=True)
class DeviceCounters:
    """Packets that a device discarded or could not carry; a super-packet counts once.

    Attributes:
        received: on their way in.
        tx_errors, tx_dropped: on their way out, as the device's driver means it.
    """

    received: int
    tx_errors: int
    tx_dropped: int


def read_underlay(version: int) -> UnderlayCounters:
    """The counters of IPv4 or IPv6 and of UDP over it; zeros where the kernel has none."""
    if version == 6:
        found = {line[0]: line[1] for line in _words(_proc_net / "snmp6")}
        names = "Ip6ReasmFails", "Udp6InErrors", "Udp6SndbufErrors"
    else:
        rows = [line for line in _words(_proc_net / "snmp") if line[0] in ("Ip:", "Udp:")]
        pairs = zip(rows[::2], rows[1::2], strict=False)  # names, then values
        found = {f"{of[0]}{name}": value for of, row in pairs for name, value in zip(of, row, strict=True)}
        names = "Ip:ReasmFails", "Udp:InErrors", "Udp:SndbufErrors"
    return UnderlayCounters(*(int(found.get(name, 0)) for name in names))


def read_device(name: str) -> DeviceCounters:
    """The counters of a device; zeros where it is none."""
    for line in (_proc_net / "dev").read_text().splitlines()[2:]:
        device, _, fields = line.partition(": ")
        if device.strip() == name:
            values = [int(field) for field in fields.split()]
            return DeviceCounters(values[2] + values[3], values[10], values[11])
    return DeviceCounters(0, 0, 0)


def unsent_from_now(name: str) -> Callable[[], int]:
    """Return what tells how many packets a device has not sent since this call; from 0 again if it is made anew."""

    def unsent() -> int:
        seen = read_device(name)
        return seen.tx_errors + seen.tx_dropped

    start = unsent()
    return lambda: max(0, unsent() - start)


def _words(path: Path) -> list[list[str]]:
    try:
        return [line.split() for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return []  # no IPv6
