"""What bench/kube_outage.py and bench/kube_size.py share: a store of ours with the part of the daemon that uses it.

What must stay true: requests are made by the daemon's own code (KubeStore, and Control's `watch` and `ping`), as a daemon
makes them after its start; there are no devices, so that a thousand fit in one process.
"""

from __future__ import annotations

import asyncio
import json
import os
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from dataplane.backends import from_conf
from dataplane.control.loop import Control
from dataplane.control.watching import Watching
from dataplane.model import LeaseAttrs, NetConf
from dataplane.observe.state import NodeState
from dataplane.runtime.clock import WallClock
from dataplane.stores.kube.access import KubeAccess
from dataplane.stores.kube.store import KubeStore

flannels = "flannel.alpha.coreos.com/"
_conf = NetConf(network=IPv4Network("10.0.0.0/8"), subnet_len=24, backend_type="vxlan")


@dataclass
class Follower:
    """One node: its store, and what follows it."""

    store: KubeStore
    control: Control
    watching: Watching
    state: NodeState
    prefix: str
    tasks: list[asyncio.Task[None]]

    def ask_for_life(self) -> None:
        """Begin with the signs of life, which a daemon asks for from the start; a thousand starting would miss them."""
        self.tasks.append(asyncio.create_task(self.watching.ping()))

    async def end(self) -> None:
        """End it as a daemon ends."""
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        await self.store.close()


def name_of(number: int) -> str:
    """Return what the lab's API server calls Node `number` of those that it makes."""
    return f"node-{number:05}"


def net_conf(directory: Path) -> Path:
    """Write the network's configuration."""
    path = directory / "net-conf.json"
    path.write_text(json.dumps({"Network": "10.0.0.0/8", "Backend": {"Type": "vxlan"}}))
    return path


async def follow(number: int, kubeconfig: Path, conf: Path, prefix: str = flannels) -> Follower:
    """Be Node `number`, of the overlay with this prefix of annotations, until all leases are known."""
    mac = f"02:00:00:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"
    attrs = LeaseAttrs(IPv4Address("198.18.0.0") + number, None, "vxlan", {"VNI": 1, "VtepMAC": mac})
    store = KubeStore(KubeAccess(kubeconfig=kubeconfig, node_name=name_of(number), prefix=prefix), conf)
    own = await store.acquire(attrs, None)
    state = NodeState()
    control = Control(
        _conf,
        own,
        from_conf(_conf),
        (),
        keep=lambda *_: (),
        state=state,
        clock=WallClock(),
        doubt=lambda: None,
        contested=lambda _: None,
    )
    watching = Watching(store, control.slices, state, WallClock())
    tasks = [asyncio.create_task(watching.watch())]
    await control.synced.wait()
    return Follower(store, control, watching, state, prefix, tasks)


def cpu_s(pid: int) -> float:
    """Return the CPU time of a process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int) -> float:
    """Return the memory of a process, in MB."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
