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
from dataplane.daemon.begin_late import begin_late
from dataplane.daemon.lives import Lives
from dataplane.daemon.open_store import open_store
from dataplane.daemon.options import Options
from dataplane.daemon.premises import Premises
from dataplane.errors import BadInput, HostError
from dataplane.follow.config import follow_config
from dataplane.follow.heard import Hearing
from dataplane.footprint import record
from dataplane.footprint.alone import alone
from dataplane.footprint.locks import subnet_file_lock
from dataplane.host.netlink import Host
from dataplane.keepers import subnet_file
from dataplane.keepers.opening import Opener, remove_all
from dataplane.observe.health import Server
from dataplane.observe.notify import tell_systemd, watchdog_period
from dataplane.observe.state import NodeState
from dataplane.runtime.clock import WallClock
from dataplane.runtime.tasks import spawn
from dataplane.stores.base import Store
from dataplane.takeover.giving import Giving
from dataplane.takeover.inherited import Inherited
from dataplane.takeover.recorder import Recorder
from dataplane.takeover.systemd import Store as DescriptorStore
from dataplane.takeover.taking import run_dir_lock

log = logging.getLogger(__name__)

serve_delay_s = 1.0
subnet_file_lock_name = "lock subnet-file"
look_s = 1.0  # how often the ends of inherited leases are looked for


class Daemon:
    """One node's daemon: what stands from its first moment to its last.

    Args:
        inherited: the run directory, and what forwards already; None: another daemon has the directory.

    Attributes:
        handed_over: done when another daemon has taken over from us; its process id, 0 if that is not to be seen.
    """

    def __init__(self, options: Options, inherited: Inherited | None) -> None:
        self._options = options
        self._inherited = inherited or Inherited()
        self.handed_over: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._locks: dict[str, int] = {}
        self._clock = WallClock()
        self._written = asyncio.Event()  # subnet.env
        self._state = NodeState(now=self._clock.now, subnet_file=str(options.subnet_file))
        self._descriptors = DescriptorStore(os.environ.get("NOTIFY_SOCKET", ""))
        self._opener = Opener(
            options.workers,
            options.spin_us,
            stays=options.leave_tun,
            store=self._descriptors,
            write_down=partial(record.add_tun, options.run_dir),
        )
        self._recorder = Recorder(options.run_dir, self._opener, self._state)
        self._lives: Lives | None = None

    @property
    def carries(self) -> bool:
        """Whether the run directory is ours: there is something to hand over."""
        return self._inherited.directory is not None and not self.handed_over.done()

    async def run(self) -> None:
        """Start everything and keep it; ends by cancellation or by an error."""
        options = self._options
        for warning in options.warnings:
            log.warning("%s", warning)
        async with AsyncExitStack() as stack:
            host = Host()
            stack.push_async_callback(host.close)
            stack.push_async_callback(self._let_go)
            store = open_store(options)
            stack.push_async_callback(store.close)
            if self._inherited.directory is None:
                self._inherited = await begin_late(options, store)
            self._take_in()
            server = Server(
                self._state, options.run_dir, options.healthz_ip, options.healthz_port, self._inherited.listeners
            )
            stack.push_async_callback(server.close)
            server.open()
            giving = self._giving(server)
            stack.callback(giving.close)
            giving.open()
            async with asyncio.TaskGroup() as group:
                spawn(group, "serve", self._state, self._serve, server)
                period = watchdog_period(os.environ)
                if period is not None:
                    spawn(group, "watchdog", self._state, _feed_watchdog, period)
                spawn(group, "inherited leases", self._state, self._end_leases)
                spawn(group, "takeover", self._state, giving.serve)
                spawn(group, "heard", self._state, Hearing(self._state).run)
                spawn(group, "record", self._state, self._recorder.run)
                self._state.write_down = self._recorder.write
                await self._live(group, stack, store, host)

    async def _serve(self, server: Server) -> None:
        # Loading the HTTP library costs more than all else at start, and subnet.env is what pods wait for. Who
        # connects earlier waits in the listeners' queues.
        await self._clock.wait(self._written, serve_delay_s)
        await server.serve()

    def _take_in(self) -> None:
        """Make what was inherited ours."""
        for note in self._inherited.notes:
            log.warning("%s", note)
        self._descriptors.names |= self._inherited.stored
        self._inherited.give(self._opener)
        self._remove_unknown()
        if self._inherited.running and self._inherited.carried is not None:
            self._state.forwarding_since = self._inherited.carried.since
        if self._inherited.carried is not None:
            self._recorder.inherit(self._inherited.carried)

    def _remove_unknown(self) -> None:
        """Remove TUN devices that stayed and of which nothing else is known, as those of a version with another form."""
        try:
            left = record.read(self._options.run_dir)
        except BadInput as error:
            log.debug("%s", error)  # told where it is written next
            return
        unknown = (
            []
            if left is None or left.is_gone
            else [tun for tun in left.tuns.items() if not self._opener.is_ours(tun[1])]
        )
        try:
            if removed := remove_all(unknown):
                log.warning("removed TUN devices that an earlier life left: %s", ", ".join(removed))
        except HostError as error:
            log.warning("a TUN device that an earlier life left stays: %s", error)

    def _giving(self, server: Server) -> Giving:
        """What hands over to the next daemon."""

        def held() -> dict[str, int]:
            listeners = {**server.listeners(), "takeover": giving.open()}
            ours = {f"listen {name}": listener.fileno() for name, listener in listeners.items()}
            if self._inherited.directory is not None:
                ours[run_dir_lock] = self._inherited.directory.descriptor
            return ours | self._inherited.locks | self._locks

        def handed_over(pid: int) -> None:
            server.is_handed_over = self._recorder.is_over = True
            if self._inherited.directory is not None:
                self._inherited.directory.is_handed_over = True
            self.handed_over.set_result(pid)

        giving = Giving(
            self._options.run_dir,
            self._opener,
            self._recorder.carried,
            held,
            handed_over,
            self._inherited.listeners.pop("takeover", None),
        )
        return giving

    async def _let_go(self) -> None:
        if not self.handed_over.done():
            await self._recorder.write()
        self._opener.is_ending = True
        if self._lives is not None:
            await self._lives.close()

    def end(self) -> None:
        """Forward no more, and give the run directory back: the last step, when all else is done. May be called again."""
        self._opener.leave_all()
        self._inherited.hold.close()

    async def _end_leases(self) -> None:
        while True:
            self._inherited.end_leases(self._opener)
            await asyncio.sleep(look_s)

    async def _live(self, group: asyncio.TaskGroup, stack: AsyncExitStack, store: Store, host: Host) -> None:
        options, state, clock = self._options, self._state, self._clock
        answer = partial(until_answered, state)
        conf = await answer("config", "the network configuration", store.read_config)
        state.network = tuple(str(net) for net in (conf.network, conf.ipv6_network) if net is not None)
        options = options.at(*await answer("addresses", "what the store says of this node", store.addresses))
        backend = from_conf(conf)
        named = (name for name in backend.device_names if "%" not in name)  # a template gives each daemon another
        given = self._inherited.locks
        ours = {name.removeprefix("alone "): fd for name, fd in given.items() if name.startswith("alone ")}
        ours = stack.enter_context(alone((*named, *state.network), given=ours))
        self._locks |= {f"alone {name}": fd for name, fd in ours.items()}
        subnet_file.check(options.subnet_file)
        lock = stack.enter_context(subnet_file_lock(options.subnet_file, given.get(subnet_file_lock_name)))
        if lock is not None:
            self._locks[subnet_file_lock_name] = lock
        if (earlier := given.get(subnet_file_lock_name)) is not None:
            os.close(earlier)
        self._inherited.locks = {}  # they are ours, or closed
        spawn(group, "config", state, follow_config, store, conf, state, clock)
        premises = Premises(options, state, clock, store, host, conf, backend, self._opener, self._recorder)
        self._lives = Lives(premises, self._options, self._written)
        await self._lives.run()


async def _feed_watchdog(period: float) -> None:
    while True:
        tell_systemd("WATCHDOG=1")
        await asyncio.sleep(period)
