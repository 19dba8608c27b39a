"""Starts the next daemon beside this one: the same command once more, of whatever version is installed now.

What must stay true: where it does not come up, this one goes on, or ends, as if nothing had been asked.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import Sequence
from contextlib import suppress

from dataplane.observe.notify import tell_systemd

log = logging.getLogger(__name__)


class Successor:
    """The next daemon.

    Attributes:
        pid: its process id once it was started, 0 while there is none.
        is_service: whether systemd is to take it for the service's own from then on.
    """

    def __init__(self) -> None:
        self.pid = 0
        self.is_service = True
        self._process: asyncio.subprocess.Process | None = None
        self._waiting: asyncio.Task[None] | None = None

    def reload(self) -> None:
        """Start it as the service's next process, unless one is under way."""
        if self._waiting is not None and not self._waiting.done():
            log.info("SIGHUP: the next daemon is under way already (pid %d)", self.pid)
            return
        log.info("SIGHUP: starting the next daemon, to take over from this one")
        self._waiting = asyncio.create_task(self._reload(), name="successor")

    async def _reload(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LISTEN_")}
        if "WATCHDOG_PID" in environment:  # it is meant for this process id
            environment["WATCHDOG_PID"] = "0"
        tell_systemd("RELOADING=1")
        await self._run((), environment)
        tell_systemd("READY=1")

    async def bridge(self, wrapper: Sequence[str]) -> None:
        """Start it beside the service, by these words before its own; returns when it has ended without taking over."""
        self.is_service = False
        to_us = ("LISTEN_", "WATCHDOG_", "NOTIFY_")
        await self._run(wrapper, {name: value for name, value in os.environ.items() if not name.startswith(to_us)})

    async def _run(self, wrapper: Sequence[str], environment: dict[str, str]) -> None:
        words = [*wrapper, sys.executable, *sys.orig_argv[1:]]
        if "--takeover" not in words:
            words.append("--takeover")
        try:
            self._process = process = await asyncio.create_subprocess_exec(*words, env=environment)
        except OSError as error:
            log.error("the next daemon cannot be started: %s", error)
            return
        self.pid = process.pid
        code = await process.wait()
        self.pid, self._process = 0, None
        log.error("the next daemon has ended with %d; this one goes on", code)

    def give_up(self) -> None:
        """End a bridge that is under way: the service's next daemon does without."""
        if self._process is not None and not self.is_service:
            with suppress(ProcessLookupError):
                self._process.kill()
