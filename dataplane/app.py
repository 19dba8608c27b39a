"""The composition root: builds every object of the daemon, runs them as one group of tasks, takes them down in order.

Order of start (flannel main.go): run directory, status and health, store, configuration, interface, VTEP MAC,
lease, devices, forwarding table, subnet.env, ready. What must stay true: nothing on the host is left behind by a
clean stop or by a failure (leases and subnet.env stay, as flannel's do), a stop works at any moment of the start,
and a second signal kills.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from contextlib import AsyncExitStack
from functools import partial

from dataplane import subnet_env
from dataplane.backends.base import Backend, DevicePlan
from dataplane.control.device import TunDevice
from dataplane.control.identity import vtep_macs
from dataplane.control.loop import Control
from dataplane.control.options import Options
from dataplane.control.renew import Renewer, WallClock
from dataplane.control.rundir import run_directory
from dataplane.control.tasks import first_error, spawn
from dataplane.errors import BadConfig, BadInput, HostError, StoreError
from dataplane.host.interface import ExternalInterface, InterfaceChoice, choose
from dataplane.host.netlink import Host
from dataplane.model import Lease, LeaseAttrs, NetConf, type_udp, type_vxlan
from dataplane.observe.health import Server
from dataplane.observe.notify import notify_ready
from dataplane.observe.state import Datapath, InterfaceState, NodeState
from dataplane.stores.base import Store

log = logging.getLogger(__name__)

config_retry_s = 1.0
serve_delay_s = 1.0


def run(options: Options) -> int:
    """Run the daemon until SIGTERM or SIGINT; returns 0, or raises what ended it."""
    import uvloop

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
            server = Server(self._state, options.run_dir, options.healthz_ip, options.healthz_port)
            stack.push_async_callback(server.close)
            server.open()
            async with asyncio.TaskGroup() as group:
                spawn(group, "serve", self._serve(server))
                await self._start(group, stack)

    async def _serve(self, server: Server) -> None:
        # Loading the HTTP library costs more than all else at start, and subnet.env is what pods wait for. Who
        # connects earlier waits in the listeners' queues.
        await self._clock.wait(self._written, serve_delay_s)
        await server.serve()

    async def _start(self, group: asyncio.TaskGroup, stack: AsyncExitStack) -> None:
        options = self._options
        store = _store(options)
        stack.push_async_callback(store.close)
        host = Host()
        stack.push_async_callback(host.close)
        conf = await self._config(store)
        backend = _backend(conf)
        external = await self._interface(host, conf)
        self._check(conf, backend, external)
        own = await self._lease(store, backend, external)
        plans = self._plans(conf, backend, own, external)
        renewer = Renewer(store, own, options.renew_margin, self._clock, self._renewed, self._renewal_failed)
        control = Control(
            conf,
            own,
            backend,
            plans,
            open_device=partial(TunDevice, workers=options.workers, spin_us=options.spin_us),
            host=host,
            state=self._state,
            clock=self._clock,
            workers=options.workers,
            doubt=renewer.doubt,
        )
        stack.push_async_callback(control.close)
        await control.open()
        spawn(group, "watch", control.watch(store))
        spawn(group, "ping", control.ping(store))
        await control.synced.wait()
        self._ready(conf, backend, own, external)
        spawn(group, "listen", control.listen(host))
        spawn(group, "resync", control.resync())
        spawn(group, "renew", renewer.run())

    async def _config(self, store: Store) -> NetConf:
        """Read the configuration, waiting for it for ever, as flannel does; a wrong one is raised as `BadConfig`."""
        said = ""
        while True:
            try:
                conf = await store.read_config()
            except StoreError as error:
                if str(error) != said:
                    said = str(error)
                    log.warning("waiting for the network configuration: %s", said)
                self._state.blockers["config"] = f"waiting for the network configuration: {error}"
                await asyncio.sleep(config_retry_s)
            else:
                self._state.blockers.pop("config", None)
                self._state.network = tuple(str(net) for net in (conf.network, conf.ipv6_network) if net is not None)
                return conf

    async def _interface(self, host: Host, conf: NetConf) -> ExternalInterface:
        options = self._options
        choice = InterfaceChoice(
            options.iface, options.iface_regex, options.iface_can_reach, options.public_ip, options.public_ipv6
        )
        external = await choose(host, choice, conf.enable_ipv4, conf.enable_ipv6)
        address = str(external.address or external.address6)
        self._state.interface = InterfaceState(external.name, address, external.mtu, external.reason)
        log.info("external interface %s, address %s: %s", external.name, address, external.reason)
        return external

    def _check(self, conf: NetConf, backend: Backend, external: ExternalInterface) -> None:
        """Raise what would end the start anyway, before there is a lease by which peers would send to us."""
        from dataplane.host.tun import check_tun

        for ip, network in ((external.public_ip, conf.network), (external.public_ipv6, conf.ipv6_network)):
            if ip is not None and network is not None and ip in network:
                raise HostError(f"public address {ip} is inside the overlay network {network}; peers would refuse it")
        subnet_env.check(self._options.subnet_file)
        for name in backend.device_names:
            check_tun(name)

    async def _lease(self, store: Store, backend: Backend, external: ExternalInterface) -> Lease:
        macs = await vtep_macs(store, backend, external.public_ip or external.public_ipv6)
        attrs = backend.lease_attrs(external.public_ip, external.public_ipv6, macs)
        earlier = subnet_env.read(self._options.subnet_file)
        previous = None
        if earlier.subnet is not None or earlier.ipv6_subnet is not None:
            previous = Lease(earlier.subnet, earlier.ipv6_subnet, LeaseAttrs())
        own = await store.acquire(attrs, previous)
        log.info("lease %s", own.key)
        self._state.lease = own
        self._state.store_contact = self._clock.now()
        return own

    def _plans(
        self, conf: NetConf, backend: Backend, own: Lease, external: ExternalInterface
    ) -> tuple[DevicePlan, ...]:
        plans = backend.devices(
            conf,
            own,
            interface=external.name,
            interface_mtu=external.mtu,
            address=external.address,
            address6=external.address6,
        )
        self._state.backend = backend.wire
        self._state.datapath = _datapath(backend, self._options.datapath)
        self._state.vtep_mac = plans[0].vtep_mac.hex(":") if backend.mac_families else ""
        log.info("backend %s, datapath %s: %s", backend.wire, self._state.datapath.kind, self._state.datapath.reason)
        return plans

    def _ready(self, conf: NetConf, backend: Backend, own: Lease, external: ExternalInterface) -> None:
        env = subnet_env.SubnetEnv(
            network=conf.network if conf.enable_ipv4 else None,
            subnet=own.subnet,
            ipv6_network=conf.ipv6_network if conf.enable_ipv6 else None,
            ipv6_subnet=own.ipv6_subnet,
            mtu=backend.mtu(external.mtu),
            # This release makes no masquerade rules, so the CNI plugin must be told to make its own.
            ip_masq=False,
        )
        subnet_env.write(self._options.subnet_file, env)
        self._written.set()
        self._state.blockers.pop("start")
        log.info("ready: %s peers, wrote %s", self._state.leases, self._options.subnet_file)
        try:
            notify_ready()
        except HostError as error:
            log.warning("%s", error)

    def _renewed(self, lease: Lease) -> None:
        self._state.lease = lease
        self._state.events["lease_renewals"] += 1

    def _renewal_failed(self, error: str | None) -> None:
        if error is None:
            self._state.notes.pop("renewal", None)
            return
        self._state.events["store_errors"] += 1
        self._state.notes["renewal"] = f"our lease could not be renewed: {error}"
        log.warning("our lease could not be renewed, trying again: %s", error)


def _store(options: Options) -> Store:
    # Only the store in use is imported: start must be quick, and etcd's needs packages that need not be there.
    if options.etcd is None:
        from dataplane.stores.local import LocalStore

        return LocalStore(options.lease_dir, options.net_config_path)
    try:
        from dataplane.stores.etcd import EtcdStore
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("grpc", "google"):
            raise
        raise BadInput(
            f"--etcd-endpoints needs the extra [etcd], whose package {error.name} is not installed: "
            "pip install 'flannel-dataplane[etcd]'"
        ) from None
    return EtcdStore(options.etcd)


def _backend(conf: NetConf) -> Backend:
    # Only the backend in use is imported: start must be quick.
    if conf.backend_type == type_udp:
        from dataplane.backends.udp import UdpBackend

        return UdpBackend.from_conf(conf)
    if conf.backend_type == type_vxlan:
        from dataplane.backends.vxlan import VxlanBackend

        return VxlanBackend.from_conf(conf)
    raise BadConfig(f"Backend.Type: unknown backend type {conf.backend_type!r}; allowed now: {type_udp}, {type_vxlan}")


def _datapath(backend: Backend, asked: str) -> Datapath:
    if backend.wire == type_udp:
        return Datapath("userspace", "the udp backend has no other")
    if asked == "auto":
        return Datapath("userspace", "--datapath auto: this release has no other")
    return Datapath("userspace", f"--datapath {asked} was asked for")
