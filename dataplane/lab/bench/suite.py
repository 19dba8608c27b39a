"""The run: on each underlay, rounds in which every contestant does every workload, in a new random order each time.

What must stay true: all that is compared was measured in the same rounds; what fails is told and left out, never
filled in; nothing is measured over a daemon that another workload restarted; leaving ends every process and removes
every device.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial

from dataplane.bpf import calls
from dataplane.errors import DataplaneError, HostError
from dataplane.lab.bench.contestants import Contestant
from dataplane.lab.bench.metrics import Sample
from dataplane.lab.bench.quiet import Quiet
from dataplane.lab.bench.tools import Tools
from dataplane.lab.bench.underlays import kinds
from dataplane.lab.bench.workloads import Bench, Workload

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be measured: names out of `metrics.underlays`, `metrics.contestants` and `workloads.workloads`.

    Attributes:
        seed: of the random order.
        patience_s: how long a run waits at most, all in all, for others to leave the processors.
        installed: the Pythons of contestants that are other installations of ours, by name.
        restart_seconds: of exchange before a restart, and at least after it.
    """

    underlays: Sequence[str]
    contestants: Sequence[str]
    workloads: Sequence[Workload]
    rounds: int
    tcp_seconds: int
    tcp_warm_up_seconds: int
    udp_seconds: float
    rtt_seconds: float
    seed: int
    patience_s: float
    installed: Mapping[str, str] = field(default_factory=dict)
    restart_seconds: float = 0.5


class Suite:
    """One run of a plan.

    Attributes:
        samples, failures: fill up as it goes.
        left_out: what cannot be measured here at all, with the reason.
    """

    def __init__(self, plan: Plan, tools: Tools | None, say: Say) -> None:
        self.plan = plan
        self.samples: list[Sample] = []
        self.failures: list[str] = []
        self.left_out: list[str] = []
        self._dice = random.Random(plan.seed)
        self._say = say
        allowed = sorted(os.sched_getaffinity(0))
        self._all_cpus = set(allowed)
        self._bench = Bench(
            tools,
            (allowed[0], allowed[-1]),
            plan.tcp_seconds,
            plan.tcp_warm_up_seconds,
            plan.udp_seconds,
            plan.rtt_seconds,
            plan.restart_seconds,
        )
        self._quiet = Quiet(plan.patience_s)

    def run(self) -> None:
        """Measure everything; a failure of one contestant does not keep the others from going on."""
        self._leave_out()
        lasting = [workload for workload in self.plan.workloads if not workload.disrupts]
        for underlay in self.plan.underlays:
            self._run_on(underlay, lasting)
        for underlay in self.plan.underlays[:1]:
            self._run_on(underlay, [workload for workload in self.plan.workloads if workload.disrupts])

    def _run_on(self, underlay: str, workloads: Sequence[Workload]) -> None:
        names = [name for name in self.plan.contestants if any(name not in each.without for each in workloads)]
        if not names:
            return
        with ExitStack() as stack:
            self._say(f"underlay {underlay}: setting up {', '.join(names)}")
            standing = self._set_up(underlay, names, stack)
            for number in range(1, self.plan.rounds + 1):
                self._round(underlay, number, workloads, standing)
            for contestant in standing:
                drops = contestant.drops()
                if drops:
                    told = ", ".join(f"{count} {reason}" for reason, count in sorted(drops.items()))
                    self._say(f"{underlay}: {contestant.name} dropped {told}")

    def _leave_out(self) -> None:
        plan = self.plan
        if self._bench.tools is None:
            self.left_out.append("UDP, round trips and the plain forwarder: the programs of bench/ are not there")
            plan = replace(
                plan,
                contestants=[name for name in plan.contestants if name != "plain"],
                workloads=[workload for workload in plan.workloads if not workload.needs_tools],
            )
        if "wire" in plan.underlays:
            try:
                calls.check(calls.xdp_driver, calls.redirecting(calls.Helper.redirect, 1))
            except HostError as error:
                self.left_out.append(f"the underlay wire: {error}")
                plan = replace(plan, underlays=[name for name in plan.underlays if name != "wire"])
        self.plan = plan
        for text in self.left_out:
            self._say(f"LEFT OUT: {text}")

    def _set_up(self, underlay: str, names: Sequence[str], stack: ExitStack) -> list[Contestant]:
        standing = []
        for name in names:
            try:
                python = self.plan.installed.get(name, "")
                contestant = Contestant(name, kinds[underlay](), self._bench.tools, python)
            except DataplaneError as error:
                self._fail(f"{underlay}: {name} did not come up: {error}")
                continue
            stack.callback(contestant.close)
            standing.append(contestant)
        return standing

    def _round(self, underlay: str, number: int, workloads: Sequence[Workload], standing: Sequence[Contestant]) -> None:
        for workload in workloads:
            taking_part = [contestant for contestant in standing if contestant.name not in workload.without]
            order = self._dice.sample(taking_part, len(taking_part))
            shown = []
            for contestant in order:
                values = self._measure(underlay, number, contestant, workload)
                if values:
                    shown.append(f"{contestant.name} {next(iter(values.values())):.4g}")
            self._say(f"{underlay} round {number}/{self.plan.rounds} {workload.key}: {', '.join(shown)}")

    def _measure(self, underlay: str, number: int, contestant: Contestant, workload: Workload) -> dict[str, float]:
        one, other = self._bench.cpus
        try:
            contestant.place(({one}, {other}) if workload.pinned else (self._all_cpus, self._all_cpus))
            values, quiet = self._quiet.measure(partial(workload.run, self._bench, underlay, contestant))
        except DataplaneError as error:
            self._fail(f"{underlay} round {number}: {workload.key} over {contestant.name}: {error}")
            return {}
        self.samples += [
            Sample(underlay, contestant.name, key, number, value, not quiet) for key, value in values.items()
        ]
        return values

    def _fail(self, text: str) -> None:
        self.failures.append(text)
        self._say(f"FAILED: {text}")
