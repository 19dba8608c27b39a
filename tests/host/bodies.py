"""Bodies of tests, each run in a process and namespaces (network, mount, PID) of its own without a way out.

The kernel takes everything away when the process ends, however it ends.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

from tests import environment


def run_in_namespaces(body: Callable[..., object], *words: str) -> None:
    """Run the body's file as a program, with the body's name and `words`; it says what failed."""
    unshare = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
    command = [*unshare, sys.executable, "-m", body.__module__, body.__name__, *words]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
