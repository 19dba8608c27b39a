"""A cluster that is given another backend, datapath, VNI or port: nothing of the way before stays in force.

One lab is led through every ordered pair of ways exactly once (an Eulerian tour), with traffic after each change.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode


@dataclass(frozen=True)
class Way:
    """How packets are to go, and what then is on a node.

    Attributes:
        device: the one flannel device, "" for none.
        direct: whether the peer is routed to by its address; else by the device, if the datapath is the kernel's.
    """

    backend: str
    datapath: str
    device: str = ""
    options: tuple[tuple[str, object], ...] = ()
    direct: bool = False

    def route(self, peer: str, far: DaemonNode) -> str:
        """The beginning of what `ip route` shows behind the peer's prefix."""
        if self.direct:
            return f"via {far.address} dev eth0"
        return f"via {peer.partition('/')[0]} dev {self.device}" if self.datapath == "kernel" else ""


one, two, port = ("VNI", 1), ("VNI", 2), ("Port", 4789)
ways = {
    "host-gw": Way("host-gw", "auto", direct=True),
    "udp": Way("udp", "userspace", "flannel0"),
    "kernel-1": Way("vxlan", "kernel", "flannel.1", (one,)),
    "kernel-2": Way("vxlan", "kernel", "flannel.2", (two,)),
    "userspace-1": Way("vxlan", "userspace", "flannel.1", (one,)),
    "userspace-2-port": Way("vxlan", "userspace", "flannel.2", (two, port)),
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


def devices(node: DaemonNode) -> set[str]:
    names = [link["ifname"] for link in json.loads(node.run("ip", "-j", "link", "show").stdout)]
    return {name for name in names if name.startswith("flannel") and "gso" not in name}


def filters(node: DaemonNode) -> list[str]:
    shown = node.run("tc", "filter", "show", "dev", "eth0", "ingress").stdout
    return [line for line in shown.splitlines() if "bpf" in line]


def change(lab: Lab, way: Way, ipv6: bool = False) -> None:
    """Give all nodes another configuration and start them anew."""
    for node in lab.daemons:
        if node.process is not None:
            node.stop_daemon()
    lab.net_conf_path.write_text(json.dumps(net_conf(way.backend, ipv6=ipv6, options=dict(way.options))))
    for node in lab.daemons:
        node.start_daemon(f"--datapath={way.datapath}")
    for node in lab.daemons:
        node.wait_ready()
        if not node.pods:
            node.add_pod()
    lab.wait_converged()


def test_nothing_of_the_way_before_stays() -> None:
    faults = []
    with Lab(net_conf("host-gw")) as lab:
        for _ in range(2):
            lab.add("dataplane")
        before = ""
        for name in walk(tuple(ways)):
            way, step = ways[name], f"{before} to {name}"
            change(lab, way)
            near, far = lab.daemons
            assert far.net is not None
            expected = {way.device} if way.device else set()
            subnet = str(far.net.ipv4)
            wanted = way.route(subnet, far)
            shown = near.run("ip", "route", "show", "exact", subnet).stdout.splitlines()
            behind = [line.strip().removeprefix(f"{subnet} ") for line in shown if line.strip()]
            if len(behind) != bool(wanted) or not all(line.startswith(wanted) for line in behind):
                faults.append(f"{step}: routes {behind}, not {wanted!r}")
            wait_for(lambda: lab.pods[0].ping(lab.pods[1], count=1, wait_s=0.3).ok, 30, f"traffic, {step}")
            if devices(near) != expected:
                faults.append(f"{step}: devices {devices(near)}")
            if way.datapath != "kernel" and filters(near):
                faults.append(f"{step}: filters {filters(near)}")
            before = name
            print(step, faults)  # pytest shows the way so far with a test that failed
    assert not faults, "\n".join(faults)


def is_the_only_route(near: DaemonNode, far: DaemonNode, route: str) -> bool:
    assert far.net is not None and far.net.ipv6 is not None
    shown = near.run("ip", "-6", "route", "show", "exact", str(far.net.ipv6)).stdout.splitlines()
    begins = f"{far.net.ipv6} " + route.format(address=far.address6, base=far.net.ipv6.network_address)
    return len(shown) == 1 and shown[0].startswith(begins)


def test_an_ipv6_peer_that_was_reached_straight_is_reached_by_the_device() -> None:
    """The kernel refuses the route through the device while the straight one stands, which no restart would change."""
    direct = ("DirectRouting", True)
    tour = (
        (Way("host-gw", "auto"), "via {address} dev eth0"),
        (Way("vxlan", "kernel", options=(one,)), "via {base} dev flannel-v6.1"),
        (Way("vxlan", "userspace", options=(one, direct)), "via {address} dev eth0"),
        (Way("vxlan", "kernel", options=(two,)), "via {base} dev flannel-v6.2"),
    )
    with Lab(net_conf("host-gw", ipv6=True)) as lab:
        for _ in range(2):
            lab.add("dataplane")
        for way, route in tour:
            change(lab, way, ipv6=True)
            for near, far in (lab.daemons, lab.daemons[::-1]):
                wait_for(partial(is_the_only_route, near, far, route), 30, f"{near.label} to have one {route}")
            assert lab.pods[0].ping(lab.pods[1], 6).ok
