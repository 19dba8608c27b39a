"""Runs the daemon in this process until a signal ends it: event loop, signals, systemd's STOPPING.

What must stay true: a stop works at any moment of the start, and a second signal kills.
"""

from __future__ import annotations

import asyncio
import logging
import signal

from dataplane.daemon.options import Options
from dataplane.daemon.start import Daemon
from dataplane.footprint.rundir import run_directory
from dataplane.observe.notify import tell_systemd
from dataplane.runtime.limits import raise_descriptor_limit
from dataplane.runtime.tasks import first_error

log = logging.getLogger(__name__)


def run(options: Options) -> int:
    """Run the daemon until SIGTERM or SIGINT; returns 0, or raises what ended it."""
    import uvloop

    raise_descriptor_limit()
    with run_directory(options.run_dir), asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_until_stopped(options))


async def _until_stopped(options: Options) -> int:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        log.info("%s: stopping; once more kills", signal.Signals(number).name)
        for other in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(other)
            signal.signal(other, signal.SIG_DFL)
        stop.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    work = asyncio.create_task(Daemon(options).run(), name="daemon")
    stopped = asyncio.create_task(stop.wait(), name="stop")
    await asyncio.wait((work, stopped), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    tell_systemd("STOPPING=1")
    work.cancel()
    try:
        await work
    except asyncio.CancelledError:
        log.info("stopped; the lease stays")
    except BaseExceptionGroup as group:
        raise first_error(group) from group
    return 0
