"""How long a set of leases holds the event loop, whatever is in it: 100,000 leases of each shape, the real control loop and core.

    .venv/bin/python bench/holds.py                  # every shape, some minutes
    .venv/bin/python bench/holds.py good macs        # these
    .venv/bin/python bench/holds.py --leases 10000

Each shape runs in a process and a network namespace of its own and goes through the same phases: its leases as the first
snapshot, the same again, others in their place, none; as 100,000 single events, and as many deletions; then a look at
everything, a status and a scrape. For each phase: the longest time for which nothing else had its turn, as CPU time of
the event loop's thread and on the wall (which counts what else the machine does), the longest run of Python's garbage
collector in any thread, the longest time between two signs of life to systemd (asked for every 0.1 s), how often our
lease was renewed (asked for every second), and how many log lines there were.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import os
import resource
import shlex
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Network

import uvloop
from many_leases import conf, good

from dataplane import core
from dataplane.backends import DevicePlan, Plan, from_conf
from dataplane.control.loop import Control
from dataplane.control.watching import Watching
from dataplane.host.netlink import Host
from dataplane.keepers.base import Keeper
from dataplane.keepers.device import TunDevice
from dataplane.keepers.peer_routes import Direct
from dataplane.keepers.routes import RouteKeeper
from dataplane.keepers.tun import TunKeeper
from dataplane.lab import enclosure
from dataplane.leases.renewal import Renewer
from dataplane.model import (
    IPNetwork,
    Lease,
    LeaseAttrs,
    LeaseGone,
    LeasePut,
    LeaseRefused,
    Peer,
    RefusedLease,
    Snapshot,
    WatchEvent,
)
from dataplane.observe.metrics import render
from dataplane.observe.notify import notify
from dataplane.observe.state import NodeState
from dataplane.observe.status import document
from dataplane.runtime import collector
from dataplane.runtime.clock import WallClock
from dataplane.runtime.pieces import in_turns

own_address = IPv4Address("192.0.2.1")
own = Lease(
    IPv4Network("11.255.255.0/24"),
    None,
    LeaseAttrs(own_address, None, "vxlan", {"VNI": 1, "VtepMAC": "02:00:00:ff:ff:ff"}),
    born=(0.0, ""),
)
Entry = Lease | RefusedLease


def overlapping(number: int, round_: int) -> Lease:
    """The oldest covers all others."""
    return replace(good(number, round_), subnet=IPv4Network("8.0.0.0/7")) if number == 1 else good(number, round_)


def displaced(number: int, round_: int) -> Lease:
    """The oldest covers all others, and comes last: all that are in use by then give way to it."""
    if number != shapes_last[0]:
        return good(number, round_)
    return replace(good(number, round_), subnet=IPv4Network("8.0.0.0/7"), born=(0.5, ""))


def one_subnet(number: int, round_: int) -> Lease:
    """One IPv4 subnet under keys that differ in the IPv6 part."""
    ipv6 = IPv6Network(((0xFD00 << 112) + (number << 64), 64))
    return replace(good(number, round_), subnet=IPv4Network("8.1.1.0/24"), ipv6_subnet=ipv6)


def macs(number: int, round_: int) -> Lease:
    """One VTEP MAC for all."""
    lease = good(number, round_)
    return replace(
        lease, attrs=replace(lease.attrs, backend_data={"VNI": 1, "VtepMAC": f"02:aa:aa:aa:aa:{round_:02x}"})
    )


def address(number: int, round_: int) -> Lease:
    """One public address for all."""
    lease = good(number, round_)
    return replace(lease, attrs=replace(lease.attrs, public_ip=IPv4Address("172.16.0.0") + round_))


def youngest_first(number: int, round_: int) -> Lease:
    """One VTEP MAC for all, and each lease is older than those that came before it."""
    return replace(macs(number, round_), born=(float(shapes_last[0] + 1 - number), ""))


def bad(number: int, round_: int) -> Lease:
    """Values that no backend takes."""
    lease = good(number, round_)
    return replace(lease, attrs=replace(lease.attrs, backend_data={"VNI": 1, "VtepMAC": f"no MAC {round_}"}))


def undecoded(number: int, round_: int) -> RefusedLease:
    """Values that the store could not read."""
    return RefusedLease(f"node {number}", f"value is no JSON object ({round_}); allowed is an object")


def mismatched(number: int, round_: int) -> Lease:
    """Nodes of another VNI."""
    lease = good(number, round_)
    data = {**lease.attrs.backend_data, "VNI": 7 + round_}
    return replace(lease, attrs=replace(lease.attrs, backend_data=data))


shapes: dict[str, Callable[[int, int], Entry]] = {
    "good": good,
    "overlapping": overlapping,
    "displaced": displaced,
    "one-subnet": one_subnet,
    "macs": macs,
    "youngest-first": youngest_first,
    "address": address,
    "core": good,  # refused by the core, which is told that its table is full
    "bad": bad,
    "undecoded": undecoded,
    "mismatched": mismatched,
}
shapes_last = [0]  # the last number of the run


@dataclass
class Hold:
    """The worst of one phase; seconds."""

    cpu: float = 0.0
    wall: float = 0.0
    collector: float = 0.0
    watchdog: float = 0.0
    renewals: int = 0
    lines: int = 0
    took: float = 0.0
    rss_mb: float = 0.0


class Probe:
    """Takes every turn that the event loop gives, and notes how long it had to wait for it."""

    def __init__(self) -> None:
        self.hold = Hold()
        self._begun = 0.0
        self._beside: list[asyncio.Task[None]] = []
        gc.callbacks.append(self._collected)
        handler = logging.Handler()
        handler.emit = self._logged  # type: ignore[method-assign]
        logging.getLogger("dataplane").addHandler(handler)
        logging.getLogger("dataplane").setLevel(logging.INFO)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        os.environ["NOTIFY_SOCKET"] = f"@holds-{os.getpid()}"
        self._socket.bind(f"\0holds-{os.getpid()}")

    def _collected(self, phase: str, _: Mapping[str, int]) -> None:
        if phase == "start":
            self._begun = time.thread_time()
        else:
            self.hold.collector = max(self.hold.collector, time.thread_time() - self._begun)

    def _logged(self, record: logging.LogRecord) -> None:
        self.hold.lines += 1

    @contextmanager
    def phase(self) -> Iterator[Hold]:
        """Measure what is done meanwhile."""
        self.hold = hold = Hold()
        begun = time.monotonic()
        self._beside = [asyncio.create_task(work) for work in (self._tick(hold), self._feed(hold), self._renew(hold))]
        try:
            yield hold
        finally:
            hold.took = time.monotonic() - begun
            hold.rss_mb = _rss_mb()
            for task in self._beside:
                task.cancel()

    async def _tick(self, hold: Hold) -> None:
        cpu, wall = time.thread_time(), time.monotonic()
        while True:
            await asyncio.sleep(0)
            last_cpu, last_wall = cpu, wall
            cpu, wall = time.thread_time(), time.monotonic()
            hold.cpu, hold.wall = max(hold.cpu, cpu - last_cpu), max(hold.wall, wall - last_wall)

    async def _feed(self, hold: Hold) -> None:
        """As the daemon feeds systemd's watchdog."""
        last = time.monotonic()
        while True:
            notify("WATCHDOG=1")
            self._socket.recv(64)
            last, before = time.monotonic(), last
            hold.watchdog = max(hold.watchdog, last - before)
            await asyncio.sleep(0.1)

    async def _renew(self, hold: Hold) -> None:
        def renewed(_: Lease) -> None:
            hold.renewals += 1
            hold.lines -= 1  # its own

        lease = replace(own, expires=time.time() + 1)
        await Renewer(Renewing(), lease, 86400.0, WallClock(), renewed, lambda _: None).run()  # type: ignore[arg-type]


class Renewing:
    """The part of a store that renews, of one whose leases last a second."""

    async def renew(self, lease: Lease, attrs: LeaseAttrs | None = None) -> Lease:
        return replace(lease, expires=time.time() + 1)


class SimulatedStore:
    """The watch of a store that says what it is told to."""

    first_delay_s = 1.0  # after a failure, of which there is none

    def __init__(self) -> None:
        self.news = asyncio.Event()
        self.events: list[WatchEvent] = []

    async def watch(self) -> AsyncGenerator[WatchEvent, None]:
        """Yield what is there; it stands nowhere else then."""
        while True:
            await self.news.wait()
            self.news.clear()
            events, self.events = self.events[::-1], []
            while events:
                yield events.pop()


def _show(name: str, hold: Hold) -> None:
    print(
        f"{name:15} {1e3 * hold.cpu:>6.1f} {1e3 * hold.wall:>6.1f} {1e3 * hold.collector:>9.1f}  "
        f"{1e3 * hold.watchdog:>8.0f}  {hold.renewals:>8}  {hold.lines:>5}  {hold.took:>4.1f} s  {hold.rss_mb:.0f} MB",
        flush=True,
    )


def _rss_mb() -> float:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 1e6


def _snapshot(entries: Iterable[Entry]) -> list[WatchEvent]:
    leases, refused = [own], []
    for entry in entries:
        if isinstance(entry, Lease):
            leases.append(entry)
        else:
            refused.append(entry)
    return [Snapshot(tuple(leases), tuple(refused))]


def _puts(entries: Iterable[Entry]) -> list[WatchEvent]:
    return [
        LeasePut(entry) if isinstance(entry, Lease) else LeaseRefused(entry) for entry in collector.settling(entries)
    ]


async def measure(shape: str, leases: int, wanted: Collection[str]) -> None:
    """Take one node through the phases, or through those that are wanted."""
    shapes_last[0] = leases
    if shape == "core":
        core.max_peers = 1
    make = shapes[shape]
    state, clock, host, store, probe = NodeState(), WallClock(), Host(), SimulatedStore(), Probe()
    control = _control(host, state, clock)
    await control.open()
    watching = Watching(store, control.slices, state, clock)  # type: ignore[arg-type]
    tasks = [asyncio.create_task(work) for work in (watching.watch(), control.program())]

    def entries(round_: int) -> list[Entry]:
        return [make(number, round_) for number in collector.settling(range(1, leases + 1))]

    def keys(round_: int) -> list[WatchEvent]:
        return [LeaseGone(make(number, round_).key) for number in collector.settling(range(1, leases + 1))]

    phases: dict[str, Callable[[], list[WatchEvent]]] = {
        "snapshot": lambda: _snapshot(entries(0)),
        "the same again": lambda: _snapshot(entries(0)),
        "other values": lambda: _snapshot(entries(1)),
        "none": lambda: _snapshot(()),
        "events": lambda: _puts(entries(0)),
        "deletions": lambda: keys(0),
        "snapshot again": lambda: _snapshot(entries(0)),
    }
    print(f"{'':15} {'held':>6} {'wall':>6} {'collector':>9}  {'watchdog':>8}  renewals  lines    took   memory")
    for name, make_events in phases.items():
        if wanted and name not in wanted:
            continue
        # As in a store, in a thread; how long that takes is measured by holds_stores.py.
        store.events = await asyncio.to_thread(make_events)
        with probe.phase() as hold:
            await asyncio.sleep(0.02)
            last = LeasePut(replace(own, expires=time.time()))
            store.events.append(last)
            store.news.set()
            await _taken(control, last)
        _show(name, hold)
    for name, work in (
        ("a look", control.ensure),
        ("status", lambda: in_turns(document(state))),
        ("scrape", lambda: in_turns(render(state))),
    ):
        if wanted and name not in wanted:
            continue
        with probe.phase() as hold:
            await asyncio.sleep(0.02)
            await work()
            await asyncio.sleep(0.02)
        _show(name, hold)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await control.close()
    await host.close()


async def _taken(control: Control, last: LeasePut) -> None:
    """Wait until all is taken in up to this event, and nothing is left to do."""
    desired = control._desired  # nothing else tells
    while (  # noqa: ASYNC110
        control.view.leases.get(own.key) is not last.lease or desired._changed or desired._again
    ):
        await asyncio.sleep(0.01)
    await asyncio.sleep(0.2)


def _control(host: Host, state: NodeState, clock: WallClock) -> Control:
    backend = from_conf(conf)

    def keep(plan: Plan, wanted: Mapping[IPNetwork, Peer]) -> Sequence[Keeper]:
        assert isinstance(plan, DevicePlan)
        tun = TunKeeper(plan, wanted, lambda plan: TunDevice(plan, 1, 0), host, state, 1)
        return tun, RouteKeeper(plan, wanted, host, state, Direct.never, beside=state.devices[plan.name])

    plans = backend.plans(conf, own, interface="ul0", interface_mtu=1500, address=own_address, address6=None)
    return Control(
        conf, own, backend, plans, keep=keep, state=state, clock=clock, doubt=lambda: None, contested=lambda _: None
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shapes", nargs="*", default=list(shapes), metavar="SHAPE", help=", ".join(shapes))
    parser.add_argument("--leases", type=int, default=100_000)
    parser.add_argument("--phases", nargs="*", default=[], metavar="PHASE", help="these only, such as snapshot events")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(measure(args.shapes[0], args.leases, args.phases))
        return 0
    if not enclosure.inside():
        return enclosure.run(sys.orig_argv)
    print("held, wall, collector and watchdog in ms, the longest of each phase")
    for shape in args.shapes:
        print(f"\n{args.leases:,} leases: {shape}. {shapes[shape].__doc__}", flush=True)
        _in_namespace(shape, args.leases, args.phases)
    return 0


def _in_namespace(shape: str, leases: int, phases: Sequence[str]) -> None:
    options = shlex.join(["--one", shape, "--leases", str(leases), "--phases", *phases])
    setup = (
        "ip link add ul0 type veth peer name ul1; ip address add 192.0.2.1/24 dev ul0; ip link set ul0 up; "
        "ip link set ul1 up; ip link set lo up; "
        f'exec "{sys.executable}" "{__file__}" {options}'
    )
    subprocess.run(["unshare", "-n", "sh", "-c", setup], check=True, timeout=900)


if __name__ == "__main__":
    sys.exit(main())
