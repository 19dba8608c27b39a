"""Prints what one packet costs as a cluster grows: more peers, more flows, mixed sizes, tables replaced under load.

    python bench/growth.py [--quick] [--json FILE]

Runs build/bench/bench/growth (growth.c says what is in a figure and what is not), every case once in each round, in random
order. A ratio is that of the medians, to the case that its group begins with. What must stay true: all that is compared was
measured in the same rounds, and a lost packet ends the run with exit code 1.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

program = Path(__file__).resolve().parents[1] / "build" / "bench" / "bench" / "growth"
wanted_ratio = 1.05  # 10,000 peers beside 2, per packet


@dataclass(frozen=True, slots=True)
class Case:
    """Arguments of the program; `group` is compared within, `label` names the case in it."""

    group: str
    label: str
    way: str
    peers: int
    active: int
    flows: int
    size: str
    edge: str
    churn: bool = False

    def words(self, packets: int) -> list[str]:
        """The command."""
        numbers = (self.peers, self.active, self.flows, self.size, self.edge, packets)
        return [str(program), self.way, *map(str, numbers), *(["churn"] if self.churn else [])]


def cases() -> list[Case]:
    """All of them, each group's first being what the others are compared with."""
    found = []
    counts = (2, 100, 1_000, 10_000)
    edges = {"send": ("kernel", "core"), "receive": ("core",)}
    for way, kinds in edges.items():
        for edge in kinds:
            what = f"{way}, {'with sendmmsg' if edge == 'kernel' else 'own code alone'}, 64 B"
            for n in counts:
                found.append(Case(f"{what}: peers in the table, 2 of them active", str(n), way, n, 2, 4, "64", edge))
            for n in counts:
                found.append(Case(f"{what}: peers in the table, all active", str(n), way, n, n, 4, "64", edge))
            for n in (1, 4, 16, 64, 256):
                found.append(Case(f"{what}: flows to each of 2 peers", str(n), way, 2, 2, n, "64", edge))
            what = what.removesuffix(", 64 B")
            for size in ("64", "576", "1400", "mix"):
                found.append(Case(f"{what}: packet size, 100 peers", size, way, 100, 100, 4, size, edge))
    for churn in (False, True):
        label = "100 new tables a second" if churn else "table left alone"
        found.append(
            Case("send, with sendmmsg, 64 B: 10,000 peers", label, "send", 10_000, 2, 4, "64", "kernel", churn)
        )
        found.append(
            Case("receive, own code alone, 64 B: 10,000 peers", label, "receive", 10_000, 2, 4, "64", "core", churn)
        )
    return found


def measure(case: Case, packets: int) -> float:
    """Nanoseconds per packet; a run that lost packets ends the program."""
    done = subprocess.run(case.words(packets), capture_output=True, text=True, check=False, timeout=60)
    if done.returncode != 0:
        sys.exit(f"{' '.join(done.args)}: exit code {done.returncode}: {done.stdout}{done.stderr}")
    return float(done.stdout.split()[0])


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="what one packet costs as a cluster grows")
    parser.add_argument("--quick", action="store_true", help="fewer rounds and packets")
    parser.add_argument("--json", metavar="FILE")
    args = parser.parse_args()
    rounds, packets = (2, 40_000) if args.quick else (9, 200_000)
    every = cases()
    values: dict[Case, list[float]] = {case: [] for case in every}
    dice = random.Random(1)
    for _ in range(rounds):
        for case in dice.sample(every, len(every)):
            values[case].append(measure(case, packets))
    print("---- ns per packet, median [least–greatest], ratio to the first of its group; every packet was carried ----")
    group, base, verdict = "", 0.0, []
    for case in sorted(every, key=lambda case: [other.group for other in every].index(case.group)):
        middle = median(values[case])
        if case.group != group:
            group, base = case.group, middle
            print(group)
        spread = f"[{min(values[case]):.1f}–{max(values[case]):.1f}]"
        print(f"  {case.label:>24} {middle:8.1f} {spread:>18} {middle / base:6.2f}")
        if case.peers == 10_000 and "2 of them active" in case.group:
            verdict.append((group, middle / base))
    for what, ratio in verdict:
        word = "reached" if ratio <= wanted_ratio else "NOT reached"
        print(f"10,000 peers cost no more than 5 % over 2 ({what.split(':')[0]}): {(ratio - 1) * 100:+.1f} %, {word}")
    if args.json:
        rows = [{**asdict(case), "ns": values[case]} for case in every]
        Path(args.json).write_text(json.dumps({"rounds": rounds, "packets": packets, "cases": rows}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
