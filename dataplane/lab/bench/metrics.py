"""What is measured: every metric's key, title, unit and direction, and the sample that carries one value.

What must stay true: keys are the JSON's and other people's scripts'; a key never changes its unit.
"""

from __future__ import annotations

from dataclasses import dataclass

underlays = {
    "offloads": "all offloads on: nothing is segmented or checksummed, which flatters the kernel",
    "segmenting": "tx segmentation off at both ends: packets are cut before the wire",
    "wire": "metadata-free wire: every packet crosses an XDP redirect, as over a plain NIC",
}
contestants = {
    "kernel": "the kernel's vxlan, set up as flannel does",
    "bare": "no tunnel: plain routes on the underlay, as host-gw",
    "dataplane": "ours, vxlan",
    "dataplane-udp": "ours, udp",
    "plain": "one packet per system call, as flannel's udp proxy",
    "dataplane-kernel": "ours with --datapath=kernel, for the restart alone: the kernel's vxlan goes on while the daemon restarts",
}
anchor = "kernel"
streams = (1, 4, 16)
payloads = (64, 1400)
restarts = {"takeover": "takeover", "sigterm": "SIGTERM, start", "sigkill": "SIGKILL, start"}


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the tables.

    Attributes:
        digits: after the point, where it is shown.
        higher: more is better.
    """

    key: str
    title: str
    unit: str
    digits: int
    higher: bool


@dataclass(frozen=True, slots=True)
class Sample:
    """One value of one metric, from one round; `disturbed`: others used the processors just before or after."""

    underlay: str
    contestant: str
    metric: str
    round: int
    value: float
    disturbed: bool = False


def _tcp(count: int, back: bool) -> list[Metric]:
    key = f"tcp{count}" + ("_back" if back else "")
    title = f"TCP {count} stream{'s' if count > 1 else ''}" + (" back" if back else "")
    return [
        Metric(key, title, "Gbit/s", 2, True),
        Metric(f"{key}_cpu", f"{title}, CPU", "s/GB", 2, False),
    ]


def _udp(size: int) -> list[Metric]:
    return [
        Metric(f"udp{size}", f"UDP {size} B, < 0.5 % loss", "kpps", 0, True),
        Metric(f"udp{size}_cpu", f"UDP {size} B, CPU", "s/Mpkt", 2, False),
        Metric(f"udp{size}_twice", f"UDP {size} B offered twice, carried", "of peak", 2, True),
    ]


def _restart(way: str, shown: str) -> list[Metric]:
    title = f"restart (kernel: of nothing), {shown}"
    return [
        Metric(f"restart_{way}_lost", f"{title}: lost", "datagrams", 0, False),
        Metric(f"restart_{way}_udp", f"{title}: UDP silent", "ms", 1, False),
        Metric(f"restart_{way}_tcp", f"{title}: TCP silent", "ms", 1, False),
    ]


metrics: dict[str, Metric] = {
    metric.key: metric
    for metric in (
        *(metric for back in (False, True) for count in streams for metric in _tcp(count, back)),
        *(metric for size in payloads for metric in _udp(size)),
        Metric("rtt_p50", "round trip p50", "µs", 1, False),
        Metric("rtt_p99", "round trip p99", "µs", 1, False),
        *(metric for way, shown in restarts.items() for metric in _restart(way, shown)),
    )
}
