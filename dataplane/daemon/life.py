"""One life: what stands and falls with the external interface as it is, from our lease to the tasks that keep it all.

Order (flannel main.go): kernel device and VTEP MAC, lease, devices and routes, forwarding table, firewall, subnet.env,
ready. What must stay true: a clean stop leaves what the next process needs (a TUN that is to stay; of the kernel's devices
and routes what flannel leaves; lease and subnet.env in any case); without a lease nothing is carried.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any

from dataplane.control.standing import Standing
from dataplane.control.watching import Watching
from dataplane.daemon.acquire import acquire
from dataplane.daemon.build import build_control, build_firewall
from dataplane.daemon.datapath import remove_earlier, remove_unwanted
from dataplane.daemon.premises import Premises
from dataplane.daemon.ready import announce, tell_ready
from dataplane.follow.neighbours import keep_neighbours_told
from dataplane.footprint.removal import left_here
from dataplane.host.edges.neighbours import tell_neighbours
from dataplane.host.interface import ExternalInterface
from dataplane.keepers.blackhole import keep_blackholes
from dataplane.keepers.subnet_file import keep_subnet_file
from dataplane.leases.contest import Contest
from dataplane.leases.renewal import Renewer
from dataplane.model import Lease
from dataplane.runtime.tasks import spawn

log = logging.getLogger(__name__)


class Life:
    """One life.

    Attributes:
        own: our lease as it is, once there is one.
    """

    def __init__(self, premises: Premises, external: ExternalInterface) -> None:
        self._premises = premises
        self._external = external
        self.own: Lease | None = None

    async def run(
        self,
        earlier: Lease | None,
        lost: Lease | None,
        standing: Standing,
        follow: Callable[[], Coroutine[Any, Any, None]],
        written: asyncio.Event,
        stands: Callable[[], None],
    ) -> None:
        """Live until something ends it: cancellation, an error, or `Moved` (in a group).

        Args:
            earlier: the lease of the life before, if there was one.
            lost: the same where it was withdrawn.
            standing: what forwards meanwhile, and then what we build.
            follow: raises `Moved` once the external interface is another.
            written: set once subnet.env stands.
            stands: called then.
        """
        premises, external = self._premises, self._external
        options, state, store, clock = premises.options, premises.state, premises.store, premises.clock
        self._tell_mtu()
        own = self.own = await acquire(premises, external, earlier, lost)
        renewer = Renewer(store, own, options.renew_margin, clock, self._renewed, self._renewal_failed)
        contest = Contest(own, state, clock, renewer.doubt)
        control, watches = build_control(premises, external, own, renewer, contest)
        watching = Watching(store, control.slices, state, clock)
        rules = build_firewall(premises, external, own)
        first = not written.is_set()
        async with asyncio.TaskGroup() as group:
            spawn(group, "watch", state, watching.watch)
            spawn(group, "ping", state, watching.ping)
            spawn(group, "renew", state, renewer.run)
            spawn(group, "contest", state, contest.run)
            spawn(group, "interface", state, follow)
            spawn(group, "neighbours", state, keep_neighbours_told, premises.host, external, tell_neighbours, clock)
            if not first:
                await control.synced.wait()  # what stands forwards on until the peers are known
            await standing.replace(control)
            await control.open(first=first)
            spawn(group, "resync", state, control.resync)
            await control.synced.wait()
            await control.stand()
            if first:
                names, networks = await left_here(premises.host, options.run_dir)
                await remove_earlier(premises.host, names, networks, keep=premises.backend.device_names)
                await remove_unwanted(premises.opener, control.keepers)
            premises.recorder.begin(control.ends)
            await rules.open(first=first)
            env = tell_ready(premises, external, own, first=first)
            written.set()
            stands()
            spawn(group, "subnet file", state, keep_subnet_file, options.subnet_file, env, state, clock)
            spawn(group, "program", state, control.program)
            spawn(group, "listen", state, control.listen, premises.host)
            spawn(group, "firewall", state, rules.run)
            for name, watch in watches.items():
                spawn(group, name, state, watch)
            spawn(group, "announce", state, announce, premises)
            if options.blackhole:
                args = (premises.host, own.subnets, options.resync_s, state, clock)
                spawn(group, "blackhole", state, keep_blackholes, *args)

    def _tell_mtu(self) -> None:
        notes = self._premises.state.notes
        fault = self._premises.backend.mtu_fault(self._external.mtu)
        if fault:
            log.warning("%s", fault)
            notes["mtu"] = fault
        else:
            notes.pop("mtu", None)

    def _renewed(self, lease: Lease) -> None:
        self.own = self._premises.state.lease = lease
        self._premises.state.events["lease_renewals"] += 1

    def _renewal_failed(self, error: str | None) -> None:
        state = self._premises.state
        if error is None:
            state.notes.pop("renewal", None)
            return
        state.events["store_errors"] += 1
        state.notes["renewal"] = f"our lease could not be renewed: {error}"
        log.warning("our lease could not be renewed, trying again: %s", error)
