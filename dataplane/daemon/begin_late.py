"""The start beside a daemon that runs: `--takeover` asks it to hand over; without, or if it cannot, it has the run directory.

What must stay true: what cannot be right for us ends us before anything was asked for; the daemon that runs is ended only
where it cannot hand over, as a restart would.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from contextlib import suppress
from pathlib import Path

from dataplane.backends import from_conf
from dataplane.daemon.options import Options
from dataplane.errors import HostError, StoreError
from dataplane.footprint.locks import InUse
from dataplane.footprint.rundir import is_held, run_directory
from dataplane.runtime.holder import holder_of
from dataplane.stores.base import Store
from dataplane.takeover import early
from dataplane.takeover.inherited import Inherited
from dataplane.takeover.systemd import forgo
from dataplane.takeover.taking import CannotTakeOver, OtherVersion, take_over

log = logging.getLogger(__name__)

look_s = 0.02
ask_store_s = 2.0


async def begin_late(options: Options, store: Store) -> Inherited:
    """Return what there is once the run directory is ours; the daemon that has it has what systemd kept for us too.

    Raises:
        HostError: another daemon has the run directory, and nobody asked to take over, or it goes wrong: then that one goes on.
        BadConfig: the network configuration cannot be used.
    """
    stored = forgo(os.environ)
    inherited = await _begin(options, store)
    inherited.stored |= stored
    return inherited


async def _begin(options: Options, store: Store) -> Inherited:
    try:
        with run_directory(options.run_dir):  # says what is wrong with it, or who has it
            pass
    except InUse:
        if not options.takeover:
            raise
    else:
        return await _wait_for_end(options.run_dir)
    await _check(store)
    try:
        inherited = await asyncio.to_thread(take_over, options.run_dir)
    except OtherVersion as reason:
        pid = reason.pid or holder_of(options.run_dir / "pid")
        log.warning("%s; starting the plain way, when it has ended (pid %s)", reason, pid or "not to be seen from here")
        if pid:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGTERM)
        return await _wait_for_end(options.run_dir)
    except CannotTakeOver as reason:
        found = early.begin(options.run_dir, {})
        if found is None:
            raise HostError(f"cannot take over: {reason}; the daemon that runs goes on") from reason
        log.warning("%s; it has ended, starting the plain way", reason)
        return found
    log.info("took over from the daemon before: %d devices go on", len(inherited.running))
    return inherited


async def _check(store: Store) -> None:
    """Raise what is wrong with the configuration; a store that does not answer soon is no reason to wait."""
    with suppress(StoreError, TimeoutError):
        async with asyncio.timeout(ask_store_s):
            from_conf(await store.read_config())


async def _wait_for_end(run_dir: Path) -> Inherited:
    while True:
        inherited = early.begin(run_dir, {})
        if inherited is not None:
            return inherited
        is_held(run_dir)  # raises what is wrong with it
        await asyncio.sleep(look_s)
