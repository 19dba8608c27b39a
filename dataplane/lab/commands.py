"""Running commands in namespaces, and waiting for conditions.

What must stay true: a command that fails says what it was and what it answered; nothing here sleeps for a fixed time
in the hope that something has happened.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from dataplane.errors import DataplaneError

Value = TypeVar("Value")

poll_s = 0.02


class LabError(DataplaneError):
    """Something in the lab did not do what it should; the message holds what was seen."""


class CommandFailed(LabError):
    """A command ended with another exit code than 0."""


def inside_of(namespace: str | None, words: Sequence[str]) -> list[str]:
    """Return the command line that runs `words` in a named network namespace (None: in our own)."""
    # `ip netns exec` replaces itself by the command, so the process id is the command's own; it also mounts a /sys
    # that shows the namespace's devices.
    return list(words) if namespace is None else ["ip", "netns", "exec", namespace, *words]


def run(
    namespace: str | None, *words: str, given: str | None = None, check: bool = True, timeout: float = 30.0
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, stdout and stderr as text.

    Args:
        given: its stdin; None: empty.
        check: raise `CommandFailed` unless it ends with 0.
        timeout: seconds until it is killed, which is a `CommandFailed` too.
    """
    shown = " ".join(words) + ("" if namespace is None else f" (in {namespace})")
    try:
        done = subprocess.run(
            inside_of(namespace, words), input=given or "", capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired:
        raise CommandFailed(f"{shown}: no end within {timeout:g} s") from None
    if check and done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip()).replace("\n", "; ")
        raise CommandFailed(f"{shown}: exit code {done.returncode}: {said}" + (f"; given: {given}" if given else ""))
    return done


def batch(namespace: str | None, *lines: str, tool: str = "ip") -> None:
    """Give several lines to one `ip -batch` (or `bridge -batch`); raises `CommandFailed` on the first that fails."""
    run(namespace, tool, "-batch", "-", given="\n".join(lines) + "\n")


def wait_for(condition: Callable[[], Value], timeout: float, what: str) -> Value:
    """Return the first true value of `condition`, asked again and again; raises `LabError` after `timeout` seconds.

    Args:
        what: names the awaited condition in the error.
    """
    deadline = time.monotonic() + timeout
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > deadline:
            raise LabError(f"waited {timeout:g} s in vain for {what}; last seen: {value!r}")
        time.sleep(poll_s)
