"""Makes a life's parts of its lease: the control loop with a keeper for each thing of the host, and the firewall."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

from dataplane.backends import DevicePlan, Plan
from dataplane.control.loop import Control
from dataplane.daemon.premises import Premises
from dataplane.follow.unreachable import UnreachableWatch
from dataplane.host.firewall.rules import Encap
from dataplane.host.interface import ExternalInterface
from dataplane.keepers import subnet_file
from dataplane.keepers.base import Keeper
from dataplane.keepers.firewall import Firewall
from dataplane.keepers.peer_routes import Direct
from dataplane.keepers.routes import RouteKeeper
from dataplane.keepers.tun import TunKeeper
from dataplane.leases.contest import Contest
from dataplane.leases.renewal import Renewer
from dataplane.model import IPNetwork, Lease, Peer

Watches = dict[str, Callable[[], Coroutine[Any, Any, None]]]


def build_control(
    premises: Premises, external: ExternalInterface, own: Lease, renewer: Renewer, contest: Contest
) -> tuple[Control, Watches]:
    """Return the control loop, and what else is to run beside it, by what is watched."""
    plans = premises.backend.plans(
        premises.conf,
        own,
        interface=external.name,
        interface_mtu=external.mtu,
        address=external.address,
        address6=external.address6,
    )
    premises.state.devices.clear()
    watches: Watches = {}
    control = Control(
        premises.conf,
        own,
        premises.backend,
        plans,
        keep=partial(_keepers, premises, watches),
        state=premises.state,
        clock=premises.clock,
        doubt=renewer.doubt,
        contested=contest.written,
    )
    return control, watches


def build_firewall(premises: Premises, external: ExternalInterface, own: Lease) -> Firewall:
    """Return the firewall rules' keeper."""
    options = premises.options
    return Firewall(
        premises.conf,
        own,
        masquerade=options.masquerade,
        forward=options.forward,
        random_fully=options.random_fully,
        resync_s=options.resync_s,
        previous=subnet_file.read(options.subnet_file),
        state=premises.state,
        clock=premises.clock,
        encap=Encap(premises.backend.encap_port, external.name),
    )


def _keepers(premises: Premises, watches: Watches, plan: Plan, wanted: Mapping[IPNetwork, Peer]) -> Sequence[Keeper]:
    host, state, options = premises.host, premises.state, premises.options
    if not isinstance(plan, DevicePlan):
        return (RouteKeeper(plan, wanted, host, state, Direct.always),)
    watches[f"unreachable peers {plan.name}"] = UnreachableWatch(plan, state, premises.clock).run
    if plan.link is not None and state.datapath is not None and state.datapath.kind == "kernel":
        from dataplane.keepers.kernel import KernelKeeper

        keeper = KernelKeeper(plan, plan.link, wanted, host, state)
        watches[f"senders {plan.name}"] = keeper.watch
        return (keeper,)
    tun = TunKeeper(plan, wanted, premises.opener, host, state, options.workers)
    direct = Direct.on_link if plan.direct_routing else Direct.never
    return tun, RouteKeeper(plan, wanted, host, state, direct, beside=state.devices[plan.name])
