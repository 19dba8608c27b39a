"""What happens to a node's machine, with traffic all the while: it reboots, its network restarts, it sleeps, its clock is set.

Three nodes live through all of it, one way to carry packets after the other. What must stay true: between two others
nothing is lost; a node's own connections live on, and its packets come again within a bound, without anybody's help.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode
from dataplane.model import LeaseAttrs
from tests.netns.life.exchanges import answered_again, exchange, pings, ways
from tests.netns.life.shifted_clock import ShiftedClock, day_s, stopped

pytestmark = pytest.mark.long

new_address, new_address6 = "192.0.2.101", "2001:db8::101"
back_s = 5.0  # from the end of a fault until packets come again
down_s = 3.0
stopped_s = 3.0  # of what is sent meanwhile all has room: 1000 packets before each TUN


@dataclass
class Net:
    """Three nodes of one way, a pod on each."""

    way: str
    lab: Lab
    clock: ShiftedClock

    def add(self, number: int) -> None:
        """Add so many nodes with a pod, ready and known to all."""
        added = [node for node in (self.lab.add("dataplane") for _ in range(number)) if isinstance(node, DaemonNode)]
        for node in added:
            node.start_daemon(environment=self.clock.environment)
        for node in added:
            node.wait_ready()
            node.add_pod()
        self.lab.wait_converged()

    def all_ready(self) -> None:
        """Every daemon is the process that it was, ready, and nothing is wrong."""
        for node in self.lab.daemons:
            node.wait_ready()
            wait_for(lambda n=node: (n.status() or {}).get("problems") == [], 90, f"{node.label} to be well")  # type: ignore[misc]
            assert node.process is not None and node.process.poll() is None


@pytest.fixture(scope="module", params=ways)
def net(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Net]:
    backend, datapath = ways[request.param]
    clock = ShiftedClock(tmp_path_factory.mktemp("clock"))
    with Lab(net_conf(backend, ipv6=True), options=(f"--datapath={datapath}",)) as lab:
        made = Net(request.param, lab, clock)
        made.add(3)
        try:
            yield made
        finally:
            print(lab.logs(lines=80))


def mac(node: DaemonNode) -> str:
    (link,) = json.loads(node.run("ip", "-j", "link", "show", "eth0").stdout)
    return str(link["address"])


def vtep_mac(node: DaemonNode) -> str:
    return str((node.status() or {})["lease"]["vtep_mac"])


def test_a_peer_reboots(net: Net) -> None:
    """Its namespace goes, and what was in /run; it is there again at the same addresses, with another MAC."""
    before = vtep_mac(net.lab.daemons[2])
    reboot(net)
    assert vtep_mac(net.lab.daemons[2]) == before
    if net.lab.conf["Backend"]["Type"] == "vxlan":
        reboot(net, vtep="02:00:00:00:00:77")
        assert vtep_mac(net.lab.daemons[2]) == "02:00:00:00:00:77"


def reboot(net: Net, vtep: str = "") -> None:
    """Do it once; with this VTEP MAC, if any, as somebody else has written it in the lease meanwhile."""
    one, two, _ = net.lab.pods
    old = net.lab.daemons[2]
    before = mac(old)
    with exchange(one, two) as others, pings(one, old.pods[0]) as to_it:
        net.lab.nodes.pop().close()
        shutil.rmtree(old.directory)
        if vtep:
            data = {"VNI": 1, "VtepMAC": vtep}
            net.lab.book.acquire(LeaseAttrs(old.address, old.address6, "vxlan", data, data))
        time.sleep(down_s)  # as quick as a reboot can be
        net.add(1)
        answered_again(to_it, back_s, "the reboot")
        others.untouched()
    new = net.lab.daemons[2]
    assert new.net == old.net
    assert mac(new) != before
    net.all_ready()


def test_the_link_goes_down_and_up(net: Net) -> None:
    """And what the kernel took with it is put back as ifupdown would: our addresses, the default routes."""
    node = net.lab.daemons[0]
    one, two, three = net.lab.pods
    defaults = ("route replace default via 192.0.2.254", "-6 route replace default via 2001:db8::fe")
    node.batch(defaults[0])
    node.run("ip", *defaults[1].split())
    with exchange(two, three) as others, exchange(one, two) as own, pings(two, one) as to_it:
        node.run("ip", "link", "set", "eth0", "down")
        time.sleep(down_s)
        node.run("ip", "link", "set", "eth0", "up")
        node.run("ip", "address", "replace", f"{node.address6}/64", "dev", "eth0", "nodad")
        for line in defaults:
            node.run("ip", *line.split())
        answered_again(to_it, back_s, "the link is up")
        own.lived(down_s + back_s)
        others.untouched()
    net.all_ready()


def test_dhcp_gives_another_address(net: Net) -> None:
    """And the old one again."""
    node = net.lab.daemons[0]
    one, two, three = net.lab.pods
    addresses = [(f"{node.address}/24", f"{node.address6}/64"), (f"{new_address}/24", f"{new_address6}/64")]
    for gone, given in (addresses, addresses[::-1]):
        with exchange(two, three) as others, exchange(one, two) as own, pings(two, one) as to_it:
            node.batch(
                *(f"address del {address} dev eth0" for address in gone),
                f"address add {given[0]} dev eth0",
                f"address add {given[1]} dev eth0 nodad",
            )
            wait_for(
                lambda now=given: (node.status() or {}).get("lease", {}).get("public_ip") == now[0].partition("/")[0],  # type: ignore[misc]
                90,
                "the lease to be at the new address",
            )
            answered_again(to_it, back_s, "the lease is at the new address")
            own.lived(back_s)
            others.untouched()
        net.all_ready()


@pytest.mark.parametrize("slept_s", [300, 2 * day_s], ids=["5 minutes", "2 days"])
def test_a_suspended_machine_wakes_up(net: Net, slept_s: int) -> None:
    """For longer than leases live, too: nobody could have renewed them. What others send meanwhile waits."""
    one, two, three = net.lab.pods
    processes = [node.process for node in net.lab.daemons]
    with exchange(one, two) as first, exchange(two, three) as second, pings(one, three) as between:
        with stopped(net.lab.daemons):
            net.clock.sleep(slept_s)
            time.sleep(stopped_s)
        answered_again(between, back_s, "the wake-up")
        net.all_ready()
        for each in (first, second):
            each.untouched(stopped_s + back_s)
    assert [node.process for node in net.lab.daemons] == processes


def test_the_clock_is_set(net: Net) -> None:
    """A day forward, back, a day back, and right again: leases neither run out nor are forgotten."""
    one, two, three = net.lab.pods
    processes = [node.process for node in net.lab.daemons]
    with exchange(one, two) as near, exchange(two, three) as far:
        for ahead_s in (day_s, 0, -day_s, 0):
            net.clock.set(ahead_s)
            for node in net.lab.daemons:
                wait_for(lambda n=node: lives_a_day(net, n), 90, "the lease to be renewed by the new time")  # type: ignore[misc]
            net.lab.wait_converged()
        net.all_ready()
        near.untouched()
        far.untouched()
    assert [node.process for node in net.lab.daemons] == processes


def lives_a_day(net: Net, node: DaemonNode) -> bool:
    """Whether the daemon has the time that it should, and by that a lease as it is after a renewal."""
    status = node.status() or {"time": 0.0, "lease": {"expires": 0.0}}
    left_s = status["lease"]["expires"] - status["time"]
    return abs(status["time"] - net.clock.now()) < 60 and abs(left_s - day_s) < 60
