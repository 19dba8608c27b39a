"""The flag by which the commands beside the daemon find it."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from dataplane.cli.begin import default_run_dir


def add_run_dir(parser: argparse.ArgumentParser) -> None:
    """Add `--run-dir`, a path, by default that of the daemon's own environment variable."""
    parser.add_argument(
        "--run-dir",
        type=Path,
        default=Path(os.environ.get("FLANNELD_RUN_DIR") or default_run_dir),
        help="the daemon's --run-dir (default: %(default)s)",
    )
