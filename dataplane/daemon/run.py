"""The composition root: builds every object of the daemon, runs them as one group of tasks, takes them down in order.

Order of start (flannel main.go): run directory, store, status and health, configuration, interface, kernel device
and VTEP MAC, lease, devices and routes, forwarding table, subnet.env, ready. A node that gets another address or MTU
lives this again from the lease on (`_Life`), one whose lease the store withdraws from the addresses on, however long that
takes. What must stay true: of a TUN nothing is left behind by a clean stop or by a failure, of the kernel's devices and
routes what flannel leaves (leases and subnet.env stay in any case); without a lease nothing is carried; a stop works at
any moment of the start, and a second signal kills.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import replace
from functools import partial
from ipaddress import IPv4Address, IPv6Address
from typing import Any, TypeVar

from dataplane.backends import Backend, DevicePlan, Plan, from_conf
from dataplane.daemon.control import Control
from dataplane.daemon.datapath import choose_datapath, remove_earlier
from dataplane.daemon.follow import Moved, fit_interface, follow_config, follow_interface
from dataplane.daemon.options import Options
from dataplane.daemon.standing import Patience, Standing
from dataplane.daemon.unreachable import UnreachableWatch
from dataplane.errors import (
    BadConfig,
    BadInput,
    CoreError,
    HostError,
    HostFault,
    LeaseLost,
    LeaseWithdrawn,
    NoLease,
    OutOfSubnets,
    StoreBusy,
    StoreError,
)
from dataplane.flannel import subnet_env
from dataplane.footprint import record
from dataplane.footprint.alone import alone, subnet_file_lock
from dataplane.footprint.rundir import run_directory
from dataplane.host.firewall.rules import Encap
from dataplane.host.interface import ExternalInterface, InterfaceChoice, choose
from dataplane.host.losses.kernel_counters import unsent_from_now
from dataplane.host.netlink import Host
from dataplane.keepers.base import Keeper
from dataplane.keepers.blackhole import keep_blackholes
from dataplane.keepers.device import TunDevice
from dataplane.keepers.firewall import Firewall
from dataplane.keepers.peer_routes import Direct
from dataplane.keepers.routes import RouteKeeper
from dataplane.keepers.subnet_file import keep_subnet_file
from dataplane.keepers.tun import TunKeeper
from dataplane.leases.contest import Contest
from dataplane.leases.identity import vtep_macs
from dataplane.leases.renewal import Clock, Renewer, WallClock
from dataplane.model import IPNetwork, Lease, LeaseAttrs, NetConf, Peer
from dataplane.observe.health import Server
from dataplane.observe.notify import notify, watchdog_period
from dataplane.observe.state import InterfaceState, NodeState
from dataplane.runtime.limits import raise_descriptor_limit
from dataplane.runtime.say import Say
from dataplane.runtime.tasks import first_error, spawn
from dataplane.stores.base import Store

log = logging.getLogger(__name__)
Answer = TypeVar("Answer")

config_retry_s = 1.0
announce_retry_s = 10.0
acquire_retry_s = 3.0
acquire_s = 30.0
regain_first_s = 0.25  # of waiting for a lease in place of one that was withdrawn; doubles
regain_longest_s = 3.0  # so that status does not say that the store is silent
serve_delay_s = 1.0


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
    _notify("STOPPING=1")
    work.cancel()
    try:
        await work
    except asyncio.CancelledError:
        log.info("stopped; the lease stays")
    except BaseExceptionGroup as group:
        raise first_error(group) from group
    return 0


class Daemon:
    """One node's daemon: what is built at start, in order."""

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
            store = _store(options)
            stack.push_async_callback(store.close)
            server = Server(self._state, options.run_dir, options.healthz_ip, options.healthz_port)
            stack.push_async_callback(server.close)
            server.open()
            async with asyncio.TaskGroup() as group:
                spawn(group, "serve", self._state, self._serve, server)
                period = watchdog_period(os.environ)
                if period is not None:
                    spawn(group, "watchdog", self._state, self._feed_watchdog, period)
                await self._start(group, stack, store)

    async def _serve(self, server: Server) -> None:
        # Loading the HTTP library costs more than all else at start, and subnet.env is what pods wait for. Who
        # connects earlier waits in the listeners' queues.
        await self._clock.wait(self._written, serve_delay_s)
        await server.serve()

    async def _feed_watchdog(self, period: float) -> None:
        while True:
            _notify("WATCHDOG=1")
            await asyncio.sleep(period)

    async def _start(self, group: asyncio.TaskGroup, stack: AsyncExitStack, store: Store) -> None:
        host = Host()
        stack.push_async_callback(host.close)
        conf = await self._answer("config", "the network configuration", store.read_config)
        self._state.network = tuple(str(net) for net in (conf.network, conf.ipv6_network) if net is not None)
        flags = self._options
        self._place(flags, *await self._answer("addresses", "what the store says of this node", store.addresses))
        backend = from_conf(conf)
        named = (name for name in backend.device_names if "%" not in name)  # a template gives each daemon another
        stack.enter_context(alone((*named, *self._state.network)))
        subnet_env.check(self._options.subnet_file)
        stack.enter_context(subnet_file_lock(self._options.subnet_file))
        spawn(group, "config", self._state, follow_config, store, conf, self._state, self._clock)
        standing, patience = Standing(), Patience(host, self._state, self._clock)
        stack.push_async_callback(standing.close)
        check = partial(_check, conf, backend)
        external: ExternalInterface | None = None
        own: Lease | None = None
        lost: Lease | None = None  # withdrawn, and we have none in its place yet
        while True:
            held = own
            try:
                if lost is not None:
                    self._place(flags, *await _regain(store.addresses, self._state, self._clock))
                options = self._options
                choose_again = partial(choose, host, _interface_choice(options), conf.enable_ipv4, conf.enable_ipv6)
                external = await fit_interface(host, external, choose_again, check)
                self._show(external)
                follow = partial(follow_interface, host, external, choose_again, check, self._state, self._clock)
                life = _Life(options, self._state, self._clock, store, host, conf, backend, external, standing)
                try:
                    await life.run(own, lost, follow, self._written, patience.over)
                finally:
                    own = life.own
                    lost = lost if own is None else None
            except* LeaseWithdrawn as withdrawn:
                text = f"{first_error(withdrawn)}; nothing is carried until there is another"
                log.warning("%s", text)
                self._state.blockers["start"] = text
                await standing.withdraw()
                external, own, lost = None, None, own or held
                await self._forget(host, lost)
            except* LeaseLost:
                # Lost as the node moved: what the life before left must not forward for it either.
                await standing.withdraw()
                raise
            except* Moved as moved:
                log.warning("the external interface is now %s", first_error(moved))
            except* (HostError, CoreError, OSError) as trouble:
                await patience.after(first_error(trouble), stood=self._written.is_set())

    def _place(self, flags: Options, address: IPv4Address | None, address6: IPv6Address | None) -> None:
        """Take over what the store has set as our addresses, in place of the flags'."""
        self._options = replace(flags, public_ip=address or flags.public_ip, public_ipv6=address6 or flags.public_ipv6)

    async def _forget(self, host: Host, lost: Lease | None) -> None:
        """Take away what else there is of a lease that was withdrawn, and what is told of it."""
        state, options = self._state, self._options
        state.lease = None
        state.leases = 0
        for told in (state.devices, state.refused, state.mismatched):
            told.clear()
        for subject in ("lease", "elder", "watch"):
            state.blockers.pop(subject, None)
        state.notes.pop("renewal", None)
        try:
            subnet_env.remove(options.subnet_file)
            for subnet in _subnets(lost) if options.blackhole and lost is not None else ():
                await host.remove_blackhole(subnet)
        except HostError as error:
            log.warning("%s", error)

    async def _answer(self, blocker: str, what: str, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask the store until it answers, for ever, as flannel does; a wrong answer is raised as `BadInput`."""
        said = ""
        while True:
            try:
                answer = await ask()
            except StoreError as error:
                if str(error) != said:
                    said = str(error)
                    log.warning("waiting for %s: %s", what, said)
                self._state.blockers[blocker] = f"waiting for {what}: {error}"
                # Not all in step, where many nodes start at once.
                await asyncio.sleep(config_retry_s * random.uniform(0.5, 1.5))
            else:
                self._state.blockers.pop(blocker, None)
                return answer

    def _show(self, external: ExternalInterface) -> None:
        address = str(external.address or external.address6)
        self._state.interface = InterfaceState(external.name, address, external.mtu, external.reason)
        self._state.interface_drops = unsent_from_now(external.name)


class _Life:
    """What stands and falls with the external interface as it is: lease, devices, routes, and the tasks that keep them.

    Attributes:
        external: the interface.
        own: our lease, once there is one.
    """

    def __init__(
        self,
        options: Options,
        state: NodeState,
        clock: WallClock,
        store: Store,
        host: Host,
        conf: NetConf,
        backend: Backend,
        external: ExternalInterface,
        standing: Standing,
    ) -> None:
        self._options = options
        self._state = state
        self._clock = clock
        self._store = store
        self._host = host
        self._conf = conf
        self._backend = backend
        self.external = external
        self._standing = standing
        self._watches: dict[str, Callable[[], Coroutine[Any, Any, None]]] = {}  # by what is watched
        self.own: Lease | None = None

    async def run(
        self,
        earlier: Lease | None,
        lost: Lease | None,
        follow: Callable[[], Coroutine[Any, Any, None]],
        written: asyncio.Event,
        stands: Callable[[], None],
    ) -> None:
        """Live until something ends it: cancellation, an error, or `Moved` (in a group).

        Args:
            earlier: the lease of the life before, if there was one.
            lost: the same where it was withdrawn.
            follow: raises `Moved` once the external interface is another.
            written: set once subnet.env stands.
            stands: called then.
        """
        self._tell_mtu()
        own = await self._lease(earlier, lost)
        control, renewer, contest = self._control(own)
        rules = self._firewall(own)
        first = not written.is_set()
        async with asyncio.TaskGroup() as group:
            spawn(group, "watch", self._state, control.watch, self._store)
            spawn(group, "ping", self._state, control.ping, self._store)
            spawn(group, "renew", self._state, renewer.run)
            spawn(group, "contest", self._state, contest.run)
            spawn(group, "interface", self._state, follow)
            if not first:
                await control.synced.wait()  # what stands forwards on until the peers are known
            await self._standing.replace(control)
            await control.open(first=first)
            spawn(group, "resync", self._state, control.resync)
            await control.synced.wait()
            await control.stand()
            if first:
                await remove_earlier(self._host, *await self._left(), keep=self._backend.device_names)
            await rules.open(first=first)
            env = self._ready(own, first=first)
            written.set()
            stands()
            spawn(group, "subnet file", self._state, self._keep_subnet_file, env)
            spawn(group, "program", self._state, control.program)
            spawn(group, "listen", self._state, control.listen, self._host)
            spawn(group, "firewall", self._state, rules.run)
            for name, watch in self._watches.items():
                spawn(group, name, self._state, watch)
            spawn(group, "announce", self._state, self._announce)
            if self._options.blackhole:
                spawn(group, "blackhole", self._state, self._keep_blackholes, own)

    def _control(self, own: Lease) -> tuple[Control, Renewer, Contest]:
        external = self.external
        plans = self._backend.plans(
            self._conf,
            own,
            interface=external.name,
            interface_mtu=external.mtu,
            address=external.address,
            address6=external.address6,
        )
        renewer = Renewer(
            self._store, own, self._options.renew_margin, self._clock, self._renewed, self._renewal_failed
        )
        contest = Contest(own, self._state, self._clock, renewer.doubt)
        self._state.devices.clear()
        control = Control(
            self._conf,
            own,
            self._backend,
            plans,
            keep=self._keep,
            state=self._state,
            clock=self._clock,
            doubt=renewer.doubt,
            contested=contest.written,
        )
        return control, renewer, contest

    def _firewall(self, own: Lease) -> Firewall:
        options = self._options
        return Firewall(
            self._conf,
            own,
            masquerade=options.masquerade,
            forward=options.forward,
            random_fully=options.random_fully,
            resync_s=options.resync_s,
            previous=subnet_env.read(options.subnet_file),
            state=self._state,
            clock=self._clock,
            encap=Encap(self._backend.encap_port, self.external.name),
        )

    def _write_footprint(self, macs: Mapping[int, bytes], subnets: tuple[IPNetwork, ...] = ()) -> None:
        """Write down what may be left; `macs` are planned ones until there are subnets."""
        options, conf, backend = self._options, self._conf, self._backend
        kernels = (
            () if options.datapath == "userspace" else zip(backend.mac_families, backend.device_names, strict=False)
        )
        left = record.Footprint(
            devices={name: frozenset({macs[family].hex(":")}) for family, name in kernels},
            interfaces=(self.external.name,),
            networks=tuple(net for net in (conf.network, conf.ipv6_network) if net is not None),
            subnets=subnets,
            blackhole=options.blackhole,
            firewall=True,
            subnet_file=str(options.subnet_file.absolute()),
        )
        record.add(options.run_dir, left, made=bool(subnets))

    async def _left(self) -> tuple[Sequence[str], tuple[IPNetwork, ...]]:
        """Return devices and overlay networks of our lives, this one and earlier ones."""
        left = record.read(self._options.run_dir)
        if left is None:
            return (), ()
        names = []
        for name, macs in left.devices.items():
            if reason := await record.strange(self._host, name, macs):
                log.warning("left alone: %s", reason)
            else:
                names.append(name)
        return names, left.networks

    async def _keep_subnet_file(self, env: subnet_env.SubnetEnv) -> None:
        await keep_subnet_file(self._options.subnet_file, env, self._state, self._clock)

    async def _keep_blackholes(self, own: Lease) -> None:
        await keep_blackholes(self._host, _subnets(own), self._options.resync_s, self._state, self._clock)

    def _keep(self, plan: Plan, wanted: Mapping[IPNetwork, Peer]) -> Sequence[Keeper]:
        host, state, options = self._host, self._state, self._options
        if not isinstance(plan, DevicePlan):
            return (RouteKeeper(plan, wanted, host, state, Direct.always),)
        self._watches[f"unreachable peers {plan.name}"] = UnreachableWatch(plan, state, self._clock).run
        if plan.link is not None and state.datapath is not None and state.datapath.kind == "kernel":
            from dataplane.keepers.kernel import KernelKeeper

            keeper = KernelKeeper(plan, plan.link, wanted, host, state)
            self._watches[f"senders {plan.name}"] = keeper.watch
            return (keeper,)
        open_device = partial(TunDevice, workers=options.workers, spin_us=options.spin_us)
        tun = TunKeeper(plan, wanted, open_device, host, state, options.workers)
        direct = Direct.on_link if plan.direct_routing else Direct.never
        return tun, RouteKeeper(plan, wanted, host, state, direct, beside=state.devices[plan.name])

    def _tell_mtu(self) -> None:
        fault = self._backend.mtu_fault(self.external.mtu)
        if fault:
            log.warning("%s", fault)
            self._state.notes["mtu"] = fault
        else:
            self._state.notes.pop("mtu", None)

    async def _lease(self, earlier: Lease | None, lost: Lease | None) -> Lease:
        backend, external = self._backend, self.external
        macs: Mapping[int, bytes]
        before = earlier or lost
        if before is None:
            identity = external.public_ip or external.public_ipv6
            macs = await self._patiently(lambda: vtep_macs(self._store, backend, identity))
        else:
            macs = backend.macs_of(before)
        if before is None or self._state.datapath is None:
            # Once only: what stands needs its names and ports for itself, and a host in change is no reason to change sides.
            self._write_footprint(macs)
            left, networks = await self._left()
            datapath, macs = await choose_datapath(
                self._options.datapath, backend, self._host, external, macs, left, networks
            )
            self._state.datapath = datapath
            self._state.backend = backend.kind
            self._state.vtep_mac = next(iter(macs.values())).hex(":") if macs else ""
            log.info("backend %s, datapath %s: %s", backend.kind, datapath.kind, datapath.reason)
        attrs = backend.lease_attrs(external.public_ip, external.public_ipv6, macs)
        if earlier is not None:
            own = await self._move(earlier, attrs)
        elif lost is not None:
            own = await _regain(lambda: self._store.acquire(attrs, None), self._state, self._clock)
        else:
            own = await self._acquire(attrs)
        log.info("lease %s", own.key)
        self._write_footprint(macs, _subnets(own))
        self.own = self._state.lease = own
        self._state.store_contact = self._clock.now()
        return own

    async def _acquire(self, attrs: LeaseAttrs) -> Lease:
        """Take our lease; raises `StoreError`."""
        earlier = subnet_env.read(self._options.subnet_file)
        previous = None
        if earlier.subnet is not None or earlier.ipv6_subnet is not None:
            previous = Lease(earlier.subnet, earlier.ipv6_subnet, LeaseAttrs())
        return await self._patiently(lambda: self._store.acquire(attrs, previous))

    async def _patiently(self, ask: Callable[[], Awaitable[Answer]]) -> Answer:
        """Ask the store on the way to our lease: for half a minute, and for ever while it is only busy."""
        end = time.monotonic() + acquire_s
        while True:
            try:
                answer = await ask()
            except StoreError as error:
                late = time.monotonic() + acquire_retry_s > end and not isinstance(error, StoreBusy)
                if late or isinstance(error, OutOfSubnets):
                    raise
                self._state.blockers["acquire"] = f"no lease yet: {error}"
                log.warning("no lease yet, trying again: %s", error)
                await asyncio.sleep(acquire_retry_s * random.uniform(0.5, 1.5))
            else:
                self._state.blockers.pop("acquire", None)
                return answer

    async def _move(self, earlier: Lease, attrs: LeaseAttrs) -> Lease:
        """Tell the peers where we are now, for as long as it takes; raises `LeaseLost`."""
        while True:
            try:
                return await self._store.renew(earlier, attrs)
            except LeaseLost:
                raise
            except StoreError as error:
                self._state.blockers["moved"] = f"our new address cannot be told to the peers: {error}"
                log.warning("%s", self._state.blockers["moved"])
                await asyncio.sleep(config_retry_s)
            finally:
                self._state.blockers.pop("moved", None)

    async def _announce(self) -> None:
        """Have the store told that our network is there, for as long as it takes, and where it keeps that told, for ever."""
        say = Say(log)
        while True:
            try:
                await self._store.announce()
            except StoreError as error:
                say.warn("announce", f"cannot say that the network is there: {error}", self._clock.now())
                await asyncio.sleep(announce_retry_s * random.uniform(0.5, 1.5))
            else:
                await asyncio.get_running_loop().create_future()

    def _ready(self, own: Lease, *, first: bool) -> subnet_env.SubnetEnv:
        conf, options = self._conf, self._options
        env = subnet_env.SubnetEnv(
            network=conf.network if conf.enable_ipv4 else None,
            subnet=own.subnet,
            ipv6_network=conf.ipv6_network if conf.enable_ipv6 else None,
            ipv6_subnet=own.ipv6_subnet,
            mtu=self._backend.mtu(self.external.mtu),
            ip_masq=options.masquerade,
        )
        try:
            subnet_env.write(options.subnet_file, env)
        except HostError:
            if first:
                raise  # later `keep_subnet_file` tells, and tries again
        self._state.blockers.pop("start", None)
        log.info("ready: %s peers, wrote %s", self._state.leases, options.subnet_file)
        _notify("READY=1", f"STATUS=lease {own.key}, {self._state.leases} peers")
        return env

    def _renewed(self, lease: Lease) -> None:
        self.own = self._state.lease = lease
        self._state.events["lease_renewals"] += 1

    def _renewal_failed(self, error: str | None) -> None:
        if error is None:
            self._state.notes.pop("renewal", None)
            return
        self._state.events["store_errors"] += 1
        self._state.notes["renewal"] = f"our lease could not be renewed: {error}"
        log.warning("our lease could not be renewed, trying again: %s", error)


async def _regain(ask: Callable[[], Awaitable[Answer]], state: NodeState, clock: Clock) -> Answer:
    """Ask the store, which has withdrawn our lease, until it has one for us again, for ever."""
    delay, said = regain_first_s, ""
    while True:
        try:
            answer = await ask()
        except (StoreError, BadInput) as error:
            if isinstance(error, NoLease | BadInput):
                state.store_contact = clock.now()
            text = f"no lease yet: {error}"
            if text != said:
                log.warning("%s", text)
            state.blockers["acquire"] = said = text
            # Not all in step, where many Nodes were deleted at once.
            await asyncio.sleep(delay * random.uniform(0.75, 1.25))
            delay = min(regain_longest_s, 2 * delay)
        else:
            state.blockers.pop("acquire", None)
            return answer


def _check(conf: NetConf, backend: Backend, external: ExternalInterface) -> None:
    """Raise what keeps a life from standing, before there is a lease by which peers would send to us.

    Raises:
        HostFault: the interface's address or MTU does not go together with the network configuration.
    """
    for ip, network in ((external.public_ip, conf.network), (external.public_ipv6, conf.ipv6_network)):
        if ip is not None and network is not None and ip in network:
            raise HostFault(f"public address {ip} is inside the overlay network {network}; peers would refuse it")
    try:
        backend.mtu(external.mtu)
    except BadConfig as error:
        raise HostFault(f"interface {external.name} has MTU {external.mtu}: {error}") from error


def _subnets(own: Lease) -> tuple[IPNetwork, ...]:
    return tuple(subnet for subnet in (own.subnet, own.ipv6_subnet) if subnet is not None)


def _interface_choice(options: Options) -> InterfaceChoice:
    return InterfaceChoice(
        options.iface, options.iface_regex, options.iface_can_reach, options.public_ip, options.public_ipv6
    )


def _notify(*lines: str) -> None:
    try:
        notify(*lines)
    except HostError as error:
        log.warning("%s", error)


def _store(options: Options) -> Store:
    # Only the store in use is imported: start must be quick, and those of extras need packages that need not be there.
    if options.kube is not None:
        with _extra("kube", "--kube-subnet-mgr", "lightkube", "httpx2", "httpcore2", "yaml"):
            from dataplane.stores.kube.store import KubeStore

        return KubeStore(options.kube, options.net_config_path)
    if options.etcd is not None:
        with _extra("etcd", "--etcd-endpoints", "grpc", "google"):
            from dataplane.stores.etcd.store import EtcdStore

        return EtcdStore(options.etcd)
    from dataplane.stores.embedded.store import LocalStore

    return LocalStore(options.lease_dir, options.net_config_path)


@contextmanager
def _extra(name: str, flag: str, *packages: str) -> Iterator[None]:
    """Say of a missing package which extra brings it."""
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in packages:
            raise
        raise BadInput(
            f"{flag} needs the extra [{name}], whose package {error.name} is not installed: "
            f"pip install 'flannel-dataplane[{name}]'"
        ) from None
