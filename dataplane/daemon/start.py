"""The start, in flannel's order (main.go): store, status and health, configuration, locks; then lives, for ever.

What must stay true: who asks is answered from the first moment on; what cannot be right for any life (a configuration,
another daemon in our place) ends the daemon here, before there is a lease by which peers would send to us.
"""

from __future__ import annotations

import asyncio
import logging
import os
from contextlib import AsyncExitStack
from functools import partial

from dataplane.backends import from_conf
from dataplane.daemon.asking import until_answered
from dataplane.daemon.lives import Lives
from dataplane.daemon.open_store import open_store
from dataplane.daemon.options import Options
from dataplane.daemon.premises import Premises
from dataplane.follow.config import follow_config
from dataplane.footprint.alone import alone
from dataplane.footprint.locks import subnet_file_lock
from dataplane.host.netlink import Host
from dataplane.keepers import subnet_file
from dataplane.observe.health import Server
from dataplane.observe.notify import tell_systemd, watchdog_period
from dataplane.observe.state import NodeState
from dataplane.runtime.clock import WallClock
from dataplane.runtime.tasks import spawn
from dataplane.stores.base import Store

log = logging.getLogger(__name__)

serve_delay_s = 1.0


class Daemon:
    """One node's daemon: what stands from its first moment to its last."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._clock = WallClock()
        self._written = asyncio.Event()  # subnet.env
        self._state = NodeState(now=self._clock.now, subnet_file=str(options.subnet_file))

    async def run(self) -> None:
        """Start everything and keep it; ends by cancellation or by an error."""
        options = self._options
        for warning in options.warnings:
            log.warning("%s", warning)
        async with AsyncExitStack() as stack:
            store = open_store(options)
            stack.push_async_callback(store.close)
            server = Server(self._state, options.run_dir, options.healthz_ip, options.healthz_port)
            stack.push_async_callback(server.close)
            server.open()
            async with asyncio.TaskGroup() as group:
                spawn(group, "serve", self._state, self._serve, server)
                period = watchdog_period(os.environ)
                if period is not None:
                    spawn(group, "watchdog", self._state, _feed_watchdog, period)
                await self._live(group, stack, store)

    async def _serve(self, server: Server) -> None:
        # Loading the HTTP library costs more than all else at start, and subnet.env is what pods wait for. Who
        # connects earlier waits in the listeners' queues.
        await self._clock.wait(self._written, serve_delay_s)
        await server.serve()

    async def _live(self, group: asyncio.TaskGroup, stack: AsyncExitStack, store: Store) -> None:
        options, state, clock = self._options, self._state, self._clock
        host = Host()
        stack.push_async_callback(host.close)
        answer = partial(until_answered, state)
        conf = await answer("config", "the network configuration", store.read_config)
        state.network = tuple(str(net) for net in (conf.network, conf.ipv6_network) if net is not None)
        options = options.at(*await answer("addresses", "what the store says of this node", store.addresses))
        backend = from_conf(conf)
        named = (name for name in backend.device_names if "%" not in name)  # a template gives each daemon another
        stack.enter_context(alone((*named, *state.network)))
        subnet_file.check(options.subnet_file)
        stack.enter_context(subnet_file_lock(options.subnet_file))
        spawn(group, "config", state, follow_config, store, conf, state, clock)
        lives = Lives(Premises(options, state, clock, store, host, conf, backend), self._options, self._written)
        stack.push_async_callback(lives.close)
        await lives.run()


async def _feed_watchdog(period: float) -> None:
    while True:
        tell_systemd("WATCHDOG=1")
        await asyncio.sleep(period)
