"""A cluster that is given another backend, datapath, VNI, port or DirectRouting: nothing of the way before stays in force.

One lab is led through every ordered pair of ways exactly once (an Eulerian tour), node by node, with IPv4 and IPv6 traffic after
each change, and while one node still has the old way.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise

import pytest

from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.commands import LabError, wait_for
from dataplane.lab.node import DaemonNode

versions = (4, 6)


@dataclass(frozen=True)
class Way:
    """How packets are to go, and what then is on a node.

    Attributes:
        devices: the flannel devices, that of IPv4 first; none with host-gw.
        direct: whether the peer is routed to by its address; else by the device, if the datapath is the kernel's.
    """

    backend: str
    datapath: str
    devices: tuple[str, ...] = ()
    vni: int = 0
    port: int = 0
    direct: bool = False

    @property
    def options(self) -> dict[str, object]:
        given = {"VNI": self.vni, "Port": self.port, "DirectRouting": self.direct and self.backend == "vxlan"}
        return {name: value for name, value in given.items() if value}

    @property
    def wire(self) -> tuple[str, int, int]:
        """Nodes that have the same reach each other."""
        return self.backend, self.vni, self.port

    @property
    def in_kernel(self) -> bool:
        return self.backend == "vxlan" and self.datapath == "kernel"

    def route(self, version: int, far: DaemonNode) -> str:
        """The beginning of what `ip route` shows behind the peer's prefix; "" if there is no such route."""
        assert far.net is not None
        net = far.net.ipv4 if version == 4 else far.net.ipv6
        assert net is not None
        if self.direct:
            return f"via {far.address if version == 4 else far.address6} dev eth0"
        return f"via {net.network_address} dev {self.devices[version == 6]}" if self.in_kernel else ""


first, second = ("flannel.1", "flannel-v6.1"), ("flannel.2", "flannel-v6.2")
ways = {
    "host-gw": Way("host-gw", "auto", direct=True),
    "udp": Way("udp", "userspace", ("flannel0",)),
    "kernel": Way("vxlan", "kernel", first, vni=1),
    "kernel-port": Way("vxlan", "kernel", first, vni=1, port=4789),
    "kernel-2-direct": Way("vxlan", "kernel", second, vni=2, direct=True),
    "userspace": Way("vxlan", "userspace", first, vni=1),
    "userspace-2-port-direct": Way("vxlan", "userspace", second, vni=2, port=4789, direct=True),
}


def walk(names: Sequence[str]) -> list[str]:
    """Every ordered pair of names as one step, each once, ending where it began (Hierholzer's algorithm)."""
    left = {name: [other for other in names if other != name] for name in names}
    path, done = [names[0]], []
    while path:
        if left[path[-1]]:
            path.append(left[path[-1]].pop())
        else:
            done.append(path.pop())
    return done[::-1]


def restart(node: DaemonNode, way: Way) -> str:
    """Start a node's daemon anew; return what it logged up to being ready."""
    if node.process is not None:
        node.stop_daemon()
    before = len(node.log())
    node.start_daemon(f"--datapath={way.datapath}")
    node.wait_ready()
    return node.log()[before:]


def devices(node: DaemonNode) -> set[str]:
    names = [link["ifname"] for link in json.loads(node.run("ip", "-j", "link", "show").stdout)]
    return {name for name in names if name.startswith("flannel") and "gso" not in name}


def left_over(node: DaemonNode, way: Way) -> list[str]:
    """What is on a node that does not belong to its way."""
    found = [f"device {name}" for name in devices(node).symmetric_difference(way.devices)]
    guarded = {name.replace("-", "_") for name in way.devices} if way.in_kernel else set()
    shown = node.run("tc", "filter", "show", "dev", "eth0", "ingress").stdout
    filters = {word for line in shown.splitlines() for word in line.split() if word.startswith("flannel")}
    found += [f"filter {name}" for name in filters - guarded]
    rules = node.run("nft", "list", "ruleset").stdout
    found += ["a set of senders"] * ("dataplane-flannel" in rules or "DP-flannel" in rules)
    found += [f"rules without port {way.port}"] * (way.port != 0 and str(way.port) not in rules)
    found += ["rules with port 4789"] * (way.port != 4789 and "4789" in rules)
    return found


def wrong_routes(near: DaemonNode, far: DaemonNode, way: Way) -> list[str]:
    faults = []
    for version in versions:
        assert far.net is not None
        net, wanted = str(far.net.ipv4 if version == 4 else far.net.ipv6), way.route(version, far)
        shown = near.run("ip", f"-{version}", "route", "show", "exact", net).stdout.splitlines()
        behind = [line.strip().removeprefix(f"{net} ") for line in shown if line.strip()]
        if len(behind) != bool(wanted) or not all(line.startswith(wanted) for line in behind):
            faults.append(f"routes {behind}, not {wanted!r}")
    return faults


def wrong(lab: Lab, way: Way) -> list[str]:
    """What is on the nodes that does not belong there, and which routes are not as they should be."""
    near, far = lab.daemons
    both = (*left_over(near, way), *left_over(far, way))
    return [*both, *wrong_routes(near, far, way), *wrong_routes(far, near, way)]


def untold(log: str, before: Way, after: Way, *, last: bool) -> list[str]:
    """What a start did to an earlier life's things and did not say.

    Args:
        last: whether the other node had the new way already: its lease may then have made the old daemon remove routes.
    """
    expected = []
    if before.in_kernel and after.in_kernel and before.devices == after.devices:
        verb = "is taken over" if before.wire == after.wire else "is made again"
        expected += [f"{name} of an earlier life {verb}" for name in after.devices]
    elif before.in_kernel:
        expected += [
            name for name in before.devices if f"an earlier life left: {', '.join(sorted(before.devices))}" not in log
        ]
    if before.direct and not after.direct and not after.in_kernel and not (last and before.wire != after.wire):
        expected.append("removed routes of an earlier life")
    return [text for text in expected if text not in log]


def pods_reach_each_other(lab: Lab, step: str) -> None:
    for version in versions:
        for one, other in (lab.pods, lab.pods[::-1]):
            wait_for(
                lambda o=one, p=other, v=version: o.ping(p, v, count=1, wait_s=0.3).ok,
                60,
                f"IPv{version} traffic, {step}",
            )


@pytest.mark.long
@pytest.mark.timeout(900)
def test_nothing_of_the_way_before_stays() -> None:
    faults = []
    tour = walk(tuple(ways))
    with Lab(net_conf("host-gw", ipv6=True)) as lab:
        for _ in range(2):
            restart(lab.add("dataplane"), ways[tour[0]])  # type: ignore[arg-type]
        for node in lab.nodes:
            node.add_pod()
        for turn, (before, after) in enumerate(pairwise(tour)):
            old, new, step = ways[before], ways[after], f"{before} to {after}"
            near, far = lab.daemons if turn % 2 else lab.daemons[::-1]
            lab.configure(net_conf(new.backend, ipv6=True, options=new.options))
            log = restart(near, new)
            if old.wire == new.wire:
                pods_reach_each_other(lab, f"{step}, one node of two")
            elif (old.backend, old.vni) != (new.backend, new.vni):  # a port is in no lease
                wait_for(lambda n=near: "lease" in str((n.status() or {}).get("problems")), 90, f"a word of it, {step}")
            log_of_far = restart(far, new)
            lab.wait_converged(60)
            pods_reach_each_other(lab, step)
            found = [*untold(log, old, new, last=False), *untold(log_of_far, old, new, last=True)]
            with suppress(LabError):
                wait_for(lambda w=new: not wrong(lab, w), 90, "nothing to be wrong")
            found += wrong(lab, new)
            faults += [f"{step}: {text}" for text in found]
            print(step, found)  # pytest shows the way so far with a test that failed
    assert not faults, "\n".join(faults)
