"""What a thousand daemons ask of a Kubernetes API server: in peace, and when it comes back after a minute.

    .venv/bin/python bench/kube_outage.py                   # 1,000 stores, about five minutes
    .venv/bin/python bench/kube_outage.py --stores 200 --steady 20 --outage 20 --case missed

The stores are ours, each of a Node of its own, in a few processes beside the lab's API server; each is watched and asked for
signs of life by the daemon's control loop. After a steady time the server is killed and started again, for each case:
"resumed": nothing was written while it was away, so that watches can go on; "missed": a Node was, so that the history of
the new server begins after what everybody has. Counted at the server, by the second since its process was started: requests
by kind (of reads also whether etcd has to be asked), bytes, and when each store had what the server has, a Node that
changed included. The machine has both sides and few processors: the times are an upper bound, the counts are not. For the same
reason the stores are of overlays of 50, by their prefixes of annotations: each is sent every Node, and has 50 leases.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import logging
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from statistics import median
from typing import Any

import uvloop
from kube_stores import Follower, cpu_s, follow, name_of, net_conf, rss_mb

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the API server is the tests'

from tests.apiserver.process import Server

cases = {"resumed": "nothing written while the server was away", "missed": "a Node changed while the server was away"}
node_bytes = 3_000  # small: 1,000 Nodes a thousand times are 3 GB
processes = 4
at_once = 5  # stores of each that start beside each other
shown_s = (*range(10), 10, 20, 30, 45, 60, 90, 120, 1 << 30)  # where rows of the table begin
overlay = 50  # stores that are of one
kinds = ("list quorum", "list cache", "get quorum", "get cache", "watch", "patch")


def prefix_of(number: int) -> str:
    """Return with what the annotations of a store's overlay begin."""
    return f"overlay-{number // overlay}.example/"


def mark(stores: int, public: str) -> dict[str, str]:
    """Return the annotations by which the last Node is of every overlay."""
    texts = {
        "kube-subnet-manager": "true",
        "backend-type": "vxlan",
        "backend-data": '{"VNI":1,"VtepMAC":"02:ff:00:00:00:01"}',
        "public-ip": public,
    }
    prefixes = {prefix_of(number) for number in range(1, stores + 1)}
    return {prefix + item: text for prefix in sorted(prefixes) for item, text in texts.items()}


# A process of stores


async def serve_stores(stores: int, first: int, directory: Path) -> None:
    """Be the stores from `first` on that are this process's; each line read asks when all have this address of the last Node, the answer is a line."""
    # Each daemon has its collector look through what it holds; here that would be what a thousand hold, each time.
    gc.disable()
    gc.collect = lambda *_: 0
    starting = asyncio.Semaphore(at_once)
    kubeconfig, conf = directory / "kubeconfig", directory / "net-conf.json"

    async def start(number: int) -> Follower:
        async with starting:
            return await follow(number, kubeconfig, conf, prefix_of(number))

    followers = await asyncio.gather(*(start(number) for number in range(first, stores + 1, processes)))
    for follower in followers:
        follower.ask_for_life()
        await asyncio.sleep(10.0 / len(followers))  # not all at one time of their ten seconds
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    print("ready", flush=True)
    while line := await reader.readline():
        asked = json.loads(line)
        before = sum(follower.state.events["store_errors"] for follower in followers)
        times = await _equal(followers, stores + 1, asked["address"], asked["limit_s"])
        after = sum(follower.state.events["store_errors"] for follower in followers)
        print(json.dumps({"times": times, "errors": after - before}), flush=True)
    await asyncio.gather(*(follower.end() for follower in followers))


async def _equal(followers: Iterable[Follower], last: int, wanted: str, limit_s: float) -> list[float]:
    """Return when each store that came to it had all leases, that of the last Node with this address."""
    key = f"10.{last >> 8}.{last & 255}.0-24"
    each = Counter(prefix_of(number) for number in range(1, last))
    left, times, end = list(followers), [], time.time() + limit_s
    while left and time.time() < end:
        still = []
        for follower in left:
            known = follower.control.view.leases
            lease = known.get(key)
            if len(known) == 1 + each[follower.prefix] and lease is not None and str(lease.attrs.public_ip) == wanted:
                times.append(time.time())
            else:
                still.append(follower)
        left = still
        await asyncio.sleep(0.05)
    return times


# The run


class Stores:
    """Those processes."""

    def __init__(self, stores: int, directory: Path) -> None:
        words = (sys.executable, __file__, "--stores", str(stores), "--serve", str(directory), "--first")
        self._processes = [
            subprocess.Popen((*words, str(first)), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            for first in range(1, processes + 1)
        ]
        assert self._lines() == ["ready\n"] * processes, "the stores did not start"

    def ask(self, wanted: str, limit_s: float) -> None:
        """Ask when all have this address of the last Node."""
        for process in self._processes:
            assert process.stdin is not None
            print(json.dumps({"address": wanted, "limit_s": limit_s}), file=process.stdin, flush=True)

    def answer(self) -> dict[str, Any]:
        """Wait for what was asked."""
        told = [json.loads(line) for line in self._lines()]
        times = itertools.chain.from_iterable(one["times"] for one in told)
        return {"times": sorted(times), "errors": sum(one["errors"] for one in told)}

    def cpu_s(self) -> float:
        """Return their CPU time so far."""
        return sum(cpu_s(process.pid) for process in self._processes)

    def rss_mb(self) -> float:
        """Return their memory."""
        return sum(rss_mb(process.pid) for process in self._processes)

    def end(self) -> None:
        """End them."""
        for process in self._processes:
            process.kill()
            process.wait()

    def _lines(self) -> list[str]:
        return [process.stdout.readline() for process in self._processes if process.stdout is not None]


def counted(requests: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Count requests by kind, and what was sent."""
    told = list(requests)
    counts = Counter(
        f"{request['verb']} {request['source']}" if request["verb"] in ("get", "list") else request["verb"]
        for request in told
    )
    found: dict[str, float] = {kind: counts.pop(kind, 0) for kind in kinds}
    return {**found, "other": counts.total(), "mb": sum(request["bytes"] for request in told) / 1e6}


def steady(server: Server, stores: Stores, count: int, seconds: float) -> dict[str, Any]:
    """Watch the peace."""
    begun, served, stored = time.time(), cpu_s(server.pid), stores.cpu_s()
    time.sleep(seconds)
    found = counted(request for request in server.requests() if request["time"] >= begun)
    return {
        "per store and minute": {kind: value * 60 / seconds / count for kind, value in found.items()},
        "cpu": {"server": (cpu_s(server.pid) - served) / seconds, "stores": (stores.cpu_s() - stored) / seconds},
        "stores_mb": stores.rss_mb(),
    }


def outage(server: Server, stores: Stores, count: int, case: str, seconds: float, limit_s: float) -> dict[str, Any]:
    """Kill the server, start it again, and watch until all is well."""
    name, wanted = name_of(count + 1), f"198.51.100.{1 + list(cases).index(case)}"
    server.kill()
    away = time.time()
    if case == "missed":
        _change_unseen(server, name, mark(count, wanted))
    time.sleep(max(0.0, away + seconds - time.time()))
    back, before = time.time(), stores.cpu_s()
    stores.ask(wanted, limit_s)
    server.start()
    if case == "resumed":
        server.annotate(name, mark(count, wanted))
    told = stores.answer()
    # Some come late, and those that failed come again.
    time.sleep(max(5.0, back + 30 - time.time()))
    took = time.time() - back
    requests = server.requests()
    by_second = {
        second: counted(request for request in requests if int(request["time"] - back) == second)
        for second in range(int(took) + 1)
    }
    times = [at - back for at in told["times"]]
    return {
        "case": case,
        "by second": {second: found for second, found in by_second.items() if any(found.values())},
        "sum": counted(requests),
        "most in a second": max(sum(found[kind] for kind in kinds) for found in by_second.values()),
        "equal": len(times),
        "median_s": median(times) if times else None,
        "last_s": times[-1] if times else None,
        "store errors": told["errors"],
        "observed_s": took,
        "cpu_s": {"server": cpu_s(server.pid), "stores": stores.cpu_s() - before},
    }


def _change_unseen(server: Server, name: str, annotations: Mapping[str, str]) -> None:
    """Write to a Node as another API server would while this one is away."""
    lines = server.journal.read_bytes().splitlines()
    last = next(entry for line in reversed(lines) if (entry := json.loads(line))["key"] == name)
    last["version"] = json.loads(lines[-1])["version"] + 1
    last["document"]["metadata"]["resourceVersion"] = str(last["version"])
    last["document"]["metadata"]["annotations"] |= annotations
    with server.journal.open("ab") as journal:
        journal.write(json.dumps(last).encode() + b"\n")


def show_steady(found: Mapping[str, Any], count: int) -> None:
    """Print it."""
    rates = ", ".join(f"{kind} {value:.2f}" for kind, value in found["per store and minute"].items() if value)
    shares = ", ".join(f"{name} {100 * share:.0f} %" for name, share in found["cpu"].items())
    print(
        f"steady, {count:,} stores; for each store and minute: {rates}; CPU: {shares}; {found['stores_mb']:.0f} MB",
        flush=True,
    )


def show_outage(found: Mapping[str, Any], count: int) -> None:
    """Print it."""
    print(
        f"\n{found['case']}: {cases[found['case']]}\nsecond      "
        + "".join(f"{kind:>12}" for kind in kinds)
        + "      MB"
    )
    for first, after in itertools.pairwise(shown_s):
        within = [told for second, told in found["by second"].items() if first <= second < after]
        if within:
            _row(
                f"{first}" if after == first + 1 else f"{first} …",
                {kind: sum(told[kind] for told in within) for kind in within[0]},
            )
    _row("sum", found["sum"])
    last = "none" if found["last_s"] is None else f"median {found['median_s']:.1f} s, last {found['last_s']:.1f} s"
    print(
        f"equal: {found['equal']:,} of {count:,}, {last}; most requests in a second: {found['most in a second']:,.0f}; "
        f"failures at the stores: {found['store errors']:,}; CPU in {found['observed_s']:.0f} s: "
        + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in found["cpu_s"].items()),
        flush=True,
    )


def _row(what: str, found: Mapping[str, float]) -> None:
    print(f"{what:12}" + "".join(f"{found[kind]:>12,.0f}" for kind in kinds) + f"{found['mb']:>8,.1f}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--stores", type=int, default=1000)
    parser.add_argument("--steady", type=float, default=60.0, help="seconds of peace (60)")
    parser.add_argument("--outage", type=float, default=60.0, help="seconds without a server (60)")
    parser.add_argument("--limit", type=float, default=120.0, help="seconds that the stores have afterwards (120)")
    parser.add_argument("--case", choices=list(cases), action="append", help="one of the two only")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        logging.disable()
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve_stores(args.stores, args.first, args.serve))
        return 0
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    results: dict[str, Any] = {"stores": args.stores}
    with tempfile.TemporaryDirectory() as text, Server(directory := Path(text)) as server:
        server.pull("fill", nodes=args.stores + 1, size=node_bytes)
        server.kubeconfig(directory / "kubeconfig")
        net_conf(directory)
        server.annotate(name_of(args.stores + 1), mark(args.stores, "198.51.100.250"))
        stores = Stores(args.stores, directory)
        try:
            if args.steady:
                results["steady"] = steady(server, stores, args.stores, args.steady)
                if not args.json:
                    show_steady(results["steady"], args.stores)
            for case in args.case or cases:
                results[case] = outage(server, stores, args.stores, case, args.outage, args.limit)
                if not args.json:
                    show_outage(results[case], args.stores)
        finally:
            stores.end()
    if args.json:
        print(json.dumps(results, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
