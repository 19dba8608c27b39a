"""How the control loop grows: a simulated store with 1,000 and 10,000 peers, a real host and a real data plane.

    .venv/bin/python bench/scale.py

For each way to the peers, in a process and a network namespace of its own: from the moment the complete list arrives to
the last peer in the table (and, where the kernel carries, in the kernel); from one changed lease to the table, median and
greatest of 200; one look at everything, as each change on the host asks for; the process's memory. The figures say what
this machine does at this hour; the sum of a run is bounded by the kernel's own speed for neighbours and routes.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from statistics import median

import uvloop

from dataplane.backends import DevicePlan, Plan, from_conf
from dataplane.control.loop import Control
from dataplane.control.watching import Watching
from dataplane.daemon.datapath import choose_datapath
from dataplane.host.interface import ExternalInterface
from dataplane.host.netlink import Host
from dataplane.keepers.base import Keeper
from dataplane.keepers.device import TunDevice
from dataplane.keepers.kernel import KernelKeeper
from dataplane.keepers.peer_routes import Direct
from dataplane.keepers.routes import RouteKeeper
from dataplane.keepers.tun import TunKeeper
from dataplane.lab import enclosure
from dataplane.model import IPNetwork, Lease, LeaseAttrs, LeasePut, NetConf, Peer, Snapshot, WatchEvent
from dataplane.observe.state import Datapath, NodeState
from dataplane.runtime.clock import WallClock

modes = {"userspace": "vxlan", "kernel": "vxlan", "host-gw": "host-gw"}
sizes = (1_000, 10_000)
events = 200
own_address = IPv4Address("192.0.2.1")


def lease(number: int, backend: str, round_: int = 0) -> Lease:
    """Lease `number` of 1 …; `round_` changes its VTEP MAC and address, as a node that was set up anew would."""
    public = IPv4Address("198.18.0.0") + number + (round_ << 15)
    data = {"VNI": 1, "VtepMAC": f"02:00:{round_:02x}:{number >> 16:02x}:{number >> 8 & 255:02x}:{number & 255:02x}"}
    attrs = LeaseAttrs(public, None, backend, data if backend == "vxlan" else None)
    return Lease(IPv4Network((int(IPv4Address("10.0.0.0")) + (number << 8), 24)), None, attrs, time.time() + 86400)


class SimulatedStore:
    """The watch of a store that says what it is told to."""

    first_delay_s = 1.0  # after a failure, of which there is none

    def __init__(self) -> None:
        self.queue: asyncio.Queue[WatchEvent] = asyncio.Queue()

    async def watch(self) -> AsyncGenerator[WatchEvent, None]:
        """Yield what is in the queue."""
        while True:
            yield await self.queue.get()


async def measure(mode: str, peers: int) -> dict[str, float]:
    """Build one node and measure it."""
    backend_type = modes[mode]
    conf = NetConf(network=IPv4Network("10.0.0.0/8"), subnet_len=24, backend_type=backend_type)
    backend = from_conf(conf)
    external = ExternalInterface("ul0", 0, 1500, own_address, None, own_address, None, "")
    state, clock, host, store = NodeState(), WallClock(), Host(), SimulatedStore()
    asked = "auto" if backend_type == "host-gw" else mode
    state.datapath, macs = await choose_datapath(asked, backend, host, external, {4: bytes.fromhex("020000ffffff")})
    own = replace(lease(60_000, backend_type), attrs=backend.lease_attrs(own_address, None, macs))
    control = _control(conf, own, host, state, clock, external)
    await control.open()
    watching = Watching(store, control.slices, state, clock)  # type: ignore[arg-type]
    tasks = [asyncio.create_task(work) for work in (watching.watch(), control.program())]
    listed = Snapshot((own, *(lease(number, backend_type) for number in range(1, peers + 1))))

    begun = time.perf_counter()
    store.queue.put_nowait(listed)
    await control.synced.wait()
    table_s = time.perf_counter() - begun
    await control.ensure()
    start_s = time.perf_counter() - begun

    waits = []
    for number in range(1, events + 1):
        changed = lease(number, backend_type, 1)
        at = time.perf_counter()
        store.queue.put_nowait(LeasePut(changed))
        await _arrival(control, state, changed)
        waits.append(time.perf_counter() - at)
    begun = time.perf_counter()
    await control.ensure()
    look_s = time.perf_counter() - begun
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await control.close()
    await host.close()
    return {
        "table_s": table_s,
        "start_s": start_s,
        "event_ms": 1e3 * median(waits),
        "event_max_ms": 1e3 * max(waits),
        "look_s": look_s,
        "rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def _control(
    conf: NetConf, own: Lease, host: Host, state: NodeState, clock: WallClock, external: ExternalInterface
) -> Control:
    backend = from_conf(conf)

    def keep(plan: Plan, wanted: Mapping[IPNetwork, Peer]) -> Sequence[Keeper]:
        if not isinstance(plan, DevicePlan):
            return (RouteKeeper(plan, wanted, host, state, Direct.always),)
        if plan.link is not None and isinstance(state.datapath, Datapath) and state.datapath.kind == "kernel":
            return (KernelKeeper(plan, plan.link, wanted, host, state),)
        return (TunKeeper(plan, wanted, lambda plan: TunDevice(plan, 1, 0), host, state, 1),)

    plans = backend.plans(
        conf, own, interface=external.name, interface_mtu=external.mtu, address=own_address, address6=None
    )
    return Control(
        conf, own, backend, plans, keep=keep, state=state, clock=clock, doubt=lambda: None, contested=lambda _: None
    )


async def _arrival(control: Control, state: NodeState, changed: Lease) -> None:
    """Wait until the table, or the kernel, has the lease as it is now."""
    (device,) = state.devices.values()
    updates = state.events["table_updates"]
    while True:
        await asyncio.sleep(0)
        forwarding = device.forwarding
        peer = forwarding.peers.get(changed.subnet) if forwarding and changed.subnet else None
        if peer is not None and peer.next_hop == changed.attrs.public_ip and state.events["table_updates"] > updates:
            return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--one", nargs=2, metavar=("MODE", "PEERS"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            print(json.dumps(runner.run(measure(args.one[0], int(args.one[1])))))
        return 0
    if not enclosure.inside():
        return enclosure.run(sys.orig_argv)
    results = {mode: {peers: _in_namespace(mode, peers) for peers in sizes} for mode in modes}
    if args.json:
        print(json.dumps(results, indent=1))
        return 0
    print(
        f"{'':10} {'peers':>6}  {'list to table':>13}  {'all in place':>12}  {'lease to table':>22}  {'a look':>8}  memory"
    )
    for mode, by_size in results.items():
        for peers, found in by_size.items():
            event = f"{found['event_ms']:.1f} ms, at most {found['event_max_ms']:.0f}"
            print(
                f"{mode:10} {peers:>6,}  {found['table_s']:>11.2f} s  {found['start_s']:>10.2f} s  {event:>22}  "
                f"{found['look_s']:>6.2f} s  {found['rss_mb']:.0f} MB"
            )
    return 0


def _in_namespace(mode: str, peers: int) -> dict[str, float]:
    setup = (
        "ip link add ul0 type veth peer name ul1; ip address add 192.0.2.1/24 dev ul0; ip link set ul0 up; "
        "ip link set ul1 up; ip link set lo up; ip route add 198.18.0.0/15 dev ul0; "
        # Every peer is on the link, as host-gw needs it.
        f'exec "{sys.executable}" "{__file__}" --one {mode} {peers}'
    )
    done = subprocess.run(
        ["unshare", "-n", "sh", "-c", setup], check=True, stdout=subprocess.PIPE, text=True, timeout=180
    )
    found: dict[str, float] = json.loads(done.stdout)
    return found


if __name__ == "__main__":
    sys.exit(main())
