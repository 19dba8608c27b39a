"""Tells everybody that the node is ready: subnet.env for the pods, systemd, the store."""

from __future__ import annotations

import asyncio
import logging
import random

from dataplane.daemon.premises import Premises
from dataplane.errors import HostError, StoreError
from dataplane.flannel.subnet_env import SubnetEnv
from dataplane.host.interface import ExternalInterface
from dataplane.keepers import subnet_file
from dataplane.model import Lease
from dataplane.observe.notify import tell_systemd
from dataplane.runtime.say import Say

log = logging.getLogger(__name__)

announce_retry_s = 10.0


def tell_ready(premises: Premises, external: ExternalInterface, own: Lease, *, first: bool) -> SubnetEnv:
    """Write subnet.env and say that we are ready; return what the file has to say from now on.

    Raises:
        HostError: it cannot be written, on a first start. Later `keep_subnet_file` tells, and tries again.
    """
    conf, options, state = premises.conf, premises.options, premises.state
    env = SubnetEnv(
        network=conf.network if conf.enable_ipv4 else None,
        subnet=own.subnet,
        ipv6_network=conf.ipv6_network if conf.enable_ipv6 else None,
        ipv6_subnet=own.ipv6_subnet,
        mtu=premises.backend.mtu(external.mtu),
        ip_masq=options.masquerade,
    )
    try:
        subnet_file.write(options.subnet_file, env)
    except HostError:
        if first:
            raise
    state.blockers.pop("start", None)
    log.info("ready: %s peers, wrote %s", state.leases, options.subnet_file)
    tell_systemd("READY=1", f"STATUS=lease {own.key}, {state.leases} peers")
    return env


async def announce(premises: Premises) -> None:
    """Have the store told that our network is there, for as long as it takes, and where it keeps that told, for ever."""
    say = Say(log)
    while True:
        try:
            await premises.store.announce()
        except StoreError as error:
            say.warn("announce", f"cannot say that the network is there: {error}", premises.clock.now())
            await asyncio.sleep(announce_retry_s * random.uniform(0.5, 1.5))
        else:
            await asyncio.get_running_loop().create_future()
