"""One life after another: a node that gets another address or MTU, or whose lease is withdrawn, begins again.

A node that moves lives again from its lease on, one whose lease the store withdraws from its addresses on, however long
that takes. What must stay true: what stood forwards on until the next life is about to build, but for a lease that is
lost, for which nothing is forwarded any more.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from functools import partial

from dataplane.backends import Backend
from dataplane.control.standing import Standing
from dataplane.daemon.asking import until_regained
from dataplane.daemon.life import Life
from dataplane.daemon.options import Options
from dataplane.daemon.patience import Patience
from dataplane.daemon.premises import Premises
from dataplane.errors import BadConfig, CoreError, HostError, HostFault, LeaseLost, LeaseWithdrawn, Moved
from dataplane.follow.interface import fit_interface, follow_interface
from dataplane.host.choosing import choose
from dataplane.host.interface import ExternalInterface, InterfaceChoice
from dataplane.host.losses.kernel_counters import unsent_from_now
from dataplane.keepers import subnet_file
from dataplane.model import Lease, NetConf
from dataplane.observe.state import InterfaceState
from dataplane.runtime.tasks import first_error

log = logging.getLogger(__name__)


class Lives:
    """All lives of this daemon.

    Args:
        flags: the options before the store had its say about our addresses.
        written: set once subnet.env stands, for the first time.
    """

    def __init__(self, premises: Premises, flags: Options, written: asyncio.Event) -> None:
        self._premises = premises
        self._flags = flags
        self._written = written
        self._standing = Standing()

    async def close(self) -> None:
        """Let go of what forwards."""
        await self._standing.close()

    async def run(self) -> None:
        """Live for ever; ends by cancellation or by an error."""
        state, clock, store, host = (
            self._premises.state,
            self._premises.clock,
            self._premises.store,
            self._premises.host,
        )
        patience = Patience(host, state, clock)
        check = partial(_check, self._premises.conf, self._premises.backend)
        external: ExternalInterface | None = None
        own: Lease | None = None
        lost: Lease | None = None  # withdrawn, and we have none in its place yet
        while True:
            held = own
            try:
                if lost is not None:
                    addresses = await until_regained(state, clock, store.addresses)
                    self._premises = replace(self._premises, options=self._flags.at(*addresses))
                premises = self._premises
                choose_again = partial(_choose, premises)
                external = await fit_interface(host, external, choose_again, check)
                self._show(external)
                follow = partial(follow_interface, host, external, choose_again, check, state, clock)
                life = Life(premises, external)
                try:
                    await life.run(own, lost, self._standing, follow, self._written, patience.over)
                finally:
                    own = life.own
                    lost = lost if own is None else None
            except* LeaseWithdrawn as withdrawn:
                text = f"{first_error(withdrawn)}; nothing is carried until there is another"
                log.warning("%s", text)
                state.blockers["start"] = text
                await self._standing.withdraw()
                external, own, lost = None, None, own or held
                await self._forget(lost)
            except* LeaseLost:
                # Lost as the node moved: what the life before left must not forward for it either.
                await self._standing.withdraw()
                raise
            except* Moved as moved:
                log.warning("the external interface is now %s", first_error(moved))
            except* (HostError, CoreError, OSError) as trouble:
                await patience.after(first_error(trouble), stood=self._written.is_set())

    async def _forget(self, lost: Lease | None) -> None:
        """Take away what else there is of a lease that was withdrawn, and what is told of it."""
        state, options = self._premises.state, self._premises.options
        state.lease = None
        state.leases = 0
        for told in (state.devices, state.refused, state.mismatched):
            told.clear()
        for subject in ("lease", "elder", "watch"):
            state.blockers.pop(subject, None)
        state.notes.pop("renewal", None)
        try:
            self._premises.recorder.forget()
            subnet_file.remove(options.subnet_file)
            for subnet in lost.subnets if options.blackhole and lost is not None else ():
                await self._premises.host.remove_blackhole(subnet)
        except HostError as error:
            log.warning("%s", error)

    def _show(self, external: ExternalInterface) -> None:
        address = str(external.address or external.address6)
        self._premises.state.interface = InterfaceState(external.name, address, external.mtu, external.reason)
        self._premises.state.interface_drops = unsent_from_now(external.name)


async def _choose(premises: Premises) -> ExternalInterface:
    options, conf = premises.options, premises.conf
    choice = InterfaceChoice(
        options.iface, options.iface_regex, options.iface_can_reach, options.public_ip, options.public_ipv6
    )
    return await choose(premises.host, choice, conf.enable_ipv4, conf.enable_ipv6)


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
