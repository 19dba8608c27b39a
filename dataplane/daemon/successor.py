"""Starts the next daemon beside this one (SIGHUP): the same command once more, of whatever version is installed now.

What must stay true: where it does not come up, this one goes on as if nothing had been asked.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys

from dataplane.observe.notify import tell_systemd

log = logging.getLogger(__name__)


class Successor:
    """The next daemon. `pid`: its process id once it was started, 0 while there is none."""

    def __init__(self) -> None:
        self.pid = 0
        self._waiting: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start it, unless one is under way."""
        if self._waiting is not None and not self._waiting.done():
            log.info("SIGHUP: the next daemon is under way already (pid %d)", self.pid)
            return
        log.info("SIGHUP: starting the next daemon, to take over from this one")
        self._waiting = asyncio.create_task(self._run(), name="successor")

    async def _run(self) -> None:
        words = [sys.executable, *sys.orig_argv[1:]]
        if "--takeover" not in words:
            words.append("--takeover")
        # The watchdog and the descriptors that systemd keeps are meant for this process id.
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LISTEN_")}
        if "WATCHDOG_PID" in environment:
            environment["WATCHDOG_PID"] = "0"
        tell_systemd("RELOADING=1")
        try:
            process = await asyncio.create_subprocess_exec(*words, env=environment)
        except OSError as error:
            log.error("the next daemon cannot be started: %s", error)
            tell_systemd("READY=1")
            return
        self.pid = process.pid
        code = await process.wait()
        self.pid = 0
        log.error("the next daemon has ended with %d; this one goes on", code)
        tell_systemd("READY=1")
