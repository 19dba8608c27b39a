"""`dataplane cleanup`: removes what a daemon that has ended left on the host, and nothing else."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path
from typing import Any

from dataplane.control.rundir import run_directory


def add_parser(subparsers: Any) -> None:
    """Set up the parser of `dataplane cleanup`."""
    parser = subparsers.add_parser(
        "cleanup",
        help="remove what an ended daemon left: devices, routes, firewall rules, subnet.env",
        description="Remove what a daemon that has ended left on this host, as it wrote it down in its run directory: "
        "the kernel's vxlan devices, direct and blackhole routes, masquerade and forward rules, subnet.env. "
        "The lease stays in the store until it runs out.",
        allow_abbrev=False,
    )
    parser.add_argument("--run-dir", type=Path, default=Path("/run/dataplane"), help="as given to the daemon")


def run(args: argparse.Namespace) -> int:
    """Clean up and print what was removed; returns 0, or raises `DataplaneError`."""
    from dataplane.control import footprint

    left = footprint.read(args.run_dir)
    if left is None:
        print(f"nothing to remove: no daemon has written down anything in {args.run_dir}")
        return 0
    # Holding the directory keeps a daemon from running, and is refused while one does.
    with run_directory(args.run_dir):
        done = asyncio.run(footprint.remove(args.run_dir, left))
    for line in done:
        print(f"removed {line}")
    if not done:
        print("nothing was left")
    return 0
