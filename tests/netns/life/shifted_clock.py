"""Daemons whose clocks a test sets, and which it puts to sleep as a machine that is suspended.

What must stay true: the machine's own clocks are never touched.
"""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dataplane.lab.node import DaemonNode
from tests import root

day_s = 86_400


class ShiftedClock:
    """The clocks of those processes that have its `environment`."""

    def __init__(self, directory: Path) -> None:
        self._file = directory / "shifts"
        self._set_s = self._slept_s = 0
        self._write()
        library = directory / "shifted_clock.so"
        source = root / "tests" / "programs" / "shifted_clock.c"
        subprocess.run(["gcc", "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, source], check=True)
        self.environment = {"LD_PRELOAD": str(library), "SHIFTED_CLOCK": str(self._file)}

    def set(self, seconds: int) -> None:
        """Have their wall clock go wrong by so much."""
        self._set_s = seconds
        self._write()

    def sleep(self, seconds: int) -> None:
        """Let so much time pass as it does while a machine is suspended: CLOCK_MONOTONIC stands still."""
        self._slept_s += seconds
        self._write()

    def now(self) -> float:
        """What their wall clock says."""
        return time.time() + self._set_s + self._slept_s

    def _write(self) -> None:
        # In place: who has the file open maps it.
        with self._file.open("r+b" if self._file.exists() else "wb") as file:
            file.write(struct.pack("=qq", self._set_s + self._slept_s, self._slept_s))


@contextmanager
def stopped(nodes: Iterable[DaemonNode], *others: Callable[[int], None]) -> Iterator[None]:
    """Let every daemon, and what else takes signals, stand still while the block runs."""
    processes = [node.process for node in nodes if node.process is not None]
    send = [*others, *(process.send_signal for process in processes)]
    for one in send:
        one(signal.SIGSTOP)
    try:
        for process in processes:
            os.waitid(os.P_PID, process.pid, os.WSTOPPED)
        yield
    finally:
        for one in send:
            one(signal.SIGCONT)
