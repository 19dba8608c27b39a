"""Runs the daemon in this process until a signal ends it, or another one took over: event loop, signals, systemd's words.

What must stay true: a stop works at any moment of the start, and a second signal kills.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path

from dataplane.daemon.bridge import Bridge
from dataplane.daemon.options import Options
from dataplane.daemon.start import Daemon
from dataplane.daemon.successor import Successor
from dataplane.footprint.rundir import is_held
from dataplane.observe.notify import tell_systemd
from dataplane.runtime.tasks import first_error
from dataplane.takeover.inherited import Inherited

log = logging.getLogger(__name__)

look_s, free_looks = 1.0, 3  # at a run directory that another daemon has taken


def run(options: Options, inherited: Inherited | None) -> int:
    """Run the daemon until SIGTERM or SIGINT; returns 0, or raises what ended it.

    Args:
        inherited: the run directory, and what forwards already; None: another daemon has the directory.
    """
    import uvloop

    daemons: list[Daemon] = []
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_until_stopped(options, inherited, daemons))
    finally:
        for daemon in daemons:
            daemon.end()
    return 0


async def _until_stopped(options: Options, inherited: Inherited | None, daemons: list[Daemon]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    successor = Successor()
    bridge = Bridge(successor)

    def end() -> None:
        for other in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(other)
            signal.signal(other, signal.SIG_DFL)
        stop.set()

    def on_signal(number: int) -> None:
        log.info("%s: stopping; once more kills", signal.Signals(number).name)
        if number != signal.SIGTERM or not daemon.carries or not bridge.begin(end):
            end()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    daemon = Daemon(options, inherited)
    daemons.append(daemon)
    loop.add_signal_handler(signal.SIGHUP, successor.reload)
    work = asyncio.create_task(daemon.run(), name="daemon")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait((work, stopped, daemon.handed_over), return_when=asyncio.FIRST_COMPLETED)
    if daemon.handed_over.done():
        _tell_handed_over(daemon.handed_over.result(), successor)
    else:
        tell_systemd("STOPPING=1")
        successor.give_up()
    work.cancel()
    try:
        await work
    except asyncio.CancelledError:
        log.info("ended; another daemon goes on" if daemon.handed_over.done() else "stopped; the lease stays")
    except BaseExceptionGroup as group:
        raise first_error(group) from group
    if daemon.handed_over.done():
        daemon.end()
    if daemon.handed_over.done() and _would_be_started_again(daemon.handed_over.result()):
        # A container whose process ends is started anew while its pod is there, and would take over from the next one's.
        log.info("waiting to be told to end")
        left = asyncio.create_task(_until_nobody_has(options.run_dir), name="left")
        await asyncio.wait((stopped, left), return_when=asyncio.FIRST_COMPLETED)
        left.cancel()
    stopped.cancel()


def _tell_handed_over(pid: int, successor: Successor) -> None:
    log.info("the data plane is another daemon's now (pid %s)", pid or "not to be seen from here")
    if pid and pid == successor.pid and successor.is_service:
        tell_systemd(f"MAINPID={pid}")


async def _until_nobody_has(run_dir: Path) -> None:
    """Return when the daemon that took over has gone, and no other has come for a while: as when an update is taken back."""
    free = 0
    while free < free_looks:
        await asyncio.sleep(look_s)
        free = 0 if is_held(run_dir) else free + 1
    log.warning("the daemon that took over has gone: ending, to be started again")


def _would_be_started_again(successor: int) -> bool:
    """Whether we are a container's only process, or the next daemon is in another container."""
    return os.getpid() == 1 or successor == 0
