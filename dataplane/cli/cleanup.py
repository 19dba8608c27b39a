"""`dataplane cleanup`: removes what a daemon that has ended left on the host, and nothing else."""

from __future__ import annotations

import argparse
import asyncio
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from dataplane.cli.run_dir import add_run_dir
from dataplane.footprint.alone import alone, others
from dataplane.footprint.locks import subnet_file_lock
from dataplane.footprint.rundir import run_directory


def add_parser(subparsers: Any) -> None:
    """Set up the parser of `dataplane cleanup`."""
    parser = subparsers.add_parser(
        "cleanup",
        help="remove what an ended daemon left: devices, routes, firewall rules, subnet.env",
        description="Remove what a daemon that has ended left on this host, as it wrote it down in its run directory: "
        "TUN and kernel vxlan devices, direct and blackhole routes, masquerade and forward rules, subnet.env. "
        "The lease stays in the store until it runs out.",
        allow_abbrev=False,
    )
    add_run_dir(parser)


def run(args: argparse.Namespace) -> int:
    """Clean up and print what was removed; returns 0, or raises `DataplaneError`."""
    from dataplane.footprint import record
    from dataplane.footprint.removal import remove
    from dataplane.takeover import record as forwarding

    nothing = f"nothing to remove: no daemon has written down anything in {args.run_dir}"
    if record.find(args.run_dir) is None:
        print(nothing)
        return 0
    # Holding all of this keeps a daemon from running, and is refused while one does, with whatever run directory.
    with ExitStack() as stack:
        stack.enter_context(run_directory(args.run_dir))
        found = record.find(args.run_dir)
        if found is None:
            print(nothing)
            return 0
        path, written = found
        if written.is_gone:
            print(f"{path} is of an earlier boot: its devices, routes and rules went with that")
        else:
            named = (*(name for name in written.devices if "%" not in name), *map(str, written.networks))
            stack.enter_context(alone(named, "nothing is removed; stop it first"))
            live = others(named)
            if live and written.firewall:  # whose chains these are as well
                has = ", ".join(f"{name} (pid {pid})" for name, pid in sorted(live.items()))
                print(f"left alone: masquerade and forward rules: a daemon has {has}", file=sys.stderr)
                written = replace(written, firewall=False)
        if Path(written.subnet_file).is_file():
            stack.enter_context(subnet_file_lock(Path(written.subnet_file)))
        done, left = asyncio.run(remove(path, written))
        forwarding.remove(args.run_dir)
    for line in left:
        print(f"left alone: {line}", file=sys.stderr)
    for line in done:
        print(f"removed {line}")
    if not done:
        print("nothing was left")
    return 0
