"""A steady exchange between two pods, by which shows what a restart, or anything else that happens meanwhile, costs.

What must stay true: every datagram is accounted for, and silence is measured where the packets arrive.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from dataplane.lab.commands import LabError, inside_of
from dataplane.lab.topology import Pod

_program = str(Path(__file__).with_name("steady_program.py"))
end_limit_s = 30.0


@dataclass(frozen=True, slots=True)
class Seen:
    """What came through.

    Attributes:
        sent: datagrams, each of which is sent back; lost: the numbers of those of which no answer came.
        reordered: datagrams that came after a later one, at either end.
        silence_s: longest time between two answers; tcp_silence_s: between two pieces of the TCP stream.
        tcp_broken: why the connection ended; "" while it goes on.
        tcp_missing: bytes of the stream that did not arrive.
    """

    sent: int
    lost: tuple[int, ...]
    reordered: int
    silence_s: float
    tcp_silence_s: float
    tcp_broken: str
    tcp_missing: int


class Steady:
    """The exchange, while the block runs; `seen` says afterwards what came through.

    Args:
        interval_s: between two datagrams, and two pieces of the stream.
    Raises:
        LabError: it did not begin.
    """

    def __init__(self, one: Pod, other: Pod, version: int = 4, interval_s: float = 0.01) -> None:
        self._ends = one, other
        self._address = str(other.address if version == 4 else other.address6)
        self._interval_ms = f"{1000 * interval_s:g}"
        self._running: list[subprocess.Popen[str]] = []
        self._begun = time.monotonic()

    def __enter__(self) -> Self:
        one, other = self._ends
        try:
            self._start(other, "listening", "serve", self._address)
            self._start(one, "asking", "ask", self._address, self._interval_ms)
        except BaseException:
            self._kill()
            raise
        return self

    @property
    def elapsed_s(self) -> float:
        """How long it has gone on."""
        return time.monotonic() - self._begun

    def _start(self, pod: Pod, word: str, *words: str) -> None:
        command = inside_of(pod.name, [sys.executable, "-I", "-S", _program, *words])
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._running.append(process)
        if process.stdout is None or process.stdout.readline() != f"{word}\n":
            raise LabError(f"the exchange of {pod.name} did not begin")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._kill()

    def _kill(self) -> None:
        for process in self._running:
            process.kill()
            process.wait()

    def stop(self) -> Seen:
        """End it; the last answers are waited for."""
        serving, asking = self._running
        try:
            asked = json.loads(asking.communicate("", end_limit_s)[0])
            served = json.loads(serving.communicate("", end_limit_s)[0])
        finally:
            self._kill()
        return Seen(
            asked["sent"],
            tuple(asked["lost"]),
            asked["reordered"] + served["reordered"],
            asked["silence_s"],
            served["tcp_silence_s"],
            asked["tcp_error"],
            asked["tcp_sent"] - served["tcp_bytes"],
        )
