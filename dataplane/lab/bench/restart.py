"""The workload "restart": what a steady exchange between two pods loses while the daemon of node 1 is restarted.

It is restarted in each of three ways, each with an exchange of its own. The kernel's node of the lab has no daemon, and a
flanneld that restarts leaves the device alone: there nothing is restarted, and its figures are what the exchange itself
shows on this machine. What must stay true: only an exchange that came back gives figures; a daemon that is not the node's
any more has ended.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable

from dataplane.lab.bench.contestants import Contestant
from dataplane.lab.commands import LabError
from dataplane.lab.node import DaemonNode
from dataplane.lab.steady import Seen, Steady

interval_s = 0.002
idle_s = 1.5  # about what a start takes, where there is none
_end_limit_s = 30.0


def restart_and_watch(settle_s: float, contestant: Contestant) -> dict[str, float]:
    """Return figures for each way; raises `LabError` if the exchange does not come back.

    Args:
        settle_s: of exchange before the restart, and at least after it.
    """
    values: dict[str, float] = {}
    for way, restart in _ways.items():
        with Steady(*contestant.pods, interval_s=interval_s) as steady:
            time.sleep(settle_s)
            begun = time.monotonic()
            if contestant.lab.daemons:
                restart(contestant.lab.daemons[0], contestant)
            else:
                time.sleep(idle_s)
            # TCP that was silent for some time tries again after as long at most.
            time.sleep(max(settle_s, time.monotonic() - begun))
            values |= read_seen(way, _end(steady))
    return values


def _end(steady: Steady) -> Seen:
    try:
        return steady.stop()
    except (subprocess.TimeoutExpired, ValueError) as error:
        raise LabError(f"the exchange did not end as it should: {error}") from error


def read_seen(way: str, seen: Seen) -> dict[str, float]:
    """Return an exchange's figures by metric key; raises `LabError` if it did not survive."""
    if seen.tcp_broken:
        raise LabError(f"restart by {way}: the TCP connection broke: {seen.tcp_broken}")
    if not seen.sent or seen.sent - 1 in seen.lost:
        raise LabError(
            f"restart by {way}: the last of {seen.sent} datagrams was not answered, {len(seen.lost)} were lost"
        )
    return {
        f"restart_{way}_lost": float(len(seen.lost)),
        f"restart_{way}_udp": seen.silence_s * 1e3,
        f"restart_{way}_tcp": seen.tcp_silence_s * 1e3,
    }


def _take_over(node: DaemonNode, contestant: Contestant) -> None:
    before, node.process = node.process, None
    if before is None:
        raise LabError(f"the daemon of {node.label} was never started")
    try:
        node.start_daemon("--takeover", environment=contestant.environment)
        before.wait(_end_limit_s)
    except subprocess.TimeoutExpired:
        raise LabError(f"the daemon of {node.label} did not hand over:\n{node.log()[-2000:]}") from None
    finally:
        if before.poll() is None:
            before.kill()
            before.wait()
    node.wait_ready()


def _stop_and_start(node: DaemonNode, contestant: Contestant) -> None:
    node.stop_daemon()
    _start(node, contestant)


def _kill_and_start(node: DaemonNode, contestant: Contestant) -> None:
    node.kill_daemon()
    _start(node, contestant)


def _start(node: DaemonNode, contestant: Contestant) -> None:
    node.start_daemon(environment=contestant.environment)
    node.wait_ready()


_ways: dict[str, Callable[[DaemonNode, Contestant], None]] = {
    "takeover": _take_over,
    "sigterm": _stop_and_start,
    "sigkill": _kill_and_start,
}
