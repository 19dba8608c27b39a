"""Labs, and cleanups in them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from dataplane.lab.node import DaemonNode


def host_state(node: DaemonNode) -> str:
    """Everything that a daemon could leave, as text."""
    commands = (
        ("ip", "-o", "link"),
        ("ip", "-4", "route", "show", "table", "main"),
        ("ip", "-6", "route", "show", "table", "main"),
        ("ip", "neigh", "show", "nud", "permanent"),
        ("iptables-save",),
        ("ip6tables-save",),
        ("nft", "list", "ruleset"),
        ("tc", "qdisc", "show", "dev", "eth0"),
        ("tc", "filter", "show", "dev", "eth0", "ingress"),
    )
    shown = [node.run(*words).stdout for words in commands]
    # iptables-save writes the time and packet counts.
    lines = [line for text in shown for line in text.splitlines() if not line.startswith(("#", ":"))]
    return "\n".join(lines)


def cleanup(node: DaemonNode) -> str:
    return node.run(sys.executable, "-m", "dataplane", "cleanup", f"--run-dir={node.run_dir}").stdout


def tried(node: DaemonNode, run_dir: Path) -> subprocess.CompletedProcess[str]:
    return node.run(sys.executable, "-m", "dataplane", "cleanup", f"--run-dir={run_dir}", check=False)
