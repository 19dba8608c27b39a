"""`dataplane ping`: whether other nodes answer through the overlay, how fast, and with packets as large as the MTU.

Exit code 0 if every peer answered everything, 1 if something was not answered or no daemon runs here, 2 after wrong
usage. What must stay true: without a terminal the output is plain, and nothing but results is on stdout.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import textwrap
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

from dataplane.cli.run_dir import add_run_dir

if TYPE_CHECKING:
    from collections.abc import Callable

    from dataplane.model import IPNetwork
    from dataplane.reach.measure import Result
    from dataplane.reach.targets import Target

Verdict = tuple["Result", list[str]]

_most_packets = 1000
_widest = 100
_look_again_s, _looks = 1.0, 4  # the daemon reads ICMP errors once a second; ARP gives up after three


def add_parser(subparsers: Any) -> None:
    """Set up the parser of `dataplane ping`."""
    parser = subparsers.add_parser(
        "ping",
        help="whether other nodes answer through the overlay",
        description="Ask other nodes through the overlay, with small packets and with ones that fill the MTU; say what "
        "is known of the reason where nothing comes back.",
    )
    parser.add_argument(
        "peers", nargs="*", type=_name, metavar="PEER", help="its subnet, an address inside, or its public address"
    )
    parser.add_argument("--all", action="store_true", help="every peer")
    parser.add_argument("--count", type=_count, default=5, metavar="N", help="small packets (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print a list of results")
    add_run_dir(parser)
    parser.set_defaults(usage_error=parser.error)


def run(args: argparse.Namespace) -> int:
    """Ask and print; raises `HostError` when no daemon answers, `BadInput` for a name that is of no peer."""
    from dataplane.cli.status import fetch
    from dataplane.cli.status_view import drop_words
    from dataplane.errors import HostError
    from dataplane.observe.state import status_socket
    from dataplane.reach.targets import chosen, targets
    from dataplane.reach.verdict import verdict
    from dataplane.runtime.place import here

    if bool(args.peers) == args.all:
        args.usage_error("name peers, or give --all")
    path = args.run_dir / status_socket
    before = fetch(path)
    netns, ours = before.get("netns"), here().netns
    if netns and ours and netns != ours:
        raise HostError(
            f"the daemon runs in another network namespace (net:[{netns}]) than this command (net:[{ours}]), from "
            f"which nothing can be said: nsenter --net=/proc/{before['pid']}/ns/net dataplane ping …"
        )
    known = targets(before)
    asked = known if args.all else chosen(known, args.peers)
    if not asked:
        print("[]" if args.json else "no peers")
        return 0
    results, after = asyncio.run(_measured(asked, args.count, before, lambda: fetch(path)))
    found = [(result, verdict(result, before, after, drop_words)) for result in results]
    if args.json:
        json.dump([_as_json(*each) for each in found], sys.stdout, indent=2)
        print()
    else:
        _show(found)
    return 0 if all(result.well for result in results) else 1


async def _measured(
    asked: list[Target], count: int, before: dict[str, Any], fetch: Callable[[], dict[str, Any]]
) -> tuple[list[Result], dict[str, Any]]:
    """Measure, and return the results with the status after them."""
    from dataplane.reach.echo import Echo
    from dataplane.reach.measure import measure_all

    finished, told = 0, sys.stderr.isatty()

    def progress(_: Result) -> None:
        nonlocal finished
        finished += 1
        if told:
            print(f"\r{finished} of {len(asked)} ", end="", file=sys.stderr, flush=True)

    echo = Echo()
    try:
        results = await measure_all(echo, asked, count, progress)
    finally:
        echo.close()
        if told:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
    silent = {str(result.target.subnet) for result in results if not result.times}
    received = {peer["subnet"]: peer["rx_packets"] for peer in before["peers"] if peer["subnet"] in silent}

    def may_be_told(peer: dict[str, Any]) -> bool:
        """Whether ICMP may yet say why: it has not, and nothing comes from the peer that would say otherwise."""
        return (
            peer["subnet"] in silent and not peer["unreachable"] and peer["rx_packets"] == received.get(peer["subnet"])
        )

    after = fetch()
    for _ in range(_looks):
        if not any(may_be_told(peer) for peer in after["peers"]):
            break
        await asyncio.sleep(_look_again_s)
        after = fetch()
    return results, after


def _show(found: list[Verdict]) -> None:
    from dataplane.reach.measure import milliseconds

    width = min(_widest, max(40, shutil.get_terminal_size().columns))
    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    names = max(len(str(result.target.subnet)) for result, _ in found)
    counts = max(len(f"{len(result.times)}/{result.sent}") for result, _ in found)
    for result, said in found:
        times = "/".join(f"{each:.2f}" for each in milliseconds(result.times)) + " ms" if result.times else "-"
        size = "-" if result.largest is None else f"{result.largest} bytes"
        text = f"{result.target.subnet!s:<{names}}  {f'{len(result.times)}/{result.sent}':>{counts}}  {times}  {size}"
        print(f"\033[{32 if result.well else 31}m{text}\033[0m" if colours else text)
        for sentence in said:
            print(
                textwrap.fill(sentence, width - 1, initial_indent="  ", subsequent_indent="  ", break_on_hyphens=False)
            )
    well = sum(result.well for result, _ in found)
    print(f"{well} of {len(found)} answered everything, up to the MTU")


def _as_json(result: Result, said: list[str]) -> dict[str, Any]:
    from dataplane.reach.measure import milliseconds

    target = result.target
    least, median, most = milliseconds(result.times) if result.times else (None, None, None)
    return {
        "subnet": str(target.subnet),
        "public_ip": str(target.public),
        "address": str(target.ask),
        "sent": result.sent,
        "answered": len(result.times),
        "rtt_ms": {"min": least, "median": median, "max": most},
        "mtu": target.mtu,
        "full_size": result.full,
        "largest": result.largest,
        "ok": result.well,
        "verdict": said,
    }


def _name(text: str) -> IPNetwork:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is neither an address nor a subnet") from None


def _count(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= _most_packets:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are 1 to {_most_packets}")
    return int(text)
