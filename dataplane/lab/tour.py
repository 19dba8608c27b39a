"""A tour of one cluster: every pod pings every other, then two pods move data both ways.

What must stay true: a tour goes on after a failure where it can, and names each one.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

from dataplane.lab.cluster import Kind, Lab, net_conf
from dataplane.lab.commands import LabError
from dataplane.lab.topology import Pod

Say = Callable[[str], None]


@dataclass(slots=True)
class Findings:
    """What the tour of one cluster found.

    Attributes:
        name, backend, kinds: which cluster it was, node by node.
        pings_ok, pings: ordered pairs of pods, per IP version, with every request answered, and all.
        rtt_ms: median over the pairs' averages.
        there_gbps, back_gbps: TCP payload from the first pod to the last, and the other way; None where it failed.
        drops: by reason, over all our daemons.
        failures: what did not work, in words.
        log: the end of the daemons' logs where something failed.
    """

    name: str
    backend: str
    kinds: tuple[Kind, ...]
    pings_ok: int = 0
    pings: int = 0
    rtt_ms: float | None = None
    there_gbps: float | None = None
    back_gbps: float | None = None
    drops: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    log: str = ""


def clusters(name: str, nodes: int) -> Findings:
    """Return empty findings for a cluster by name: udp and vxlan are ours alone, mixed is vxlan with a kernel node."""
    ours: list[Kind] = ["dataplane"] * nodes
    if name == "mixed":
        return Findings(name, "vxlan", (*ours[1:], "kernel"))
    return Findings(name, name, tuple(ours))


def tour(found: Findings, seconds: float, say: Say, linger: Callable[[Lab], None]) -> None:
    """Build the cluster that `found` describes, walk through it, and write down what was found.

    Args:
        seconds: of TCP in each direction.
        say: told in a line what is happening.
        linger: called with the cluster at the end, before it is removed.
    """
    with Lab(net_conf(found.backend, ipv6=True)) as lab:
        try:
            say(f"building {len(found.kinds)} nodes ({', '.join(found.kinds)}), a pod on each, IPv4 and IPv6")
            lab.start(*found.kinds)
            for node in lab.nodes:
                if node.net is not None:
                    say(f"  {node.label} {node.address} has {node.net.ipv4} and {node.net.ipv6}, MTU {node.net.mtu}")
            for version in (4, 6):
                _ping_all(lab, found, version, say)
            _move_data(lab, found, seconds, say)
        except LabError as error:
            found.failures.append(str(error))
        for daemon in lab.daemons:
            for reason, count in daemon.drops().items():
                found.drops[reason] = found.drops.get(reason, 0) + count
        if found.failures:
            found.log = lab.logs()
        linger(lab)


def _ping_all(lab: Lab, found: Findings, version: int, say: Say) -> None:
    averages = []
    pairs = list(permutations(lab.nodes, 2))
    good = 0
    for one, other in pairs:
        ping = one.pods[0].ping(other.pods[0], version, interval=0.01)
        if ping.ok and ping.rtt_ms is not None:
            good += 1
            averages.append(ping.rtt_ms)
        else:
            found.failures.append(
                f"ping over IPv{version} from {one.label}'s pod to {other.label}'s: "
                f"{ping.received} of {ping.sent} answered"
            )
    found.pings += len(pairs)
    found.pings_ok += good
    rtt = statistics.median(averages) if averages else None
    # Both versions take the same way; the table has room for one number.
    found.rtt_ms = rtt if version == 4 else found.rtt_ms
    shown = "" if rtt is None else f", {rtt:.2f} ms there and back (median)"
    say(f"IPv{version}: every pod pings every other: {good} of {len(pairs)} pairs answer{shown}")


def _move_data(lab: Lab, found: Findings, seconds: float, say: Say) -> None:
    first, last = lab.nodes[0], lab.nodes[-1]
    say(f"TCP for {seconds:g} s each way between {first.label}'s pod and {last.label}'s ({last.kind})")
    found.there_gbps = _tcp(first.pods[0], last.pods[0], seconds)
    say(f"  {first.label} to {last.label}: {found.there_gbps:.2f} Gbit/s")
    found.back_gbps = _tcp(first.pods[0], last.pods[0], seconds, reverse=True)
    say(f"  {last.label} to {first.label}: {found.back_gbps:.2f} Gbit/s")


def _tcp(one: Pod, other: Pod, seconds: float, **options: Any) -> float:
    gbps = one.iperf3(other, seconds=seconds, **options).gbps
    if gbps <= 0:
        raise LabError(f"TCP between {one.name} and {other.name} connected but moved no data")
    return gbps
