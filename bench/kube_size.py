"""What 5,000 Nodes as big as real ones cost a daemon: its start, its memory, and the heartbeats of all of them.

    .venv/bin/python bench/kube_size.py                       # 10, 20 and 30 kB a Node, some minutes
    .venv/bin/python bench/kube_size.py --sizes 20 --nodes 1000 --seconds 10

For each size the lab's API server makes the Nodes, and one store of ours follows them under the daemon's control loop, in a
process of its own, without devices. Measured: from the first request to all leases known, what the server sent for it, the
process's memory; then, while each Node's status is written every 10 s, what the server sends, CPU time and how often the
process was woken. A second process goes through the same with something beside that takes every turn of the event loop:
the longest time for which nothing else had its turn, as CPU time of the thread and on the wall, at the start and then.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import uvloop
from kube_stores import cpu_s, follow, net_conf, rss_mb

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the API server is the tests'

from tests.apiserver.process import Server

settled_s = 2.0  # between the start and the heartbeats


class Probe:
    """Takes every turn that the event loop gives, and notes how long it had to wait for it; idle unless it is wanted."""

    def __init__(self, wanted: bool) -> None:
        self.cpu = self.wall = 0.0
        self._task = asyncio.create_task(self._tick()) if wanted else None

    async def _tick(self) -> None:
        cpu, wall = time.thread_time(), time.monotonic()
        while True:
            await asyncio.sleep(0)
            last_cpu, last_wall = cpu, wall
            cpu, wall = time.thread_time(), time.monotonic()
            self.cpu, self.wall = max(self.cpu, cpu - last_cpu), max(self.wall, wall - last_wall)

    def told(self) -> dict[str, float]:
        """Return the longest since the last time, in ms."""
        found = {"hold_cpu_ms": 1e3 * self.cpu, "hold_wall_ms": 1e3 * self.wall}
        self.cpu = self.wall = 0.0
        return found


async def one(nodes: int, directory: Path, probed: bool) -> None:
    """Be the daemon; print a line of figures when all leases are known, and one for each line read."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    bare = rss_mb(os.getpid())
    probe = Probe(probed)
    begun, cpu = time.monotonic(), time.process_time()
    follower = await follow(1, directory / "kubeconfig", directory / "net-conf.json")
    took, cpu = time.monotonic() - begun, time.process_time() - cpu
    follower.ask_for_life()
    assert len(follower.control.view.leases) == nodes
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    _print({"start_s": took, "start_cpu_s": cpu, "bare_mb": bare, "most_mb": most, **probe.told()})
    while line := await reader.readline():
        seconds = float(line)
        probe.told()
        begun, cpu, woken = time.monotonic(), time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw
        await asyncio.sleep(seconds)
        took = time.monotonic() - begun
        share = (time.process_time() - cpu) / took
        woken = resource.getrusage(resource.RUSAGE_SELF).ru_nvcsw - woken
        _print({"cpu": share, "woken": woken / took, "rss_mb": rss_mb(os.getpid()), **probe.told()})
    await follower.end()


def _print(found: Mapping[str, float]) -> None:
    print(json.dumps(found), flush=True)


def measure(
    server: Server, directory: Path, nodes: int, every_s: float, seconds: float, probed: bool
) -> dict[str, Any]:
    """Run one daemon through its start, a time of rest, and heartbeats."""
    words = (
        sys.executable,
        __file__,
        "--nodes",
        str(nodes),
        "--one",
        str(directory),
        *(["--probed"] if probed else []),
    )
    earlier = len(server.requests())
    daemon = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert daemon.stdin is not None and daemon.stdout is not None

    def sent() -> float:
        return sum(request["bytes"] for request in server.requests()[earlier:]) / 1e6

    def rest() -> dict[str, float]:
        print(seconds, file=daemon.stdin, flush=True)
        before, served = sent(), cpu_s(server.pid)
        found: dict[str, float] = json.loads(daemon.stdout.readline())  # type: ignore[union-attr]
        served = cpu_s(server.pid) - served
        return {**found, "mb_per_s": (sent() - before) / seconds, "server_cpu": served / seconds}

    try:
        start = {**json.loads(daemon.stdout.readline()), "sent_mb": sent()}
        time.sleep(settled_s)
        quiet = rest()
        server.pull("heartbeat", every_s=every_s, seconds=seconds + 2)
        return {"start": start, "quiet": quiet, "heartbeats": rest()}
    finally:
        daemon.kill()
        daemon.wait()


def show(size: int, nodes: int, plain: Mapping[str, Any], probed: Mapping[str, Any]) -> None:
    """Print one size."""
    start, held = plain["start"], probed["start"]
    print(
        f"{nodes:,} Nodes of {size} kB: ready after {start['start_s']:.2f} s ({start['start_cpu_s']:.2f} s CPU), "
        f"{start['sent_mb']:.1f} MB sent; memory {start['bare_mb']:.0f} MB before, {start['most_mb']:.0f} at most, "
        f"{plain['quiet']['rss_mb']:.0f} then; longest hold {held['hold_cpu_ms']:.0f} ms CPU, {held['hold_wall_ms']:.0f} wall"
    )
    for what in ("quiet", "heartbeats"):
        found, held = plain[what], probed[what]
        print(
            f"  {what:10}  CPU {100 * found['cpu']:.1f} %, woken {found['woken']:.0f} times a second, "
            f"{found['mb_per_s']:.2f} MB/s sent, memory {found['rss_mb']:.0f} MB; longest hold "
            f"{held['hold_cpu_ms']:.1f} ms CPU, {held['hold_wall_ms']:.0f} wall; server {100 * found['server_cpu']:.0f} % CPU",
            flush=True,
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nodes", type=int, default=5000)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10, 20, 30], metavar="KB", help="of a Node (10 20 30)")
    parser.add_argument("--every", type=float, default=10.0, help="seconds between two heartbeats of a Node (10)")
    parser.add_argument("--seconds", type=float, default=20.0, help="that each state is looked at (20)")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--one", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--probed", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        logging.disable()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(one(args.nodes, args.one, args.probed))
        return 0
    results: dict[int, Any] = {}
    for size in args.sizes:
        with tempfile.TemporaryDirectory() as text, Server(directory := Path(text)) as server:
            server.pull("fill", nodes=args.nodes, size=1000 * size)
            server.kubeconfig(directory / "kubeconfig")
            net_conf(directory)
            plain, probed = (
                measure(server, directory, args.nodes, args.every, args.seconds, probed) for probed in (False, True)
            )
        results[size] = {"plain": plain, "probed": probed}
        if not args.json:
            show(size, args.nodes, plain, probed)
    if args.json:
        print(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
