"""`dataplane top`: who sends and receives how much, and what is dropped, second by second.

What must stay true: it asks the daemon's status alone; a daemon that is restarted meanwhile is waited for; without a
terminal the output is plain text, one block after the other.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dataplane.cli.rates import PeerRates, Rates, rates
from dataplane.cli.run_dir import add_run_dir
from dataplane.cli.status import fetch
from dataplane.cli.status_view import drop_words, host_drop_words
from dataplane.errors import DataplaneError
from dataplane.observe.state import status_socket

_shortest_s, _longest_s = 0.2, 3600.0
_most_peers_in_a_pipe = 50
_clear = "\x1b[H\x1b[J"
_units = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def add_parser(subparsers: Any) -> None:
    """Set up the parser of `dataplane top`."""
    parser = subparsers.add_parser(
        "top",
        help="who sends and receives how much, and what is dropped",
        description="Show inner packets and bytes a second by peer, the busiest first, and drops a second by reason.",
        epilog="Ends with Ctrl-C, or after --count blocks. Example: dataplane top --interval 5",
    )
    parser.add_argument("--interval", type=_interval, default=1.0, metavar="SECONDS", help="default: %(default)g")
    parser.add_argument("--count", type=_count, default=0, metavar="N", help="end after so many (default: never)")
    add_run_dir(parser)


def run(args: argparse.Namespace) -> int:
    """Show rates until there were enough, or Ctrl-C; raises `HostError` when no daemon answers at first."""
    path = args.run_dir / status_socket
    before, asked = fetch(path), time.monotonic()
    shown, told = 0, sys.stdout.isatty()
    try:
        while not args.count or shown < args.count:
            time.sleep(args.interval)
            try:
                after, now = fetch(path), time.monotonic()
            except DataplaneError as error:
                print(f"{error}; waiting for it", file=sys.stderr)
                before, asked = _next(path, args.interval)
                continue
            width, height = shutil.get_terminal_size((80, 24))
            most = max(3, height - 12) if told else _most_peers_in_a_pipe
            lines = block(rates(before, after, now - asked), after, width, most)
            print((_clear if told else "") + "\n".join(lines), flush=True)
            before, asked, shown = after, now, shown + 1
    except KeyboardInterrupt:
        return 0
    return 0


def _next(path: Path, interval: float) -> tuple[dict[str, Any], float]:
    while True:
        time.sleep(interval)
        try:
            return fetch(path), time.monotonic()
        except DataplaneError:
            continue


def block(found: Rates, document: dict[str, Any], width: int, most: int) -> Iterator[str]:
    """Yield the lines of one look.

    Args:
        most: peers that are shown.
    """
    ready = "ready" if document["ready"] else "not ready"
    yield time.strftime("%H:%M:%S", time.localtime(document["time"])) + f"  {ready}, {document['backend']}"
    if found.peers is None:
        yield "the kernel carries the packets, and counts by no peer"
    else:
        yield from _peers(found.peers, most)
        if found.quiet:
            yield f"{found.quiet} more without traffic"
    for reason, rate in found.drops:
        text = f"  dropped {short(rate):>7}/s  {reason}"
        meaning = drop_words.get(reason) or host_drop_words.get(reason, "")
        if len(text) + len(meaning) + 2 <= width:
            yield f"{text}: {meaning}" if meaning else text
        else:
            yield text
            yield from textwrap.wrap(meaning, width, initial_indent=" " * 4, subsequent_indent=" " * 4)
    yield ""


def _peers(peers: tuple[PeerRates, ...], most: int) -> Iterator[str]:
    name = max([len(peer.subnet) for peer in peers[:most]], default=4)
    yield f"{'peer':<{name}}  {'sent/s':>7} {'bytes/s':>8}  {'recv/s':>7} {'bytes/s':>8}"
    for peer in peers[:most]:
        sent = f"{short(peer.tx_packets):>7} {short(peer.tx_bytes):>8}"
        yield f"{peer.subnet:<{name}}  {sent}  {short(peer.rx_packets):>7} {short(peer.rx_bytes):>8}"
    if len(peers) > most:
        yield f"and {len(peers) - most} more with less"


def short(rate: float) -> str:
    """Write a rate in at most six characters: 0.2, 17, 1.5k, 240M."""
    for size, unit in _units:
        if rate >= 0.9995 * size:
            return f"{rate / size:.3g}{unit}" if rate < 999.5 * size else f"{rate / size:.0f}{unit}"
    return f"{rate:.0f}" if rate >= 9.95 else f"{rate:.1f}"


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not _shortest_s <= seconds <= _longest_s:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are {_shortest_s:g} to {_longest_s:g} seconds")
    return seconds


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number from 1 on")
    return int(text)
