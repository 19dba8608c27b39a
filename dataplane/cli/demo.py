"""`dataplane demo`: builds virtual clusters in a private enclosure, shows pods talking over each backend, and leaves nothing.

Exit code 0 only if every ping was answered and data moved everywhere; 130 after Ctrl-C.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dataplane.lab.cluster import Lab
    from dataplane.lab.tour import Findings

names = ("udp", "vxlan", "mixed")
most_nodes = 100


def add_parser(subparsers: Any) -> None:
    """Set up the parser of `dataplane demo`."""
    parser = subparsers.add_parser(
        "demo",
        help="a virtual cluster in namespaces of its own",
        description="Build a virtual cluster in private namespaces, let its pods ping and move data over each backend, "
        "show the results, remove everything. Needs /dev/net/tun, and root or user namespaces.",
    )
    parser.add_argument("--nodes", type=_nodes, default=3, metavar="N", help="nodes in each cluster (default: 3)")
    parser.add_argument(
        "--backend",
        action="append",
        choices=names,
        help="which cluster: udp, vxlan, or mixed (vxlan, the last node being the kernel's own); may be repeated "
        "(default: all three)",
    )
    parser.add_argument("--seconds", type=_seconds, default=2, metavar="S", help="of TCP each way (default: 2)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON; progress goes to stderr")
    parser.add_argument("--keep", action="store_true", help="open a shell in the last cluster, or in one that failed")


def run(args: argparse.Namespace) -> int:
    """Run the demo; returns 0 if everything worked, 1 if not; raises `HostError` where no lab can be made."""
    from dataplane.lab import enclosure

    enclosure.ensure()
    return _Demo(args).run()


class _Demo:
    """One run: what was asked, and where its words go."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args = args
        self._out = sys.stderr if args.json else sys.stdout
        self._start = time.monotonic()
        self._chosen: list[str] = list(dict.fromkeys(args.backend or names))

    def run(self) -> int:
        from dataplane.lab.node import check_tun
        from dataplane.lab.tour import clusters, tour

        check_tun()
        self._introduce()
        every: list[Findings] = []
        try:
            for name in self._chosen:
                found = clusters(name, self._args.nodes)
                every.append(found)
                self._say(f"cluster {name}")
                tour(found, self._args.seconds, self._say_more, partial(self._linger, found))
        except KeyboardInterrupt:
            self._say("interrupted; everything is being removed")
            return 130
        failed = any(found.failures for found in every)
        if self._args.json:
            json.dump({"ok": not failed, "clusters": [asdict(found) for found in every]}, sys.stdout, indent=2)
            print()
        else:
            _show_table(every)
        self._conclude(every)
        return 1 if failed else 0

    def _introduce(self) -> None:
        print(
            "A virtual cluster on this machine: nodes and pods are network namespaces, each node runs `dataplane run`,\n"
            "and a bridge between them is the underlay. All of it is in a private enclosure without a way out;\n"
            "the host's own network is not touched, and the kernel removes everything at the end.\n",
            file=self._out,
            flush=True,
        )

    def _say(self, text: str) -> None:
        print(f"{time.monotonic() - self._start:5.1f} s  {text}", file=self._out, flush=True)

    def _say_more(self, text: str) -> None:
        self._say(f"  {text}")

    def _linger(self, found: Findings, lab: Lab) -> None:
        if self._args.keep and (found.failures or found.name == self._chosen[-1]):
            lab.shell()

    def _conclude(self, every: list[Findings]) -> None:
        for found in every:
            for failure in found.failures:
                print(f"FAILED: {found.name}: {failure}", file=sys.stderr)
            if found.log:
                print(found.log, file=sys.stderr)
        if not any(found.failures for found in every):
            print(f"everything worked; {time.monotonic() - self._start:.0f} s", file=self._out)


def _show_table(every: list[Findings]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(
        title="Pairs of pods that ping, their round trip, TCP there and back, and what we dropped", title_justify="left"
    )
    for heading in ("cluster", "nodes"):
        table.add_column(heading)
    for heading in ("pairs", "rtt ms", "→ Gbit/s", "← Gbit/s"):
        table.add_column(heading, justify="right")
    table.add_column("drops", overflow="fold")
    for found in every:
        table.add_row(
            found.name,
            ", ".join(f"{found.kinds.count(kind)} {kind}" for kind in dict.fromkeys(found.kinds)),
            f"{found.pings_ok} of {found.pings}",
            *(_number(value) for value in (found.rtt_ms, found.there_gbps, found.back_gbps)),
            ", ".join(f"{count} {reason}" for reason, count in sorted(found.drops.items())) or "nothing",
        )
    console = Console(width=None if sys.stdout.isatty() else 140)
    console.print()
    console.print(table)


def _number(value: float | None) -> str:
    return "failed" if value is None else f"{value:.2f}"


def _nodes(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if not 2 <= value <= most_nodes:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is a whole number from 2 to {most_nodes}")
    return value


def _seconds(text: str) -> int:
    value = int(text) if text.isdecimal() else 0
    if not 1 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed is a whole number of seconds from 1 to 3600")
    return value
