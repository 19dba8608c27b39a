"""`dataplane doctor`: what keeps this node from carrying packets, and the commands that mend it. It changes nothing."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from itertools import zip_longest
from pathlib import Path
from typing import Any

from dataplane.cli.flags import by_name
from dataplane.cli.run_dir import add_run_dir
from dataplane.cli.status import fetch
from dataplane.doctor.examine import examine
from dataplane.doctor.finding import Finding, Level
from dataplane.doctor.node import Asked
from dataplane.errors import DataplaneError, printable
from dataplane.host.interface import InterfaceChoice
from dataplane.observe.state import status_socket

_widest, _unknown_width = 100, 80
_indent = 18
_word = re.compile(r"""(?:"[^"]*"|'[^']*'|\S)+""")
_colours = {Level.ok: "32", Level.warn: "33", Level.fail: "1;31"}

_about = (
    "Examine this node, with or without its daemon running. Nothing is changed. Each line is a check: OK; WARN, it may do "
    "harm or could not be looked at; FAIL, packets are lost or the daemon does not start. Below it is what mends it."
)
_more = (
    "Exit code: 0 all OK or WARN, 1 any FAIL, 2 wrong usage. Before the daemon runs, its environment variables "
    "(FLANNELD_IFACE, FLANNELD_NET_CONFIG_PATH, FLANNELD_SUBNET_FILE and the like) say here too how it will be started."
)


def add_parser(subparsers: Any) -> None:
    """Set up the parser of `dataplane doctor`."""
    parser = subparsers.add_parser(
        "doctor",
        help="what keeps this node from carrying packets, and what mends it",
        description=_about,
        epilog=_more,
    )
    parser.add_argument("--json", action="store_true", help="print a list of {check, level, text, mend}")
    add_run_dir(parser)


def run(args: argparse.Namespace) -> int:
    """Print the findings."""
    findings = asyncio.run(examine(_asked(args.run_dir)))
    if args.json:
        json.dump([asdict(finding) for finding in findings], sys.stdout, indent=2)
        print()
    else:
        coloured = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        width = min(shutil.get_terminal_size((_unknown_width, 0)).columns, _widest)
        print("\n".join(report(findings, width, coloured)))
    return 1 if any(finding.level is Level.fail for finding in findings) else 0


def _asked(run_dir: Path) -> Asked:
    document, silence = None, ""
    try:
        document = fetch(run_dir / status_socket)
    except DataplaneError as error:
        silence = str(error)
    return Asked(
        document,
        silence,
        run_dir,
        _setting("net-config-path"),
        _setting("subnet-file"),
        InterfaceChoice(
            iface=_several("iface"),
            iface_regex=_several("iface-regex"),
            can_reach=_setting("iface-can-reach"),
            public_ip=_setting("public-ip"),
            public_ipv6=_setting("public-ipv6"),
        ),
    )


def _setting(name: str) -> Any:
    """Return what the daemon's environment variable says, else the flag's default."""
    flag = by_name[name]
    text = os.environ.get(flag.variable, "")
    try:
        return flag.read(text) if text else flag.default
    except ValueError:
        return flag.default  # as the daemon does, which warns


def _several(name: str) -> tuple[str, ...]:
    value = _setting(name)
    return (value,) if isinstance(value, str) else value


def report(findings: Iterable[Finding], width: int, coloured: bool) -> Iterator[str]:
    """Yield the report's lines."""
    counts = dict.fromkeys(Level, 0)
    for finding in findings:
        counts[finding.level] += 1
        level = f"{finding.level:<6}"
        if coloured:
            level = f"\x1b[{_colours[finding.level]}m{level}\x1b[0m"
        lines = _wrapped(printable(finding.text), width - _indent)
        yield f"{level}{finding.check:<12}{lines[0]}"
        yield from (f"{'':{_indent}}{line}" for line in lines[1:])
        if finding.mend:
            # Copied with its line ends, it is still one command.
            mend = " \\\n".join(_command_lines(finding.mend, width - _indent - 2)).splitlines()
            yield from (f"{label:<{_indent}}{line}" for label, line in zip_longest(["      mend:"], mend, fillvalue=""))
    yield f"{counts[Level.ok]} OK, {counts[Level.warn]} WARN, {counts[Level.fail]} FAIL"


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, max(width, 20), break_long_words=False, break_on_hyphens=False)


def _command_lines(command: str, width: int) -> list[str]:
    """Break a command between its words, never inside of quotes."""
    if not command.isprintable():
        command = printable(command)
    lines = [""]
    for word in _word.findall(command):
        if lines[-1] and len(lines[-1]) + 1 + len(word) > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".strip()
    return lines
