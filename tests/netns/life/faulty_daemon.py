"""One daemon whose calls of the host fail in turns: the command that test_host_faults runs in the place of `dataplane run`.

    python -m tests.netns.life.faulty_daemon REPORT python -m dataplane run FLAGS…

Four times it looks which calls are made (at a start, when the interface's MTU changes, when somebody deletes what the daemon made,
and when nothing is to be done but looking), and then makes each of them fail, with errnos in rotation, once or some times in a
row. After each time all must stand again as before, by itself, in the same task. What it finds goes to REPORT as JSON; then it
stays, as a daemon in good order, until it is told to stop. The event loop's time runs faster than ours, so that what is
waited for costs little.
"""

from __future__ import annotations

import argparse
import asyncio
import errno
import json
import logging
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from pyroute2 import IPRoute

from dataplane.cli import flags, settings
from dataplane.daemon.options import Options
from dataplane.daemon.start import Daemon
from dataplane.footprint.rundir import Held, run_directory
from dataplane.runtime.clock import WallClock
from dataplane.runtime.limits import raise_descriptor_limit
from dataplane.runtime.tasks import first_error
from dataplane.takeover.inherited import Inherited
from tests.netns.life.host_faults import Faults, Site, install

errors = (errno.ENODEV, errno.EBUSY, errno.ENETDOWN, errno.EEXIST, errno.ENOBUFS, errno.ENOMEM)
in_a_row = (1, 3)
together = 6  # sites that fail in one go, far apart from each other
speed = 10.0
limit_s = 200.0  # where many other programs run; a second or two else
log = logging.getLogger("faults")


class QuickSelector(selectors.EpollSelector):
    """Waits a shorter time than it is asked to."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        return super().select(timeout / speed if timeout else timeout)


class QuickLoop(asyncio.SelectorEventLoop):
    """A loop whose seconds are short."""

    def __init__(self) -> None:
        super().__init__(QuickSelector())

    def time(self) -> float:
        return time.monotonic() * speed


def snapshot() -> str:
    """What the daemon keeps of this namespace, as text; what the kernel numbers anew each time is left out."""
    lines = []
    with IPRoute() as netlink:
        names = {row["index"]: str(row.get("ifname")) for row in netlink.get_links()}
        ours = {index for index, name in names.items() if name.startswith("flannel") and "gso" not in name}
        for row in netlink.get_links():
            if row["index"] in ours:
                lines.append(f"link {names[row['index']]} {row.get('mtu')} {row['flags'] & 1} {row.get('address')}")
        for row in netlink.get_addr():
            if row["index"] in ours and row["scope"] == 0:
                lines.append(
                    f"address {names[row['index']]} {row.get('local') or row.get('address')}/{row['prefixlen']}"
                )
        for row in netlink.get_routes(table=254):
            if row.get("table") == 254 and row["proto"] == 3:
                lines.append(
                    f"route {row.get('dst')} via {row.get('gateway')} {names.get(row.get('oif'))} {row['type']}"
                )
        for index in ours:
            for row in netlink.get_neighbours(ifindex=index):
                if row["ifindex"] == index and row["state"] & 0x80:
                    lines.append(f"neighbour {names[index]} {row.get('dst')} {row.get('lladdr')}")
            for row in netlink.fdb("dump", ifindex=index):
                if row["ifindex"] == index and row.get("dst"):
                    lines.append(f"fdb {names[index]} {row.get('lladdr')} {row.get('dst')}")
    for words in ("nft -s list ruleset", "tc filter show dev eth0 ingress"):
        shown = subprocess.run(words.split(), capture_output=True, text=True, check=False).stdout
        lines += [
            line.partition(" id ")[0] for line in shown.splitlines() if "counter" not in line or "nft" not in words
        ]
    for name in Path("/proc/sys/net/ipv4/conf").glob("flannel*"):
        if "gso" not in name.name:
            lines += [
                f"{name.name} {item} {(name / item).read_text().strip()}" for item in ("accept_local", "rp_filter")
            ]
    return "\n".join(sorted(lines))


class Campaign:
    """The daemon, its faults, and what was found."""

    def __init__(self, options: Options, faults: Faults) -> None:
        self._options = options
        self._faults = faults
        self._daemon = Daemon(options, Inherited(directory=Held(-1)))
        self._task: asyncio.Task[None] | None = None
        self._mtu = 1500
        self._expected: dict[int, str] = {}
        self.report: dict[str, Any] = {"failures": [], "phases": {}}

    async def run(self) -> None:
        """All phases; the daemon runs at the end."""
        await self._start()
        await self._whole("the first start")
        for mtu in (1400, 1500):  # what it looks like in good order
            await self._move()
            await self._settled()
            self._expected[mtu] = await asyncio.to_thread(snapshot)
        for name, trigger in (
            ("start", self._start),
            ("move", self._move),
            ("repair", self._break),
            ("rest", self._stir),
        ):
            begun = time.monotonic()
            await self._phase(name, trigger)
            self.report["phases"][name]["seconds"] = round(time.monotonic() - begun, 1)

    async def _phase(self, name: str, trigger: Callable[[], Any]) -> None:
        for _ in range(10):  # what the phase before began comes to its end
            await self._stir()
        self._faults.seen.clear()
        await trigger()
        await self._whole(f"{name} without faults")
        for _ in range(20):
            await self._stir()
        sites = list(self._faults.seen)
        missed: list[str] = []
        for turn, (row, batch) in enumerate(_batches(len(sites))):
            armed = {sites[at]: errors[(at + turn) % len(errors)] for at in batch}
            self._faults.arm(armed, row)
            await trigger()
            for _ in range(20 if name == "rest" else 0):
                if self._faults.over():
                    break
                await trigger()
            await self._whole(f"{name}: {_named(armed)}, {row} in a row")
            missed += ["; ".join(site) for site in armed if not self._faults.hits.get(site)]
            self._faults.disarm()
        self.report["phases"][name] = {"sites": len(sites), "missed": missed}

    async def _start(self) -> None:
        """A first start, with nothing left of the life before but files."""
        await self.stop()
        for name in ("flannel.1", "flannel-v6.1", "flannel0"):
            await _ip(f"link del {name}", check=False)
        self._daemon = Daemon(self._options, Inherited(directory=Held(-1)))
        self._task = asyncio.create_task(self._daemon.run())

    async def _move(self) -> None:
        self._mtu = 2900 - self._mtu
        await _ip(f"link set eth0 mtu {self._mtu}")

    async def _break(self) -> None:
        """Somebody deletes the devices, or the routes where there are none."""
        for device in self._daemon._state.devices.values():
            if device.name.startswith("flannel"):
                await _ip(f"link del {device.name}", check=False)
        await _ip("route flush proto boot root 10.244.0.0/16", check=False)

    async def _stir(self) -> None:
        """The kernel reports a change that is none of ours."""
        await _ip("addr add 198.51.100.1/32 dev lo")
        await _ip("addr del 198.51.100.1/32 dev lo")
        await asyncio.sleep(0.05 * speed)

    async def stop(self) -> None:
        """End the daemon."""
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError, Exception):
                await self._task
            self._daemon.end()

    async def _whole(self, when: str) -> None:
        """Wait until all stands as it should; what does not come, and a daemon that ended, are failures."""
        end = time.monotonic() + limit_s
        state = self._daemon._state
        seen = ""
        while time.monotonic() < end:
            assert self._task is not None
            if self._task.done():
                error = self._task.exception() or RuntimeError("it ended")
                error = first_error(error) if isinstance(error, BaseExceptionGroup) else error
                self._fail(f"{when}: the daemon ended: {type(error).__name__}: {error}")
                self._faults.disarm()
                await self._start()
                when = f"the start after {when}"
                state = self._daemon._state
                continue
            seen = "; ".join(state.unready())
            interface = state.interface
            if interface is None or interface.mtu != self._mtu:
                seen = seen or "it has not moved"
            if not seen:
                present = await asyncio.to_thread(snapshot)
                expected = self._expected.get(self._mtu, present)
                seen = _difference(present, expected)
                if not seen and all(device.admission in ("", "full") for device in state.devices.values()):
                    return
            await asyncio.sleep(0.05 * speed)
        self._fail(f"{when}: not as before within {limit_s:g} s: {seen}; {state.problems()}")

    async def _settled(self) -> None:
        """Wait until the daemon has moved, and two looks one after the other see the same."""
        await self._whole("a move without faults")
        before, now = "", await asyncio.to_thread(snapshot)
        while now != before:
            await self._whole("a move without faults")
            before = now
            await asyncio.sleep(0.5 * speed)
            now = await asyncio.to_thread(snapshot)

    def _fail(self, text: str) -> None:
        log.error("%s", text)
        self.report["failures"].append(text)


def _batches(count: int) -> Iterator[tuple[int, list[int]]]:
    apart = -(-count // together)
    for turn in range(apart):
        yield in_a_row[turn % len(in_a_row)], list(range(turn, count, apart))


def _named(armed: dict[Site, int]) -> str:
    return ", ".join(f"{errno.errorcode[error]} at {' > '.join(site[-6:])}" for site, error in armed.items())


def _difference(present: str, expected: str) -> str:
    now, then = set(present.splitlines()), set(expected.splitlines())
    missing = [f"no {line}" for line in sorted(then - now)]
    return "; ".join((*missing, *sorted(now - then)))


async def _ip(words: str, check: bool = True) -> None:
    process = await asyncio.create_subprocess_exec("ip", *words.split(), stderr=subprocess.DEVNULL)
    code = await process.wait()
    assert code == 0 or not check, words


async def work(options: Options, report: Path) -> None:
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    faults = Faults()
    install(faults)
    campaign = Campaign(options, faults)
    try:
        await campaign.run()
    except Exception as error:
        logging.exception("the campaign failed")
        campaign.report["failures"].append(f"the campaign failed: {type(error).__name__}: {error}")
    done = report.with_suffix(".new")
    done.write_text(json.dumps(campaign.report, indent=1))
    done.rename(report)
    await stop.wait()
    await campaign.stop()


def main() -> int:
    report, words = Path(sys.argv[1]), sys.argv[sys.argv.index("run") + 1 :]
    parser = argparse.ArgumentParser()
    flags.add_flags(parser)
    options = settings.options(parser, parser.parse_args(flags.normalise(words)), {})
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    begun = time.time()
    WallClock.now = lambda self: begun + (time.time() - begun) * speed  # type: ignore[method-assign]
    raise_descriptor_limit()
    with run_directory(options.run_dir), asyncio.Runner(loop_factory=QuickLoop) as runner:
        runner.run(work(options, report))
    return 0


if __name__ == "__main__":
    sys.exit(main())
