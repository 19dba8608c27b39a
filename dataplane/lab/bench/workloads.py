"""The workloads: TCP streams, paced UDP, ping-pong; each run between two pods, its answers read into values.

CPU time is the whole machine's (/proc/stat), so it counts the kernel's share of the work wherever that is done, and
whatever else the machine does meanwhile. What must stay true: every run is bounded in time and ends its processes.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from dataplane.lab.bench.contestants import Contestant
from dataplane.lab.bench.metrics import payloads, streams
from dataplane.lab.bench.quiet import busy_seconds
from dataplane.lab.bench.restart import restart_and_watch
from dataplane.lab.bench.search import Step, search
from dataplane.lab.bench.tools import Tools
from dataplane.lab.commands import CommandFailed, LabError, inside_of
from dataplane.lab.topology import Pod

_iperf_port = "5201"
_load_port = "9000"
_first_rate = 300_000.0


@dataclass(slots=True)
class Bench:
    """What the workloads share.

    Attributes:
        cpus: the processors of node 1 and of node 2 for pinned work.
        tcp_seconds, udp_seconds, rtt_seconds: of each run, of each step of a search, of ping-pong.
        tcp_warm_up_seconds: before a TCP run counts: TCP is finding its rate.
        restart_seconds: of exchange before a restart, and at least after it.
        peaks: the last peak found, packets per second, where the next search begins.
    """

    tools: Tools | None
    cpus: tuple[int, int]
    tcp_seconds: int = 1
    tcp_warm_up_seconds: int = 1
    udp_seconds: float = 0.4
    rtt_seconds: float = 0.5
    restart_seconds: float = 0.5
    peaks: dict[tuple[str, str, int], float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Workload:
    """One kind of work.

    Attributes:
        pinned: node 1's processes on one processor, node 2's on the other; otherwise the scheduler places them.
        run: returns values by metric key.
        disrupts: it restarts what it measures, so it has labs of its own, on the run's first underlay alone: which one
            that is makes no difference to it.
        without: contestants that have no part in it.
    """

    key: str
    pinned: bool
    needs_tools: bool
    run: Callable[[Bench, str, Contestant], dict[str, float]]
    disrupts: bool = False
    without: tuple[str, ...] = ("dataplane-kernel",)


def run_tcp(count: int, back: bool, bench: Bench, underlay: str, contestant: Contestant) -> dict[str, float]:
    """Move data with iperf3 from pod to pod over `count` streams, or back; node 1 is the client."""
    client, server = contestant.pods
    words = ["iperf3", "-c", server.address, "-p", _iperf_port, "-t", str(bench.tcp_seconds), "-J", "-P", str(count)]
    words += ["-O", str(bench.tcp_warm_up_seconds), "--connect-timeout", "3000", *(["-R"] if back else [])]
    with _serving(server, bench.cpus[1], "iperf3", "-s", "-1", "-p", _iperf_port, "--forceflush"):
        before = busy_seconds()
        limit_s = bench.tcp_warm_up_seconds + bench.tcp_seconds + 10
        text = _finish(_start(client, bench.cpus[0], *words), limit_s)
        spent = busy_seconds() - before
    gbps, payload_bytes = read_iperf3(text)
    key = f"tcp{count}" + ("_back" if back else "")
    return {key: gbps, f"{key}_cpu": spent / (payload_bytes / 1e9)}


def read_iperf3(text: str) -> tuple[float, float]:
    """Return 10^9 bit/s after the warm-up, and all bytes with it, from iperf3's JSON; raises `LabError` with what it said instead."""
    try:
        document: dict[str, Any] = json.loads(text)
        if document.get("error"):
            raise LabError(f"iperf3: {document['error']}")
        total = document["end"]["sum_received"]
        gbps = total["bits_per_second"] / 1e9
        payload_bytes = float(sum(interval["sum"]["bytes"] for interval in document["intervals"]))
    except (ValueError, KeyError, TypeError) as error:
        raise LabError(f"iperf3 gave no result ({error}): {text[-300:]!r}") from None
    if payload_bytes <= 0:
        raise LabError("iperf3 connected but moved no data")
    return gbps, payload_bytes


def run_udp(size: int, bench: Bench, underlay: str, contestant: Contestant) -> dict[str, float]:
    """Search the highest rate of `size`-byte datagrams with next to no loss, then offer twice that."""
    measure = partial(_udp_step, bench, contestant, size)
    memory = (underlay, contestant.name, size)
    best = search(measure, bench.peaks.get(memory, _first_rate))
    if best is None:
        return {f"udp{size}": 0.0}
    bench.peaks[memory] = best.received
    twice = measure(best.received * 2)
    return {
        f"udp{size}": best.received / 1e3,
        f"udp{size}_cpu": best.cpu_s / (best.packets / 1e6),
        f"udp{size}_twice": twice.received / best.received,
    }


def _udp_step(bench: Bench, contestant: Contestant, size: int, rate: float) -> Step:
    source, sink = contestant.pods
    program = _tools(bench).udpload
    with _serving(sink, None, program, "receive", _load_port) as receiver:
        before = busy_seconds()
        words = (program, "send", sink.address, _load_port, str(size), f"{rate:.0f}", f"{bench.udp_seconds:g}")
        sent = json.loads(_finish(_start(source, None, *words), bench.udp_seconds + 5))
        spent = busy_seconds() - before
        received = json.loads(_finish(receiver, 5))
    return read_step(rate, sent, received, spent)


def read_step(rate: float, sent: dict[str, Any], received: dict[str, Any], cpu_s: float) -> Step:
    """Combine what the two ends of udpload said; both rates are over the sender's time."""
    seconds = sent["seconds"]
    return Step(rate, sent["packets"] / seconds, received["packets"] / seconds, cpu_s, received["packets"])


def run_rtt(bench: Bench, underlay: str, contestant: Contestant) -> dict[str, float]:
    """Let one 64-byte datagram at a time go there and back."""
    source, sink = contestant.pods
    program = _tools(bench).udpload
    with _serving(sink, None, program, "pong", _load_port):
        words = (program, "ping", sink.address, _load_port, "64", f"{bench.rtt_seconds:g}")
        found = json.loads(_finish(_start(source, None, *words), bench.rtt_seconds + 5))
    return {"rtt_p50": found["p50_us"], "rtt_p99": found["p99_us"]}


def run_restart(bench: Bench, underlay: str, contestant: Contestant) -> dict[str, float]:
    """Restart the daemon of node 1 in every way, while the pods talk."""
    return restart_and_watch(bench.restart_seconds, contestant)


def _tools(bench: Bench) -> Tools:
    if bench.tools is None:
        raise LabError("this workload needs the load generator, which is not there")
    return bench.tools


def _start(pod: Pod, cpu: int | None, *words: str) -> subprocess.Popen[str]:
    pinned = words if cpu is None else ("taskset", "-c", str(cpu), *words)
    return subprocess.Popen(
        inside_of(pod.name, pinned),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def _finish(process: subprocess.Popen[str], limit_s: float) -> str:
    try:
        text, _ = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise CommandFailed(f"{process.args!r}: no end within {limit_s:g} s") from None
    if process.returncode != 0:
        raise CommandFailed(f"{process.args!r}: exit code {process.returncode}: {text[-300:]}")
    return text


@contextmanager
def _serving(pod: Pod, cpu: int | None, *words: str) -> Iterator[subprocess.Popen[str]]:
    """A command that waits for its partner; begins when it says so, ends with the block."""
    process = _start(pod, cpu, *words)
    try:
        seen = []
        for line in process.stdout or ():
            seen.append(line.strip())
            if line.startswith(("ready", "Server listening")):
                break
        else:
            raise CommandFailed(f"{' '.join(words)} did not start: {'; '.join(seen)}")
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


workloads: dict[str, Workload] = {
    workload.key: workload
    for workload in (
        *(
            Workload(f"tcp{count}" + ("_back" if back else ""), True, False, partial(run_tcp, count, back))
            for back in (False, True)
            for count in streams
        ),
        *(Workload(f"udp{size}", False, True, partial(run_udp, size)) for size in payloads),
        Workload("rtt", False, True, run_rtt),
        Workload("restart", False, False, run_restart, disrupts=True, without=("bare", "plain")),
    )
}
