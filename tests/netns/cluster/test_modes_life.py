"""Peers, routes, devices and addresses come and go under each way that is not the TUN alone."""

from __future__ import annotations

import json
import sqlite3
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from dataplane.lab.cluster import Lab
from dataplane.lab.commands import wait_for
from dataplane.model import LeaseAttrs
from tests.netns.cluster.modes import kernel, modes, peers, routes, subnet, two
from tests.traffic import LongPing

every_mode = pytest.mark.parametrize("name", modes)


@every_mode
def test_peers_come_and_go_with_all_that_they_need(labs: list[Lab], name: str) -> None:
    lab = two(labs, modes[name])
    near = lab.daemons[0]
    data = {"VNI": 1, "VtepMAC": "02:00:00:00:00:77"}
    attrs = LeaseAttrs(IPv4Address("192.0.2.77"), None, "vxlan", data)
    if name == "host-gw":
        attrs = LeaseAttrs(IPv4Address("192.0.2.77"), None, "host-gw")
    going_on = LongPing(lab.pods[0].name, lab.pods[1].address)
    lease = lab.book.acquire(attrs, ttl=2.0)
    wait_for(lambda: str(lease.subnet) in routes(near), 90, "the peer's route")

    def fdb() -> str:
        return near.run("bridge", "fdb", "show").stdout

    if name == "kernel":
        wait_for(lambda: "02:00:00:00:00:77 dev flannel.1 dst 192.0.2.77 self permanent" in fdb(), 90, "the entry")
    wait_for(lambda: str(lease.subnet) not in routes(near), 90, "the route to go")
    wait_for(lambda: "02:00:00:00:00:77" not in fdb(), 90, "the entry to go")
    wait_for(lambda: str(lease.subnet) not in peers(near), 90, "the peer to go")
    seen = going_on.stop()
    assert seen.received >= seen.sent - 1, seen.text


def test_a_vtep_mac_that_another_lease_claims_stays_with_its_peer(labs: list[Lab]) -> None:
    """The kernel finds the peer by the MAC alone, so whoever claims it would get the traffic: the older lease keeps it."""
    lab = two(labs, kernel)
    near, far = lab.daemons
    mac = peers(near)[subnet(far)]["vtep_mac"]
    thief = lab.book.acquire(LeaseAttrs(IPv4Address("192.0.2.66"), None, "vxlan", {"VNI": 1, "VtepMAC": mac}))
    wait_for(lambda: f"lease {thief.key} is not used" in near.log(), 90, "the thief's refusal")
    assert str(thief.subnet) not in routes(near)
    entries = near.run("bridge", "fdb", "show", "dev", "flannel.1").stdout
    assert f"{mac} dst 192.0.2.2 self permanent" in entries
    assert "192.0.2.66" not in entries
    assert lab.pods[0].ping(lab.pods[1]).ok


@every_mode
def test_a_removed_route_is_back(labs: list[Lab], name: str) -> None:
    lab = two(labs, modes[name])
    near, far = lab.daemons
    before = routes(near)[subnet(far)]
    near.run("ip", "route", "delete", subnet(far))
    wait_for(lambda: routes(near).get(subnet(far)) == before, 90, "the route")
    assert lab.pods[0].ping(lab.pods[1]).ok
    assert near.log().count("put back routes that were gone or changed") == 1


@every_mode
def test_routes_come_back_after_a_link_flap(labs: list[Lab], name: str) -> None:
    lab = two(labs, modes[name])
    near, far = lab.daemons
    before = routes(near)[subnet(far)]
    near.run("ip", "link", "set", "eth0", "down")
    near.run("ip", "link", "set", "eth0", "up")
    wait_for(lambda: routes(near).get(subnet(far)) == before, 90, "the route")
    wait_for(lambda: lab.pods[0].ping(lab.pods[1], count=1, wait_s=0.2).ok, 90, "the peer to answer")
    wait_for(lambda: bool((near.status() or {}).get("ready")), 90, "readiness")


def test_a_deleted_kernel_device_comes_back_with_its_peers(labs: list[Lab]) -> None:
    """flannel makes the device anew, and leaves it without peers (BUG E)."""
    lab = two(labs, kernel)
    near, far = lab.daemons
    (before,) = json.loads(near.run("ip", "-j", "link", "show", "flannel.1").stdout)
    near.run("ip", "link", "delete", "flannel.1")
    wait_for(lambda: subnet(far) in routes(near), 90, "the device and its routes")
    (after,) = json.loads(near.run("ip", "-j", "link", "show", "flannel.1").stdout)
    assert after["address"] == before["address"]
    assert lab.pods[0].ping(lab.pods[1]).ok


@pytest.mark.parametrize("name", ["kernel", "kernel-direct", "host-gw"])
def test_traffic_goes_on_while_the_daemon_restarts(labs: list[Lab], name: str) -> None:
    lab = two(labs, modes[name])
    near = lab.daemons[0]
    going_on = LongPing(lab.pods[0].name, lab.pods[1].address)
    assert near.stop_daemon() == 0
    near.start_daemon()
    near.wait_ready()
    lab.wait_converged()
    seen = going_on.stop()
    assert seen.sent > 20
    assert seen.received >= seen.sent - 1, seen.text


@pytest.mark.parametrize("name", ["kernel", "userspace-direct", "host-gw"])
def test_a_lost_lease_takes_everything_away(labs: list[Lab], name: str) -> None:
    lab = two(labs, modes[name])
    near, far = lab.daemons
    (database,) = Path(lab.lease_dir).glob("*.sqlite3")
    with sqlite3.connect(database) as connection:
        connection.execute("DELETE FROM lease WHERE node = '192.0.2.1'")
    connection.close()
    assert near.process is not None
    assert near.process.wait(30) == 1
    assert "is gone: it expired or was deleted" in near.log()
    assert subnet(far) not in routes(near)
    assert "flannel.1" not in near.run("ip", "link").stdout


@pytest.mark.parametrize("name", ["userspace-direct", "kernel", "host-gw"])
def test_a_new_address_is_told_and_the_subnet_stays(labs: list[Lab], name: str) -> None:
    lab = two(labs, modes[name])
    near, far = lab.daemons
    before = subnet(far)
    far.batch("address delete 192.0.2.2/24 dev eth0", "address add 192.0.2.52/24 dev eth0")
    wait_for(lambda: peers(near).get(before, {}).get("public_ip") == "192.0.2.52", 90, "the peer's new address")
    far.wait_ready()
    assert far.pod_net() == far.net
    wait_for(lambda: lab.pods[0].ping(lab.pods[1], count=1, wait_s=0.2).ok, 90, "the pods to reach each other")
    assert lab.pods[1].ping(lab.pods[0]).ok


@pytest.mark.parametrize("name", ["userspace-direct", "kernel", "host-gw"])
def test_a_new_mtu_is_taken_up(labs: list[Lab], name: str) -> None:
    lab = two(labs, modes[name])
    node = lab.daemons[0]
    assert node.net is not None
    before = node.net.mtu
    node.run("ip", "link", "set", "eth0", "mtu", "1400")
    wait_for(lambda: node.pod_net().mtu == before - 100, 90, "subnet.env to say so")
    node.wait_ready()
    if name != "host-gw":
        (link,) = json.loads(node.run("ip", "-j", "link", "show", "flannel.1").stdout)
        assert link["mtu"] == 1350
    assert lab.pods[0].ping(lab.pods[1]).ok
