"""Keeps plain routes to peers: all of host-gw, and with DirectRouting those past a TUN to the peers on our own link.

Beside a TUN without DirectRouting it only removes, once, routes that an earlier life left: they would shadow the TUN's.

What must stay true: the routes stay when the daemon ends, so that traffic goes on over a restart, as under flannel;
where they go past a TUN its table knows these peers too, so that losing a route costs speed and not the way.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping

from dataplane.backends.base import Plan
from dataplane.errors import HostError
from dataplane.host.links import Link
from dataplane.keepers.base import HostNet, find_external
from dataplane.keepers.peer_routes import Direct, PeerRoutes
from dataplane.leases.diff import Change
from dataplane.model import IPNetwork, Peer
from dataplane.observe.kernel import KernelForwarding
from dataplane.observe.state import DeviceState, NodeState
from dataplane.runtime.pieces import pieces_of
from dataplane.runtime.say import Say

log = logging.getLogger(__name__)


class RouteKeeper:
    """The routes of one plan, kept.

    Args:
        wanted: peers by prefix, our own subnets (without a next hop) included; read at each call.
        direct: which peers have routes.
        beside: state of the TUN that these routes go past; None: they are all there is (host-gw).
    """

    def __init__(
        self,
        plan: Plan,
        wanted: Mapping[IPNetwork, Peer],
        host: HostNet,
        state: NodeState,
        direct: Direct,
        beside: DeviceState | None = None,
    ) -> None:
        self.plan = plan
        self._wanted = wanted
        self._host = host
        self._state = state
        self._say = Say(log)
        self._pending: set[IPNetwork] = set()
        self._lock = asyncio.Lock()
        self._alone = beside is None
        self._unfit = True
        self._seen = DeviceState(plan.interface, plan.mtu) if beside is None else beside
        if beside is None:
            state.devices[plan.name] = self._seen
        self._routes = PeerRoutes(plan, wanted, host, state, self._seen, direct)

    @property
    def failed(self) -> bool:
        """Whether the interface was not fit for use when last looked at."""
        return self._unfit

    async def open(self) -> None:
        """See that the interface is fit for use; raises `HostError`."""
        await self._fit()

    async def _fit(self) -> Link:
        self._unfit = True
        interface = await find_external(self._host, self.plan.interface, self.plan.underlay_address)
        self._unfit = False
        if self._alone:
            self._seen.index = interface.index
            if self._seen.forwarding is None:
                self._seen.forwarding = KernelForwarding(self._wanted)
        return interface

    async def close(self) -> None:
        """Leave the routes as they are."""

    async def withdraw(self) -> None:
        """Remove all routes made here."""
        async with self._lock:
            await self._routes.remove_all()

    def publish(self, change: Change) -> None:
        """Note what changed, for `flush`."""
        self._pending.update(change.remove, (peer.prefix for peer in change.put))

    async def flush(self) -> None:
        """Change the routes of what `publish` noted."""
        if self._pending:
            await self._guarded(whole=False)

    async def ensure(self) -> None:
        """Put back whatever is missing; failures end as `state.blockers` and are tried again at the next call."""
        await self._guarded(whole=True)

    async def _guarded(self, *, whole: bool) -> None:
        subject = f"routes {self.plan.name}"
        async with self._lock:
            try:
                interface = await self._fit()
                prefixes, self._pending = self._pending, set()
                if whole:
                    await self._routes.ensure(interface.index, None)
                else:
                    for some in pieces_of(prefixes):
                        await self._routes.judge(some)
                        await self._routes.apply(some, interface.index, None)
                    self._state.events["table_updates"] += self._alone
            except HostError as error:
                if self._alone:  # else the TUN's keeper tells the same
                    self._state.blockers[subject] = f"{self.plan.name}: {error}"
                    self._say.warn("routes", f"{self.plan.name}: {error}", self._state.now())
            else:
                if self._alone:
                    self._state.blockers.pop(subject, None)
                    self._say.over("routes", f"{self.plan.name}: all is in place again")
