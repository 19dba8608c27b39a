"""Installed versions of dataplane and the kernel's vxlan, side by side as labs of one interleaved run.

    .venv/bin/python bench/versions.py old=/path/to/old/bin/python new=/path/to/new/bin/python --only udp64 --only rtt

Each name is an installation (`python -m venv DIR && DIR/bin/pip install .` in a checkout of it); the first is what the others
are compared with. Versions that are measured one run after the other differ by what the machine did meanwhile; here every
round has them all, in a new random order. Printed for each underlay and workload: median and spread, and the medians of the
ratios to the kernel and to the first version in the same rounds.
"""

from __future__ import annotations

import argparse
import sys
from statistics import median

from dataplane.lab import enclosure
from dataplane.lab.bench import tools
from dataplane.lab.bench.metrics import Sample, metrics, underlays
from dataplane.lab.bench.suite import Plan, Suite
from dataplane.lab.bench.workloads import workloads


def named(text: str) -> tuple[str, str]:
    """Read NAME=PYTHON."""
    name, _, python = text.partition("=")
    if not name or not python.startswith("/") or name == "kernel":
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is NAME=PYTHON, with the Python's absolute path")
    return name, python


def table(samples: list[Sample], names: list[str], first: str) -> list[str]:
    """Return the lines of every metric that was measured."""
    found: dict[tuple[str, str], dict[str, dict[int, float]]] = {}
    for sample in samples:
        by_name = found.setdefault((sample.underlay, sample.metric), {})
        by_name.setdefault(sample.contestant, {})[sample.round] = sample.value
    lines = []
    for (underlay, metric), values in found.items():
        lines.append(f"{underlay}: {metrics[metric].title}, {metrics[metric].unit}")
        for name in names:
            own = values.get(name, {})
            if not own:
                continue
            told = f"  {name:<10} {median(own.values()):9.4g} [{min(own.values()):.4g}-{max(own.values()):.4g}]"
            for other in ("kernel", first):
                ratios = [own[number] / values[other][number] for number in own if values.get(other, {}).get(number)]
                told += f"   / {other} {median(ratios):.3f}" if ratios and other != name else ""
            lines.append(told)
    return lines


def main() -> int:
    """Measure and print; 1 if something failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", nargs="+", type=named, metavar="NAME=PYTHON")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--underlay", action="append", choices=list(underlays))
    parser.add_argument("--only", action="append", choices=list(workloads))
    args = parser.parse_args()
    enclosure.ensure()
    installed = dict(args.versions)
    names = ["kernel", *installed]
    plan = Plan(
        args.underlay or list(underlays),
        names,
        [workloads[key] for key in args.only or ("tcp1", "tcp4", "udp64", "rtt")],
        args.rounds,
        tcp_seconds=1,
        tcp_warm_up_seconds=1,
        udp_seconds=0.25,
        rtt_seconds=0.4,
        seed=1,
        patience_s=60,
        installed=installed,
    )
    suite = Suite(plan, tools.build(), lambda text: print(text, file=sys.stderr))
    suite.run()
    print(*table(suite.samples, names, next(iter(installed))), *suite.failures, sep="\n")
    return 1 if suite.failures else 0


if __name__ == "__main__":
    sys.exit(main())
