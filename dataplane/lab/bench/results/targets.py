"""The targets: what our vxlan must reach beside the kernel's, and beside the plain forwarder, on each underlay."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from dataplane.lab.bench.growth import Row, few
from dataplane.lab.bench.metrics import metrics, underlays
from dataplane.lab.bench.results.stats import Cell, Summary

ours = "dataplane"
dearest = 1.05  # a packet among 10,000 peers beside one among 2


@dataclass(frozen=True, slots=True)
class Target:
    """A bound for a ratio of medians (or, without `beside`, for the median itself).

    Attributes:
        least: the bound is a lower one.
        once: it is measured on one underlay of a run only, and gives no verdict on the others.
    """

    metric: str
    beside: str | None
    bounds: Mapping[str, float]
    least: bool = True
    once: bool = False


def _everywhere(bound: float) -> dict[str, float]:
    return dict.fromkeys(underlays, bound)


targets = (
    Target("tcp1", "kernel", {"offloads": 0.65, "segmenting": 0.85, "wire": 0.80}),
    Target("tcp4", "kernel", {"offloads": 0.30, "segmenting": 0.55, "wire": 0.80}),
    Target("udp64", "kernel", _everywhere(1.3)),
    Target("rtt_p50", "kernel", _everywhere(2.5), least=False),
    Target("tcp1", "plain", _everywhere(4.5)),
    Target("udp64", "plain", _everywhere(2.0)),
    Target("udp64_twice", None, _everywhere(0.8)),
    Target("restart_takeover_lost", None, _everywhere(0), least=False, once=True),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target on one underlay and what was measured.

    Attributes:
        value: None where something was not measured, or only while others used the processors.
    """

    underlay: str
    title: str
    wanted: str
    value: float | None
    reached: bool | None


def judge(summaries: Mapping[Cell, Summary]) -> list[Verdict]:
    """Compare the medians with every target of the underlays that were measured."""
    measured = [underlay for underlay in underlays if any(cell[0] == underlay for cell in summaries)]
    return [
        _verdict(summaries, target, underlay)
        for target in targets
        for underlay in measured
        if not target.once or (underlay, ours, target.metric) in summaries
    ]


def _verdict(summaries: Mapping[Cell, Summary], target: Target, underlay: str) -> Verdict:
    bound = target.bounds[underlay]
    title = metrics[target.metric].title + (f" ÷ {target.beside}'s" if target.beside else "")
    wanted = f"{'≥' if target.least else '≤'} {bound:.2f}"
    value = _value(summaries, target, underlay)
    if value is None:
        return Verdict(underlay, title, wanted, None, None)
    return Verdict(underlay, title, wanted, value, value >= bound if target.least else value <= bound)


def _value(summaries: Mapping[Cell, Summary], target: Target, underlay: str) -> float | None:
    own = summaries.get((underlay, ours, target.metric))
    if own is None or own.disturbed:
        return None
    if target.beside is None:
        return own.median
    base = summaries.get((underlay, target.beside, target.metric))
    if base is None or base.disturbed or base.median == 0:
        return None
    return own.median / base.median


def judge_growth(rows: Sequence[Row]) -> list[Verdict]:
    """Compare with the target: a packet among 10,000 peers costs at most 5 % more than among 2."""
    verdicts = []
    for row in rows:
        if row.judged:
            value = None if row.disturbed else row.ratio
            title = f"{row.label} ÷ {few} {row.group.split(': ', 1)[1]}: {row.group.split(': ')[0]}, ns"
            verdicts.append(
                Verdict("none", title, f"≤ {dearest:.2f}", value, None if value is None else value <= dearest)
            )
    return verdicts
