"""`dataplane bench`: measures every datapath beside the kernel's in one interleaved run, or compares two results.

Exit code 0 if nothing failed, whatever the figures are; 1 if a contestant or a run failed; 130 after Ctrl-C. With
--compare: 0 unless something is shown to be worse, then 1.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from dataplane.lab.bench.growth import Growth, Row
    from dataplane.lab.bench.metrics import Sample
    from dataplane.lab.bench.suite import Plan, Suite
    from dataplane.lab.bench.tools import Tools

_quick_contestants = ("kernel", "dataplane", "plain")
_quick_workloads = ("tcp1", "tcp4", "udp64", "rtt")
_quick_underlays = ("segmenting",)
_default_rounds = 5
_quick_rounds = 2
_growth = "growth"
_growth_rounds = 9
_report_name = "report.html"


def add_parser(subparsers: Any) -> None:
    """Set up the parser of `dataplane bench`."""
    parser = subparsers.add_parser(
        "bench",
        help="throughput, packet rate, latency and CPU cost beside the kernel's",
        description="Measure our data planes, the kernel's vxlan, plain routes and a one-packet-per-syscall forwarder, "
        "interleaved in one run, in private namespaces. Medians, spread, ratios; JSON; a report page with plots.",
    )
    parser.add_argument("--quick", action="store_true", help="under a minute: fewer underlays, contestants and rounds")
    parser.add_argument(
        "--json", metavar="FILE", help="write machine, commit, options and every sample to FILE (-: stdout)"
    )
    parser.add_argument("--output", metavar="DIR", help=f"write results.json and {_report_name} to DIR")
    parser.add_argument(
        "--rounds",
        type=_rounds,
        metavar="N",
        help=f"rounds (default: {_default_rounds}, growth {_growth_rounds}; with --quick {_quick_rounds})",
    )
    parser.add_argument(
        "--underlay", action="append", metavar="NAME", help="offloads, segmenting or wire; may be repeated"
    )
    parser.add_argument(
        "--only",
        action="append",
        metavar="NAME",
        help="a contestant (kernel, bare, …), a workload (tcp1, udp64, restart, …) or growth",
    )
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the random order (default: 1)")
    parser.add_argument(
        "--compare", nargs=2, metavar=("OLD", "NEW"), help="compare two JSON results instead of measuring"
    )
    parser.set_defaults(error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Run the benchmarks or the comparison; raises `HostError` where no lab can be made."""
    if args.compare:
        return _compare(*args.compare)
    plan = _plan(args)
    from dataplane.lab import enclosure

    enclosure.ensure()
    return _Run(args, plan).run()


def _compare(old_path: str, new_path: str) -> int:
    from dataplane.lab.bench.results.compare import by_chance, compare
    from dataplane.lab.bench.results.document import read

    old, new = read(old_path), read(new_path)
    for name, found in (("old", old), ("new", new)):
        print(f"{name}: {found.path}, {found.context['started']}, commit {found.context['commit']}")
    for key in ("machine", "options"):
        if old.context[key] != new.context[key]:
            print(f"note: the two runs differ in their {key}: {old.context[key]} and {new.context[key]}")
    rows = compare(old, new)
    if not rows:
        print("dataplane bench: the two results have nothing in common", file=sys.stderr)
        return 1
    print("each sample is taken relative to the kernel's of the same round where that was measured\n")
    for row in rows:
        print(row)
    worse = sum(row.outcome == "worse" for row in rows)
    better = sum(row.outcome == "better" for row in rows)
    print(f"\n{worse} worse, {better} better, of {len(rows)}; chance alone would show up to {by_chance(rows):.1f}")
    return 1 if worse else 0


class _Run:
    """One run: what was asked, and where its words go."""

    def __init__(self, args: argparse.Namespace, plan: Plan) -> None:
        self._args = args
        self._plan = plan
        self._out = sys.stderr if args.json == "-" else sys.stdout
        self._start = time.monotonic()

    def run(self) -> int:
        from dataplane.lab.bench.growth import summarise
        from dataplane.lab.bench.results import document
        from dataplane.lab.bench.suite import Suite
        from dataplane.lab.node import check_tun

        check_tun()
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self._introduce()
        tools = self._tools()
        suite = Suite(self._plan, tools, self._say)
        grown = self._growth(tools)
        interrupted = False
        try:
            if grown:
                grown.run()
            suite.run()
        except KeyboardInterrupt:
            self._say("interrupted; everything is being removed, and what was measured is shown")
            interrupted = True
        failures = [*(grown.failures if grown else []), *suite.failures]
        found = document.compose(
            suite.samples,
            failures,
            self._options(),
            started,
            time.monotonic() - self._start,
            suite.left_out,
            grown,
        )
        costs = summarise(grown.groups, grown.costs) if grown else []
        self._show(suite, costs)
        self._write(found, suite.samples, costs)
        for failure in failures:
            print(f"FAILED: {failure}", file=sys.stderr)
        if interrupted:
            return 130
        return 1 if failures else 0

    def _growth(self, tools: Tools | None) -> Growth | None:
        if self._args.only and _growth not in self._args.only:
            return None
        if not tools:
            self._say("LEFT OUT: growth, which is measured by a program of bench/")
            return None
        from dataplane.lab.bench.growth import Growth, groups

        quick = self._args.quick
        return Growth(
            tools.growth,
            groups(quick),
            self._args.rounds or (_quick_rounds if quick else _growth_rounds),
            packets=40_000 if quick else 200_000,
            seed=self._args.seed,
            patience_s=2 if quick else 60,
            say=self._say,
        )

    def _tools(self) -> Tools | None:
        from dataplane.lab.bench import tools

        try:
            return tools.build()
        except tools.ToolsMissing as error:
            self._say(f"the programs of bench/ are not there: {error}")
            return None

    def _introduce(self) -> None:
        plan = self._plan
        if not plan.underlays:
            return
        print(
            "Two nodes and a pod on each, for every contestant, in a private enclosure; the host's network is not touched.\n"
            "TCP is pinned (node 1 with its pod on one processor, node 2 on another), UDP and round trips are not.\n"
            f"{'Quick: these figures are indications. ' if self._args.quick else ''}"
            f"Rounds: {plan.rounds}. Underlays: {', '.join(plan.underlays)}. "
            f"Contestants: {', '.join(plan.contestants)}.\n",
            file=self._out,
            flush=True,
        )

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._start:6.1f} s  {text}", file=self._out, flush=True)

    def _options(self) -> dict[str, Any]:
        plan = self._plan
        return {
            "quick": self._args.quick,
            "rounds": plan.rounds,
            "underlays": list(plan.underlays),
            "contestants": list(plan.contestants),
            "workloads": [workload.key for workload in plan.workloads],
            "pinned": [workload.key for workload in plan.workloads if workload.pinned],
            "tcp_seconds": plan.tcp_seconds,
            "tcp_warm_up_seconds": plan.tcp_warm_up_seconds,
            "udp_seconds": plan.udp_seconds,
            "rtt_seconds": plan.rtt_seconds,
            "restart_seconds": plan.restart_seconds,
            "seed": plan.seed,
        }

    def _show(self, suite: Suite, costs: Sequence[Row]) -> None:
        from rich.console import Console

        from dataplane.lab.bench.results.stats import summarise
        from dataplane.lab.bench.results.tables import show
        from dataplane.lab.bench.results.targets import judge, judge_growth

        summaries = summarise(suite.samples)
        wide = None if self._out.isatty() else 180
        verdicts = [*judge(summaries), *judge_growth(costs)]
        show(Console(file=self._out, width=wide), summaries, verdicts, costs)
        disturbed = sum(sample.disturbed for sample in suite.samples)
        if disturbed:
            print(
                f"{disturbed} of {len(suite.samples)} samples were taken while others used the processors: "
                "they are marked in the JSON and left out above, except where there is nothing else (*)",
                file=self._out,
            )

    def _write(self, found: dict[str, Any], samples: Sequence[Sample], costs: Sequence[Row]) -> None:
        from dataplane.lab.bench.results import plots, report

        text = json.dumps(found, indent=1) + "\n"
        if self._args.json == "-":
            print(text, end="")
        elif self._args.json:
            Path(self._args.json).write_text(text)
        if self._args.output:
            directory = Path(self._args.output)
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "results.json").write_text(text)
            (directory / _report_name).write_text(report.page(found, samples, costs))
            if not plots.available():
                self._say("the report has no plots: matplotlib is not installed (extra: dev)")
            self._say(f"results are in {directory / 'results.json'} and {directory / _report_name}")


def _plan(args: argparse.Namespace) -> Plan:
    """Turn the words into a plan; wrong names end in the parser's error."""
    from dataplane.lab.bench.metrics import contestants, underlays
    from dataplane.lab.bench.suite import Plan
    from dataplane.lab.bench.workloads import workloads

    only = args.only or []
    _check(args, "--underlay", args.underlay or [], list(underlays))
    _check(args, "--only", only, [*contestants, *workloads, _growth])
    who = [name for name in contestants if name in only] or list(_quick_contestants if args.quick else contestants)
    what = [key for key in workloads if key in only] or list(_quick_workloads if args.quick else workloads)
    if set(only) == {_growth}:
        who, what = [], []
    where = [] if not who else list(dict.fromkeys(args.underlay or (_quick_underlays if args.quick else underlays)))
    return Plan(
        where,
        who,
        [workloads[key] for key in what],
        args.rounds or (_quick_rounds if args.quick else _default_rounds),
        tcp_seconds=1,
        tcp_warm_up_seconds=0 if args.quick else 1,
        udp_seconds=0.25,
        rtt_seconds=0.4,
        seed=args.seed,
        patience_s=10 if args.quick else 300,
        restart_seconds=0.3 if args.quick else 0.5,
    )


def _check(args: argparse.Namespace, flag: str, given: list[str], allowed: list[str]) -> None:
    for name in given:
        if name not in allowed:
            args.error(f"{flag} {name!r}: allowed are {', '.join(allowed)}")


def _rounds(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if not 1 <= value <= 100:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is a whole number from 1 to 100")
    return value
