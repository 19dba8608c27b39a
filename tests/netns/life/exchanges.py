"""Steady exchanges of two pods, over IPv4 and IPv6 at a time, and what is expected of one that nothing touched."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager

from dataplane.lab.commands import LabError, wait_for
from dataplane.lab.steady import Seen, Steady
from dataplane.lab.topology import Pod
from tests.traffic import LongPing

ways = {
    "udp": ("udp", "userspace"),
    "vxlan": ("vxlan", "userspace"),
    "kernel": ("vxlan", "kernel"),
    "host-gw": ("host-gw", "auto"),
}
versions = (4, 6)


class Exchange:
    """What goes to and fro between two pods.

    Attributes:
        seen: by IP version, once it was stopped.
    """

    def __init__(self, name: str, running: dict[int, Steady]) -> None:
        self._name = name
        self._running = running
        self.seen: dict[int, Seen] = {}

    def stop(self) -> None:
        """End it; print what came through."""
        with ThreadPoolExecutor() as threads:  # each waits for its last answers
            ended = {version: threads.submit(steady.stop) for version, steady in self._running.items()}
        for version, future in ended.items():
            seen = self.seen[version] = future.result()
            print(
                f"{self._name} IPv{version}: {seen.sent} sent, {len(seen.lost)} lost, {seen.reordered} reordered, silence "
                f"{seen.silence_s:.2f} s, of TCP {seen.tcp_silence_s:.2f} s; {seen.tcp_missing} bytes missing {seen.tcp_broken}"
            )

    def untouched(self, silence_s: float = 5.0) -> None:
        """Nothing was lost, nothing came in another order, no connection broke, and no silence was so long."""
        self.stop()
        for seen in self.seen.values():
            assert seen.sent > 50
            assert (seen.lost, seen.reordered) == ((), 0), seen
            assert (seen.tcp_broken, seen.tcp_missing) == ("", 0), seen
            assert seen.silence_s < silence_s, seen

    def lived(self, silence_s: float) -> None:
        """No connection broke, all of it arrived, and datagrams came again after at most so long a silence."""
        self.stop()
        for seen in self.seen.values():
            assert (seen.tcp_broken, seen.tcp_missing, seen.reordered) == ("", 0, 0), seen
            assert seen.silence_s < silence_s, seen


@contextmanager
def exchange(one: Pod, other: Pod) -> Iterator[Exchange]:
    """Both pods talk while the block runs."""
    with ExitStack() as stack:
        running = {version: stack.enter_context(Steady(one, other, version)) for version in versions}
        yield Exchange(f"{one.name} to {other.name}", running)


@contextmanager
def pings(one: Pod, other: Pod) -> Iterator[list[LongPing]]:
    """Pings that do not stop while the block runs, over both IP versions."""
    running: list[LongPing] = []
    try:
        for version in versions:
            running.append(LongPing(one.name, other.address_of(version), 0.05))
        yield running
    finally:
        for ping in running:
            ping.stop()


def answered_again(running: list[LongPing], limit_s: float, what: str) -> None:
    """Wait until every ping is answered again, and print how long that took; raises `LabError` after `limit_s`."""
    begun = time.monotonic()
    for ping in running:
        before = ping.answers
        wait_for(lambda p=ping, b=before: p.answers > b, limit_s, f"the pings to be answered after {what}")  # type: ignore[misc]
    took = time.monotonic() - begun
    print(f"pings are answered {took:.2f} s after {what}")
    if took > limit_s:
        raise LabError(f"pings were answered only {took:.1f} s after {what}")
