"""An underlay that is unfit at the wrong moment: the daemon waits, says so, and goes on as the same process."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator

import pytest

from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode

pytestmark = pytest.mark.long

modes = {
    "userspace": ("vxlan", ()),
    "udp": ("udp", ()),
    "kernel": ("vxlan", ("--datapath=kernel",)),
    "host-gw": ("host-gw", ()),
}


@pytest.fixture(params=modes)
def lab(request: pytest.FixtureRequest) -> Iterator[Lab]:
    backend, flags = modes[request.param]
    with Lab(net_conf(backend, ipv6=True), options=flags) as made:
        yield made
        print(made.logs(lines=60))


def fit_again(lab: Lab, pid: int) -> None:
    """The node's process is the same, it is ready, and pods reach each other both ways."""
    node = lab.daemons[0]
    assert node.process is not None
    node.wait_ready(30)
    assert (node.process.pid, node.process.poll()) == (pid, None)
    for version in (4, 6):
        for one, other in (lab.pods, lab.pods[::-1]):
            wait_for(lambda o=one, p=other, v=version: o.ping(p, v, count=1, wait_s=0.3).ok, 90, "the pods")


def restore(node: DaemonNode) -> None:
    node.run("ip", "link", "set", "eth0", "mtu", "1500", "up")
    node.run("ip", "addr", "replace", f"{node.address}/24", "dev", "eth0")
    node.run("ip", "addr", "replace", f"{node.address6}/64", "dev", "eth0", "nodad")


def test_a_link_that_is_down_at_the_start_is_waited_for(lab: Lab) -> None:
    node = lab.add("dataplane")
    assert isinstance(node, DaemonNode)
    node.run("ip", "link", "set", "eth0", "down")
    node.start_daemon()
    wait_for(lambda: "waiting for the host" in str((node.status() or {}).get("problems")), 90, "the blocker")
    restore(node)
    node.wait_ready()


def test_an_underlay_that_shakes_leaves_the_daemon_alive(lab: Lab) -> None:
    """Bounded, seeded: what is random is the order and the pauses, which are part of what is tried."""
    lab.start("dataplane", "dataplane")
    node = lab.daemons[0]
    assert node.process is not None
    pid = node.process.pid
    dice = random.Random(12)
    shakes = [
        ("link set eth0 down",),
        ("link set eth0 up",),
        ("link set eth0 mtu 1400",),
        ("link set eth0 mtu 1500",),
        ("link set eth0 mtu 1450", "link set eth0 down"),
        ("link set eth0 down", "link set eth0 mtu 1480", "link set eth0 up"),
        (f"addr flush dev eth0 to {node.address}", f"addr add {node.address}/24 dev eth0"),
        (f"addr flush dev eth0 to {node.address}",),
        ("addr replace 192.0.2.77/24 dev eth0",),
    ]
    for _ in range(24):
        node.batch(*dice.choice(shakes))
        time.sleep(dice.choice((0.0, 0.05, 0.2, 0.35, 0.5)))
        assert node.process.poll() is None, node.log()
    node.run("ip", "addr", "flush", "dev", "eth0", "to", "192.0.2.77")
    restore(node)
    fit_again(lab, pid)
