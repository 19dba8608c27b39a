"""The kernel's routes to peers' subnets: through a vxlan device, or straight to the peer where both share a link.

    10.244.2.0/24 via 10.244.2.0 dev flannel.1 onlink      by the kernel's vxlan device
    10.244.2.0/24 via 192.0.2.2 dev eth0                   host-gw, and DirectRouting for a peer on our link

Which peers share a link with us is asked of the kernel, and again whenever a route that is not ours changes. What must
stay true: of routes inside the overlay only those of a peer's shape are ever removed, our own subnet's never; one route
that the kernel refuses does not keep back the others.

Source: flannel pkg/backend/route_network.go, pkg/ip/iface.go (DirectRouting); flannel.md sections 5.4, 5.5 and 6.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from enum import Enum

from dataplane.backends.base import Plan
from dataplane.host.routes import Route, rtprot_boot
from dataplane.keepers.base import HostNet
from dataplane.model import IPAddress, IPNetwork, Peer
from dataplane.observe.state import DeviceState, NodeState
from dataplane.runtime.pieces import paced, pieces_of
from dataplane.runtime.say import Say

log = logging.getLogger(__name__)

named_at_once = 10  # routes named in the log when many are refused or put back


class Direct(Enum):
    """Which peers are routed to straight."""

    never = 0
    on_link = 1
    always = 2


class PeerRoutes:
    """Keeps one kernel route for each wanted peer that needs one.

    Args:
        wanted: peers by prefix, our own subnets (without a next hop) included; read at each call.
        seen: where the prefixes of direct peers are noted.
        direct: which peers are routed to straight; the others go through the device, if there is one.
    """

    def __init__(
        self,
        plan: Plan,
        wanted: Mapping[IPNetwork, Peer],
        host: HostNet,
        state: NodeState,
        seen: DeviceState,
        direct: Direct,
    ) -> None:
        self._plan = plan
        self._wanted = wanted
        self._host = host
        self._state = state
        self._seen = seen
        self._direct = direct
        self._say = Say(log)
        self._reached: dict[IPAddress, int] | None = None  # next hops on our link, by which link; None: ask again
        self._others: frozenset[Route] | None = None
        self._made: dict[IPNetwork, Route] = {}
        self._swept = False
        self._stale: list[Route] = []  # found by `look`, removed by `apply` once the new way stands
        self._missing: list[str] = []  # found by `look`, put back by `apply`
        self._refused: set[IPNetwork] = set()

    async def apply(self, prefixes: Collection[IPNetwork], interface: int, device: int | None) -> None:
        """Bring the routes of these prefixes, which `judge` or `look` has seen, up to date.

        Args:
            interface, device: indices of the external interface and of the vxlan device, None without one.
        Raises:
            HostError: the kernel cannot be asked at all.
        """
        put, remove = [], []
        for prefix in prefixes:
            route, made = self._route(prefix, interface, device), self._made.get(prefix)
            if route is not None and route != made:
                put.append(route)
                remove += self._in_the_way(route)
            elif route is None and made is not None:
                remove.append(made)
        refused = await self._host.change_routes(put, remove)
        for route in remove:
            if route not in refused and self._made.get(route.prefix) == route:
                del self._made[route.prefix]
        self._made.update({route.prefix: route for route in put if route not in refused})
        self._tell({route.prefix: text for route, text in refused.items()}, prefixes)
        missing, self._missing = self._missing, []
        if missing:
            self._state.events["repairs"] += len(missing)
            text = f"{self._plan.name}: put back routes that were gone or changed: {_some(missing)}"
            self._say.warn("missing", text, self._state.now())

    async def ensure(self, interface: int, device: int | None) -> None:
        """Look at all routes and put back what is missing; the first time also remove an earlier life's."""
        for prefixes in pieces_of(await self.look(interface, device)):
            await self.apply(prefixes, interface, device)
        await self.sweep()

    async def look(self, interface: int, device: int | None) -> set[IPNetwork]:
        """Find out which routes there are; return every prefix that `apply` should be given. Raises `HostError`.

        The first time also what an earlier life left, which `sweep` then removes.
        """
        if self._swept and self._direct is Direct.never and device is None:
            return set()  # there are none
        found: dict[IPNetwork, list[Route]] = {}
        others = []
        for version in {network.version for network in self._plan.networks}:
            async for route in paced(await self._host.main_routes(version)):
                if self._is_overlay(route.prefix):
                    found.setdefault(route.prefix, []).append(route)
                else:
                    others.append(route)
        if self._others != frozenset(others):
            self._others = frozenset(others)
            self._reached = None
        prefixes = {*self._wanted, *self._made}
        await self.judge(prefixes)
        async for prefix in paced(prefixes):
            wanted, made = self._route(prefix, interface, device), self._made.pop(prefix, None)
            present = next((route for route in found.get(prefix, ()) if route in (made, wanted)), None)
            if present is not None:
                self._made[prefix] = present
            elif made is not None and wanted is not None:
                self._missing.append(str(prefix))
        if not self._swept:
            self._stale = [
                route
                async for prefix, routes in paced(found.items())
                for route in routes
                if is_peer_route(route, (interface, device), self._plan.subnets)
                and route != self._route(prefix, interface, device)
            ]
        return prefixes

    async def remove_all(self) -> None:
        """Remove every route made here; raises `HostError`."""
        await self._host.change_routes((), tuple(self._made.values()))
        self._made.clear()

    def forget(self) -> None:
        """The device was made anew: its routes went with it."""
        self._made.clear()

    def is_direct(self, peer: Peer) -> bool:
        """Whether the peer is routed to straight, as far as was found out."""
        if self._direct is Direct.on_link:
            return self._reached is not None and peer.next_hop in self._reached
        return self._direct is Direct.always

    async def judge(self, prefixes: Collection[IPNetwork]) -> None:
        """Find out which of these prefixes' next hops are on our link, or of all if something changed; raises `HostError`."""
        if self._direct is Direct.never:
            return
        if self._direct is Direct.on_link:
            known = self._reached
            prefixes = {*self._wanted, *self._seen.direct} if known is None else prefixes
            peers = [self._wanted.get(prefix) async for prefix in paced(prefixes)]
            hops = {peer.next_hop async for peer in paced(peers) if peer is not None and peer.next_hop is not None}
            reached = await self._host.on_link(tuple(hops))
            if known is None:
                self._reached = reached
            else:
                for hop in hops:
                    known.pop(hop, None)
                known.update(reached)
        async for prefix in paced(prefixes):
            peer = self._wanted.get(prefix)
            if peer is not None and peer.next_hop is not None and self.is_direct(peer):
                self._seen.direct.add(prefix)
            else:
                self._seen.direct.discard(prefix)

    def _route(self, prefix: IPNetwork, interface: int, device: int | None) -> Route | None:
        peer = self._wanted.get(prefix)
        if peer is None or peer.next_hop is None:
            return None
        if self._direct is Direct.always:
            return Route(prefix, interface, peer.next_hop)
        if self._reached is not None and peer.next_hop in self._reached:
            return Route(prefix, self._reached[peer.next_hop], peer.next_hop)
        return None if device is None else Route(prefix, device, prefix.network_address, onlink=True)

    def _in_the_way(self, route: Route) -> list[Route]:
        """The routes that must go before the kernel takes this one; IPv4's are replaced without a gap.

        IPv6 takes a next hop on a device only where no route leads to it by another one, `onlink` or not, and the peer's
        old route does (net/ipv6/route.c ip6_route_check_nh_onlink).
        """
        if route.prefix.version == 4 or not route.onlink:
            return []
        made = self._made.get(route.prefix)
        old = [stale for stale in self._stale if stale.prefix == route.prefix]
        return [*old, *([made] if made is not None and made.index != route.index else [])]

    def _is_overlay(self, prefix: IPNetwork) -> bool:
        return any(
            prefix.version == network.version and prefix.subnet_of(network)  # type: ignore[arg-type]
            for network in self._plan.networks
        )

    async def sweep(self) -> None:
        """Remove an earlier life's routes, once: of prefixes that nobody has, and of those that we now reach another way."""
        if self._swept:
            return
        stale = [route for route in self._stale if route.prefix not in self._refused]
        refused = await self._host.change_routes((), stale)
        self._swept = not refused and len(stale) == len(self._stale)
        if stale:
            log.info("removed routes of an earlier life: %s", _some([str(route.prefix) for route in stale]))

    def _tell(self, refused: Mapping[IPNetwork, str], prefixes: Collection[IPNetwork]) -> None:
        for prefix in prefixes if self._refused else ():
            if prefix not in refused and prefix in self._refused:
                self._refused.discard(prefix)
                self._state.notes.pop(f"route {prefix}", None)
        for prefix, text in refused.items():
            self._refused.add(prefix)
            self._state.notes[f"route {prefix}"] = text
        if refused:
            hint = "; host-gw needs all nodes on one link" if self._direct is Direct.always else ""
            text = f"{self._plan.name}: {_some(sorted(refused.values()))}{hint}"
            self._say.warn("refused", text, self._state.now())


def is_peer_route(route: Route, links: Collection[int | None], own_subnets: Collection[IPNetwork]) -> bool:
    """Whether a route inside the overlay looks like one that flannel or we made for a peer."""
    own = any(route.prefix.version == net.version and route.prefix.overlaps(net) for net in own_subnets)
    return route.gateway is not None and route.protocol == rtprot_boot and route.index in links and not own


def _some(names: list[str]) -> str:
    more = f" and {len(names) - named_at_once} more" if len(names) > named_at_once else ""
    return ", ".join(names[:named_at_once]) + more
