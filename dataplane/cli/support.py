"""`dataplane support`: one archive with what an issue report needs, without secrets."""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path
from typing import Any

from dataplane.cli.run_dir import add_run_dir
from dataplane.cli.status import fetch
from dataplane.errors import BadInput, DataplaneError
from dataplane.observe.state import status_socket


def add_parser(subparsers: Any) -> None:
    """Set up the parser of `dataplane support`."""
    parser = subparsers.add_parser(
        "support",
        help="collect what an issue report needs into one archive",
        description="Collect status, doctor, log, configuration, routes, rules, devices and versions into one .tar.gz. "
        "Passwords, tokens, keys and credentials in URLs are taken out; addresses and names stay: look before you pass it on.",
        epilog="Example: dataplane support --output /tmp/node1.tar.gz",
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FILE", help="a name that ends in .tar.gz")
    add_run_dir(parser)


def run(args: argparse.Namespace) -> int:
    """Say what was collected, and write it; raises `BadInput`, `HostError`."""
    from dataplane.support.archive import contents, write
    from dataplane.support.pieces import pieces

    if not args.output.name.endswith(".tar.gz"):
        raise BadInput(f"--output {args.output}: the name is to end in .tar.gz")
    document: dict[str, Any] = {}
    try:
        document = fetch(args.run_dir / status_socket)
    except DataplaneError as error:
        print(f"{error}; collecting the rest")
    net_config = Path(os.environ.get("FLANNELD_NET_CONFIG_PATH") or "/etc/kube-flannel/net-conf.json")
    subnet_file = Path(
        document.get("subnet_file") or os.environ.get("FLANNELD_SUBNET_FILE") or "/run/flannel/subnet.env"
    )
    found = tuple(pieces(args.run_dir, document.get("pid", 0), subnet_file, net_config))
    print("\n".join(contents(found)), flush=True)
    size = write(args.output, found, time.time())
    print(f"wrote {args.output}, {size:,} bytes; addresses and names are in it")
    return 0
