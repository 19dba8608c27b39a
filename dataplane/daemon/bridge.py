"""Carries over `systemctl restart`, which ends this process before it starts the next: another daemon takes over from this one,
outside of the service, and the service's next one takes over from that.

What must stay true: a service that is stopped is stopped; whatever cannot be had for the bridge costs its gap, no more; nobody
carries for ever in place of a service that does not come up.
Source: systemd.directives(7): a restart job becomes a start job only when the unit has stopped (src/core/job.c).
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable
from pathlib import Path

from dataplane.daemon.successor import Successor
from dataplane.errors import HostError
from dataplane.host.command import ask, find

log = logging.getLogger(__name__)

patience_s = 8.0  # for it to take over; the unit's TimeoutStopSec is longer
carries_s = 60  # at most, until the service has started
_our_unit = re.compile(r"/([^/\n]+)\.service$", re.MULTILINE)


class Bridge:
    """What may come between this process and the service's next. `successor` runs it."""

    def __init__(self, successor: Successor) -> None:
        self._successor = successor
        self._task: asyncio.Task[None] | None = None

    def begin(self, fails: Callable[[], None]) -> bool:
        """Build it where systemd restarts us; returns False where this is no service of systemd's, or it was begun before.

        Args:
            fails: called when there is to be none, or it does not come about.
        """
        if self._task is not None or not os.environ.get("NOTIFY_SOCKET"):
            return False
        self._task = asyncio.create_task(self._carry(), name="bridge")
        self._task.add_done_callback(lambda _: fails())
        return True

    async def _carry(self) -> None:
        try:
            unit = await restarted_unit()
        except HostError as error:
            log.warning("it cannot be seen whether this is a restart: %s", error)
            return
        runner = find("systemd-run")
        if unit is None or runner is None:
            return
        log.info("%s is restarted: another daemon carries until the next has taken over", unit)
        scope = f"--unit={unit}-restart-{os.getpid()}"
        limit = f"--property=RuntimeMaxSec={carries_s}"
        wrapper = (runner, "--scope", "--quiet", "--collect", scope, limit, "--")
        try:
            async with asyncio.timeout(patience_s):
                await self._successor.bridge(wrapper)
        except TimeoutError:
            log.warning("it has not taken over within %.0f s", patience_s)


async def restarted_unit() -> str | None:
    """Name of our service without its ending, if systemd will start it again once it has stopped; raises `HostError`."""
    unit = _unit()
    if unit is None:
        return None
    code, out, err = await ask("systemctl", "list-jobs", "--plain", "--no-legend")
    if code:
        raise HostError(f"systemctl list-jobs: {err.strip()}")
    jobs = [line.split() for line in out.splitlines()]
    return unit if any(job[1:3] == [f"{unit}.service", "restart"] for job in jobs) else None


def _unit() -> str | None:
    try:
        found = _our_unit.search(Path("/proc/self/cgroup").read_text(encoding="utf-8"))
    except OSError as error:
        raise HostError(f"/proc/self/cgroup: {error.strerror}") from error
    return found[1] if found else None
