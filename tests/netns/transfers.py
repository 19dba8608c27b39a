"""Checked transfers between pods, and how many super-packets left whole meanwhile."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

from dataplane.lab.node import DaemonNode
from dataplane.lab.topology import Pod
from tests.programs import program


def tunnel_sends(node: DaemonNode) -> int:
    """Super-packets that left the node whole."""
    status = node.status()
    assert status is not None
    return int(status["counters"]["tunnel_sends"])


@contextmanager
def receiver(pod: Pod, protocol: str, version: int, amount: int) -> Iterator[subprocess.Popen[str]]:
    """A pod that waits for a transfer; its output is for whoever asked for it."""
    words = program("transfer", "receive", protocol, pod.address_of(version), amount)
    with subprocess.Popen(
        ["ip", "netns", "exec", pod.name, *words], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def transfer(
    one: Pod, other: Pod, protocol: str, version: int, amount: int, *segment: int
) -> tuple[list[str], list[str]]:
    """What was sent and what arrived, line by line."""
    with receiver(other, protocol, version, amount) as process:
        sent = one.run(*program("transfer", "send", protocol, other.address_of(version), amount, *segment)).stdout
        came, _ = process.communicate(timeout=200)
    return sent.splitlines(), came.splitlines()
