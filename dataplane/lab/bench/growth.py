"""Growth: what one packet costs as a cluster grows, with more peers, more flows, mixed sizes, tables replaced under load.

Runs the program growth (bench/growth.c says what is in a figure and what is not) once for every case in each round, in a
new random order each time. What must stay true: a ratio is taken within a round, to the case that its group begins with;
a case that lost a packet is a failure and gives no figure.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from statistics import median
from typing import Any

from dataplane.lab.bench.quiet import Quiet

many, few = 10_000, 2
_sides = {
    ("send", "kernel"): "send with sendmmsg",
    ("send", "core"): "send, own code alone",
    ("receive", "core"): "receive, own code alone",
}
_churn_factor = 5  # packets of a run under new tables, so that some tens of tables fall into it
_timeout_s = 120


@dataclass(frozen=True, slots=True)
class Case:
    """The program's arguments, by its names."""

    way: str
    edge: str
    peers: int
    busy: int
    flows: int
    size: str
    single: bool = False
    one: bool = False
    churn: bool = False

    def words(self, packets: int) -> list[str]:
        """Return the arguments for a run of `packets`."""
        flags = [name for name, on in (("single", self.single), ("one", self.one), ("churn", self.churn)) if on]
        numbers = (self.peers, self.busy, self.flows, self.size, self.edge)
        return [self.way, *map(str, numbers), str(packets * (_churn_factor if self.churn else 1)), *flags]


@dataclass(frozen=True, slots=True)
class Group:
    """Cases by label, the first of which is what the others are compared with; `judged`: `many` must reach the target."""

    title: str
    cases: dict[str, Case]
    judged: bool = False


@dataclass(frozen=True, slots=True)
class Cost:
    """One run of a case; `tables`: published per second, 0 without churn."""

    case: Case
    round: int
    ns: float
    tables: float
    disturbed: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """A case in its group: ns per packet and the median of the ratios to the group's first case in the same rounds.

    Attributes:
        disturbed: others used the processors around every round.
    """

    group: str
    label: str
    ns: float
    low: float
    high: float
    ratio: float
    tables: float
    judged: bool
    disturbed: bool


def groups(quick: bool) -> list[Group]:
    """Return all that is measured; quick leaves out what lies between the extremes."""
    counts = (few, many) if quick else (few, 100, 1_000, many)
    found = []
    for (way, edge), name in _sides.items():
        base = Case(way, edge, few, few, 1, "64")
        table = {f"{n:,}": replace(base, peers=n) for n in counts}
        busy = {label: replace(case, busy=case.peers) for label, case in table.items()}
        judged = edge == "kernel" or way == "receive"
        found.append(Group(f"{name}, 64 B: peers, 2 of them busy", table, judged))
        found.append(Group(f"{name}, 64 B: peers, all busy", busy, judged))
        if way == "send":
            # The same number of messages and of calls, however many peers there are.
            alone = {label: replace(case, single=True, flows=256) for label, case in busy.items()}
            one = {label: replace(case, one=True) for label, case in alone.items()}
            found.append(Group(f"{name}, 64 B: peers, all busy, no trains", alone, judged))
            found.append(Group(f"{name}, 64 B: peers, all busy, no trains, one underlay address", one, judged))
        flows = (1, 256) if quick else (1, 4, 16, 64, 256)
        found.append(Group(f"{name}, 64 B, 2 peers: flows to each", {str(n): replace(base, flows=n) for n in flows}))
        for size in ("1400", "mix"):
            ends = {f"{n:,}": replace(base, peers=n, busy=n, size=size) for n in (few, many)}
            found.append(Group(f"{name}, {'64 to 1400' if size == 'mix' else size} B: peers, all busy", ends))
        still = busy[f"{many:,}"]
        churn = {"left alone": still, "100 a second": replace(still, churn=True)}
        found.append(Group(f"{name}, 64 B, {many:,} peers, all busy: new tables", churn))
    for way in ("send", "receive"):
        sizes = {size: Case(way, "load", few, few, 1, size) for size in ("64", "1400", "mix")}
        found.append(Group(f"{way}: the load alone, in every figure: bytes", sizes))
    return found


def summarise(found: Sequence[Group], costs: Sequence[Cost]) -> list[Row]:
    """Return the groups' rows; disturbed rounds count only where there are no others, and what has no base is left out."""
    used = [cost for cost in costs if not cost.disturbed] or costs
    disturbed = all(cost.disturbed for cost in used)
    by_case: dict[Case, dict[int, Cost]] = {}
    for cost in used:
        by_case.setdefault(cost.case, {})[cost.round] = cost
    rows = []
    for group in found:
        base = by_case.get(next(iter(group.cases.values())), {})
        for label, case in group.cases.items():
            own = by_case.get(case, {})
            ratios = [cost.ns / base[number].ns for number, cost in own.items() if number in base]
            if not ratios:
                continue
            values, tables = [cost.ns for cost in own.values()], [cost.tables for cost in own.values()]
            judged = group.judged and case.peers == many
            spread = (median(values), min(values), max(values))
            rows.append(Row(group.title, label, *spread, median(ratios), median(tables), judged, disturbed))
    return rows


@dataclass(slots=True)
class Growth:
    """One run; `costs` and `failures` fill up as it goes.

    Attributes:
        program: the path of growth.
        packets: of each case.
        seed: of the random order.
        patience_s: how long it waits at most for others to leave the processors.
    """

    program: str
    groups: Sequence[Group]
    rounds: int
    packets: int
    seed: int
    patience_s: float
    say: Callable[[str], None]
    costs: list[Cost] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Measure everything; a failure of one case does not keep the others from going on."""
        cases = list(dict.fromkeys(case for group in self.groups for case in group.cases.values()))
        dice, quiet = random.Random(self.seed), Quiet(self.patience_s)
        for number in range(1, self.rounds + 1):
            order = dice.sample(cases, len(cases))
            costs, undisturbed = quiet.measure(partial(self._round, number, order))
            self.costs += [replace(cost, disturbed=not undisturbed) for cost in costs]
            self.say(f"growth round {number}/{self.rounds}: {len(costs)} of {len(cases)} cases")

    def document(self) -> dict[str, Any]:
        """Return what goes into the JSON."""
        return {
            "rounds": self.rounds,
            "packets": self.packets,
            "samples": [asdict(cost) for cost in self.costs],
            "summaries": [asdict(row) for row in summarise(self.groups, self.costs)],
        }

    def _round(self, number: int, order: Sequence[Case]) -> list[Cost]:
        measured = (self._measure(number, case) for case in order)
        return [cost for cost in measured if cost]

    def _measure(self, number: int, case: Case) -> Cost | None:
        words = case.words(self.packets)
        try:
            done = subprocess.run(
                [self.program, *words], capture_output=True, text=True, check=False, timeout=_timeout_s
            )
        except subprocess.TimeoutExpired:
            self._fail(f"growth {' '.join(words)}: not done after {_timeout_s} s")
            return None
        if done.returncode != 0:
            told = (done.stdout + done.stderr).strip()
            self._fail(f"growth {' '.join(words)}: exit code {done.returncode} (ns, lost, tables/s: {told})")
            return None
        ns, _, tables = done.stdout.split()
        return Cost(case, number, float(ns), float(tables))

    def _fail(self, text: str) -> None:
        self.failures.append(text)
        self.say(f"FAILED: {text}")
