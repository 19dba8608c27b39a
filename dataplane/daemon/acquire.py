"""Our lease: who we were, which datapath carries us, what is written down of it, and the lease itself.

What must stay true: whatever may be left on the host is written down before it is made; the datapath is chosen once,
before the first lease, which tells its VTEP MAC.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

from dataplane.daemon.asking import patiently, until_moved, until_regained
from dataplane.daemon.datapath import choose_datapath
from dataplane.daemon.premises import Premises
from dataplane.footprint import record
from dataplane.footprint.form import Footprint
from dataplane.footprint.removal import left_here
from dataplane.host.interface import ExternalInterface
from dataplane.keepers import subnet_file
from dataplane.leases.identity import vtep_macs
from dataplane.model import IPNetwork, Lease, LeaseAttrs

log = logging.getLogger(__name__)


async def acquire(premises: Premises, external: ExternalInterface, earlier: Lease | None, lost: Lease | None) -> Lease:
    """Return the lease of the life that begins, published and written down.

    Args:
        earlier: the lease of the life before, if there was one.
        lost: the same where it was withdrawn.
    Raises:
        StoreError: there is none to be had; `LeaseLost`: the earlier one is somebody else's now.
        HostError: the datapath cannot be had.
    """
    state, store, backend = premises.state, premises.store, premises.backend
    macs: Mapping[int, bytes]
    before = earlier or lost
    if before is None:
        identity = external.public_ip or external.public_ipv6
        macs = await patiently(state, lambda: vtep_macs(store, backend, identity))
    else:
        macs = backend.macs_of(before)
    if before is None or state.datapath is None:
        # Once only: what stands needs its names and ports for itself, and a host in change is no reason to change sides.
        macs = await _choose(premises, external, macs)
    attrs = backend.lease_attrs(external.public_ip, external.public_ipv6, macs)
    if earlier is not None:
        own = await until_moved(state, lambda: store.renew(earlier, attrs))
    elif lost is not None:
        own = await until_regained(state, premises.clock, lambda: store.acquire(attrs, None))
    else:
        previous = _previous(premises)
        own = await patiently(state, lambda: store.acquire(attrs, previous))
    log.info("lease %s", own.key)
    _write_down(premises, external, macs, own.subnets)
    state.lease = own
    state.store_contact = premises.clock.now()
    return own


async def _choose(premises: Premises, external: ExternalInterface, macs: Mapping[int, bytes]) -> Mapping[int, bytes]:
    """Choose the datapath; return the VTEP MACs that then hold."""
    options, state, backend = premises.options, premises.state, premises.backend
    _write_down(premises, external, macs)
    left, networks = await left_here(premises.host, options.run_dir)
    state.datapath, macs = await choose_datapath(
        options.datapath, backend, premises.host, external, macs, premises.opener, left, networks
    )
    state.backend = backend.kind
    state.vtep_mac = next(iter(macs.values())).hex(":") if macs else ""
    log.info("backend %s, datapath %s: %s", backend.kind, state.datapath.kind, state.datapath.reason)
    return macs


def _previous(premises: Premises) -> Lease | None:
    """The lease that subnet.env remembers, which we would like to have again."""
    earlier = subnet_file.read(premises.options.subnet_file)
    if earlier.subnet is None and earlier.ipv6_subnet is None:
        return None
    return Lease(earlier.subnet, earlier.ipv6_subnet, LeaseAttrs())


def _write_down(
    premises: Premises,
    external: ExternalInterface,
    macs: Mapping[int, bytes],
    subnets: tuple[IPNetwork, ...] = (),
) -> None:
    """Write down what may be left; `macs` are planned ones until there are subnets."""
    options, conf, backend = premises.options, premises.conf, premises.backend
    kernels = () if options.datapath == "userspace" else zip(backend.mac_families, backend.device_names, strict=False)
    left = Footprint(
        devices={name: frozenset({macs[family].hex(":")}) for family, name in kernels},
        interfaces=(external.name,),
        networks=tuple(net for net in (conf.network, conf.ipv6_network) if net is not None),
        subnets=subnets,
        blackhole=options.blackhole,
        firewall=True,
        subnet_file=str(options.subnet_file.absolute()),
    )
    record.add(options.run_dir, left, made=bool(subnets))
