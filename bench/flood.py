"""Round trips of a pod while somebody floods: the kernel's vxlan, ours in vxlan and udp, in turns in one run.

    .venv/bin/python bench/flood.py [--rounds 5]

Three labs of three nodes stand side by side and only one is busy at a time. A pod of the first node pings one of the second, every
5 ms, while nobody floods, while another pod of the first node does, and while a pod of the third node, a leased peer, does: small
datagrams, 64 to a call, as fast as this machine makes them. Printed: median and 99th percentile over all rounds (and those of the
single rounds), loss, and what everybody else runs on the machine, which a userspace data plane must share processors with.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import sys
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from statistics import quantiles

from dataplane.lab import enclosure
from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.commands import run
from dataplane.lab.topology import Pod

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the flood is the tests'

from tests.traffic import flooded

interval_s = 0.005
longest_s = 60.0


@dataclass
class Seen:
    """The round trips of one contestant in one condition, ms, by round; and how many requests had no answer."""

    rounds: list[list[float]] = field(default_factory=list)
    sent: int = 0

    def take(self, sent: int, text: str) -> None:
        """Take in what ping printed."""
        self.sent += sent
        self.rounds.append([float(each) for each in re.findall(r"time=([\d.]+) ms", text)])

    def line(self) -> str:
        """Return median, 99th percentile (least and greatest of a round) and loss."""
        every = [each for times in self.rounds for each in times]
        lost = 100 * (self.sent - len(every)) / self.sent
        if len(every) < 2:
            return f"{'':>30} lost {lost:.2f} %"
        hundredths = quantiles(every, n=100)
        tails = [quantiles(times, n=100)[98] for times in self.rounds if len(times) > 1]
        return f"p50 {hundredths[49]:6.2f}  p99 {hundredths[98]:6.2f} [{min(tails):.2f}-{max(tails):.2f}] ms  lost {lost:.2f} %"


def pinged(source: Pod, target: Pod, count: int) -> str:
    """Ping and return what was printed."""
    words = ["ping", "-n", "-c", str(count), "-i", f"{interval_s:g}", "-W", "2", target.address]
    return run(source.name, *words, check=False, timeout=longest_s).stdout


def main() -> int:
    """Print a line for each contestant and condition."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pings", type=int, default=400, help="of a round, each condition")
    args = parser.parse_args()
    enclosure.ensure()
    seen: dict[tuple[str, str], Seen] = {}
    with ExitStack() as stack:
        labs: dict[str, Lab] = {}
        for name, backend, kind in (
            ("kernel vxlan", "vxlan", "kernel"),
            ("ours, vxlan", "vxlan", "dataplane"),
            ("ours, udp", "udp", "dataplane"),
        ):
            labs[name] = stack.enter_context(Lab(net_conf(backend), options=("--datapath=userspace",)))
            labs[name].start(kind, kind, kind, pods=2)  # type: ignore[arg-type]
        for _ in range(args.rounds):
            for name, lab in random.sample(sorted(labs.items()), len(labs)):
                near, far, third = lab.nodes
                one, two = near.pods[0], far.pods[0]
                floods = {"nobody": None, "a pod beside it": near.pods[1], "a leased peer": third.pods[0]}
                for who, source in floods.items():
                    of = seen.setdefault((name, who), Seen())
                    if source is None:
                        of.take(args.pings, pinged(one, two, args.pings))
                        continue
                    with flooded(source.name, two.address, longest_s):
                        of.take(args.pings, pinged(one, two, args.pings))
    print(f"{args.rounds} rounds of {args.pings} pings every {1e3 * interval_s:g} ms; load {os.getloadavg()[0]:.1f}")
    for (name, who), of in sorted(seen.items()):
        print(f"{name:<14} {who + ' floods:':<24} {of.line()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
