"""What was lost is told by comparing: it only grows, is never too much, and is exact once nothing is under way."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from dataplane.errors import HostError
from dataplane.host.losses import comparing, kernel_counters
from dataplane.host.losses.comparing import Overflow, UnderlayLosses, Unsent
from dataplane.host.losses.kernel_counters import UnderlayCounters, read_device, read_underlay


@dataclass
class Numbers:
    given: int = 0
    taken: int = 0
    dropped: int = 0
    beside: int = 0
    held: int = 0


def unsent(numbers: Numbers) -> Unsent:
    departures: Any = SimpleNamespace(left=lambda: numbers.taken)
    return Unsent(departures, lambda: numbers.given, lambda: numbers.held)


def test_what_is_held_is_not_lost_yet() -> None:
    numbers = Numbers(given=100, taken=70, held=50)
    lost = unsent(numbers)
    assert lost.count() == 0
    numbers.held = 10
    assert lost.count() == 20
    numbers.held = 0
    assert lost.count() == 30
    numbers.taken = 130  # counted at the sender only later
    assert lost.count() == 30


def test_what_cannot_be_told_adds_nothing() -> None:
    numbers = Numbers(given=10, taken=5)
    departures: Any = SimpleNamespace(left=lambda: numbers.taken)

    def refuse() -> int:
        raise HostError("IPsec")

    assert Unsent(departures, lambda: numbers.given, refuse).count() == 0


class Queues:
    """An Overflow over a pipe, which is readable while something waits."""

    def __init__(self) -> None:
        self.numbers = Numbers()
        self.readable, self._other = os.pipe()
        numbers = self.numbers
        self.overflow = Overflow(
            lambda: numbers.given,
            lambda: numbers.taken,
            lambda: numbers.dropped,
            [self.readable],
            lambda: numbers.beside,
        )

    def fill(self) -> None:
        os.write(self._other, b"x")

    def empty(self) -> None:
        os.read(self.readable, 1)

    def close(self) -> None:
        os.close(self.readable)
        os.close(self._other)


@pytest.fixture
def queues() -> Any:
    made = Queues()
    yield made
    made.close()


def test_super_packets_count_as_their_packets_once_the_queue_is_empty(queues: Queues) -> None:
    numbers, count = queues.numbers, queues.overflow.count
    queues.fill()
    numbers.given, numbers.taken, numbers.dropped = 1000, 0, 5
    assert count() == 5
    assert count() == 5  # what waits is not lost
    queues.empty()
    numbers.taken = 850
    assert count() == 5  # the rest may be on its way
    numbers.taken = 900
    assert count() == 5
    assert count() == 100
    numbers.given, numbers.taken = 2000, 1900
    assert count() == 100
    numbers.given, numbers.dropped = 2050, 7
    assert count() == 102
    assert count() == 150


def test_what_is_lost_elsewhere_is_not_lost_in_the_queue(queues: Queues) -> None:
    numbers, count = queues.numbers, queues.overflow.count
    numbers.given, numbers.taken = 100, 60  # somebody's firewall
    assert count() == count() == 0
    numbers.given, numbers.taken, numbers.beside = 200, 140, 5
    assert count() == count() == 0
    numbers.given, numbers.taken, numbers.dropped = 230, 160, 1
    count()
    assert count() == 10


def test_the_hosts_udp_counters_less_what_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    now = UnderlayCounters(1, 10, 100)
    monkeypatch.setattr(comparing, "read_underlay", lambda version: now)
    known = Numbers()
    lost = UnderlayLosses(4, lambda: known.dropped, lambda: known.held)
    assert lost.count() == {"receive_udp": 0, "receive_fragments": 0, "send_queue": 0}
    now = UnderlayCounters(3, 40, 150)
    known.dropped, known.held = 10, 20
    assert lost.count() == {"receive_udp": 20, "receive_fragments": 2, "send_queue": 30}
    known.dropped = 25  # ours tell before the kernel's is read
    assert lost.count()["receive_udp"] == 20


def test_reading_the_kernels_counters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel_counters, "_proc_net", tmp_path)
    (tmp_path / "snmp").write_text(
        "Ip: Forwarding ReasmFails\nIp: 1 4\nIcmp: InMsgs\nIcmp: 9\nUdp: InErrors SndbufErrors\nUdp: 5 6\n"
        "UdpLite: InErrors SndbufErrors\nUdpLite: 7 8\n"
    )
    assert read_underlay(4) == UnderlayCounters(4, 5, 6)
    assert read_underlay(6) == UnderlayCounters(0, 0, 0)  # no IPv6
    (tmp_path / "snmp6").write_text("Ip6ReasmFails   \t1\nUdp6InErrors   \t2\nUdp6SndbufErrors  \t3\n")
    assert read_underlay(6) == UnderlayCounters(1, 2, 3)
    (tmp_path / "dev").write_text(
        "Inter-|   Receive\n face |bytes\n  eth0: 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n eth00: 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0\n"
    )
    seen = read_device("eth0")
    assert (seen.received, seen.tx_errors, seen.tx_dropped) == (7, 11, 12)
    assert read_device("eth1").tx_dropped == 0
