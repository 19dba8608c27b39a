"""Keeps subnet.env: puts it back when somebody removed or changed it, since without it no new pod gets a network.

Where a lease is withdrawn it goes: a pod without a network is tried again by the kubelet, one with an address that is no
longer ours, and soon another node's, stays wrong for its whole life.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from dataplane.errors import HostError
from dataplane.flannel import subnet_env
from dataplane.leases.renewal import Clock
from dataplane.observe.state import NodeState
from dataplane.runtime.say import Say

log = logging.getLogger(__name__)

look_s = 2.0


async def keep_subnet_file(path: Path, env: subnet_env.SubnetEnv, state: NodeState, clock: Clock) -> None:
    """Look every `look_s` seconds whether the file says what it should, and write it anew where not, for ever."""
    never = asyncio.Event()
    say = Say(log)
    while True:
        await clock.wait(never, look_s)
        try:
            if not subnet_env.stands(path, env):
                await asyncio.to_thread(subnet_env.write, path, env)
                state.events["repairs"] += 1
                say.warn("repair", f"somebody removed or changed {path}; it is back", clock.now())
        except HostError as error:
            state.blockers["subnet file"] = str(error)
            say.warn("failure", str(error), clock.now())
        else:
            state.blockers.pop("subnet file", None)
            say.over("failure", f"{path} is in place again")
