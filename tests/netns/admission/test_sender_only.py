"""Where BPF is refused: a set of leased senders keeps strangers out of the kernel's vxlan, and the daemon says what it does not do."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6ExtHdrFragment
from scapy.packet import Raw

from dataplane.lab.commands import wait_for
from dataplane.lab.topology import underlay_address, underlay_address6
from dataplane.model import LeaseAttrs
from tests.netns.admission.siege import (
    Siege,
    besieged,
    expect_dropped,
    expect_it_outlives_the_daemon,
    expect_other_tunnels_left_alone,
    outer,
    stranger_number,
    udp_received,
    versions,
    vxlan,
)

no_bpf = ("setpriv", "--bounding-set=-bpf,-sys_admin", "--inh-caps=-bpf,-sys_admin")
devices = {4: "flannel.1", 6: "flannel-v6.1"}
tables = {4: "ip dataplane-flannel.1", 6: "ip6 dataplane-flannel-v6.1"}


@pytest.fixture(scope="module")
def siege() -> Iterator[Siege]:
    """The target's daemon began with BPF, and was replaced by one that may not use it."""
    with besieged() as made:
        restart(made, no_bpf)
        yield made


def restart(siege: Siege, wrapper: tuple[str, ...]) -> None:
    siege.target.stop_daemon()
    siege.target.wrapper = wrapper
    siege.target.start_daemon()
    siege.target.wait_ready()


def status(siege: Siege) -> dict[str, Any]:
    document = siege.target.status()
    assert document is not None
    return document


def stands(siege: Siege) -> list[str]:
    return [device["admission"] for device in status(siege)["devices"]]


def filters(siege: Siege) -> str:
    return siege.target.run("tc", "filter", "show", "dev", "eth0", "ingress").stdout


def our_tables(siege: Siege) -> list[str]:
    lines = siege.target.run("nft", "list", "tables").stdout.splitlines()
    return [line.removeprefix("table ") for line in lines if "dataplane-" in line]


def test_status_says_how_far_it_goes_and_the_filter_of_before_is_gone(siege: Siege) -> None:
    assert stands(siege) == ["sender only", "sender only"]
    assert filters(siege) == ""
    said = [problem for problem in status(siege)["problems"] if "sender only" in problem]
    assert [problem.partition(":")[0] for problem in said] == list(devices.values())
    assert all("Operation not permitted" in problem for problem in said)


@versions
def test_peers_are_heard_and_a_stranger_is_not(siege: Siege, version: int) -> None:
    ours, _, kernels = siege.lab.pods
    assert kernels.ping(ours, version, count=3).ok
    before = udp_received(siege.target.pods[0], version)
    siege.send(siege.liar, version, [vxlan(siege.frame(version))] * 2)
    wait_for(lambda: udp_received(siege.target.pods[0], version) == before + 2, 90, "both datagrams of a peer")
    datagrams = [vxlan(siege.frame(version))] * 5
    expect_dropped(siege, siege.stranger, version, datagrams, "receive_unknown_sender")


@versions
def test_other_tunnels_are_left_alone(siege: Siege, version: int) -> None:
    expect_other_tunnels_left_alone(siege, version)


def test_pieces_too_short_to_show_the_vni(siege: Siege) -> None:
    """IPv6 pieces come to the set before they are joined, where nothing else joins them earlier."""
    udp = UDP(sport=9, dport=8472) / Raw(vxlan(siege.frame(6)))
    data = bytes(outer(siege, 6, stranger_number) / udp)[40:]
    pieces = [
        outer(siege, 6, stranger_number)
        / IPv6ExtHdrFragment(nh=17, m=at + 8 < len(data), offset=at // 8, id=77)
        / Raw(data[at : at + 8])
        for at in range(0, len(data), 8)
    ]
    arrived = udp_received(siege.target.pods[0], 6)
    before = siege.target.drops().get("receive_unknown_sender", 0)
    siege.send_raw(siege.stranger, pieces)
    wait_for(lambda: siege.target.drops().get("receive_unknown_sender", 0) == before + 1, 90, "the drop")
    assert udp_received(siege.target.pods[0], 6) == arrived


def test_who_takes_a_lease_is_heard_until_it_ends(siege: Siege) -> None:
    attrs = LeaseAttrs(
        underlay_address(stranger_number),
        underlay_address6(stranger_number),
        "vxlan",
        {"VNI": 1, "VtepMAC": "02:00:00:00:09:04"},
        {"VNI": 1, "VtepMAC": "02:00:00:00:09:06"},
    )
    lease = siege.lab.book.acquire(attrs, ttl=5.0)

    def listed() -> bool:
        return str(lease.subnet) in {peer["subnet"] for peer in status(siege)["peers"]}

    def heard(version: int) -> bool:
        before = udp_received(siege.target.pods[0], version)
        siege.send(siege.stranger, version, [vxlan(siege.frame(version))])
        return udp_received(siege.target.pods[0], version) > before

    wait_for(listed, 90, "the lease")
    for version in (4, 6):
        wait_for(lambda version=version: heard(version), 90, "the newcomer to be heard")
    wait_for(lambda: not listed(), 90, "the lease's end")
    for version in (4, 6):
        before = siege.target.drops().get("receive_unknown_sender", 0)
        wait_for(lambda version=version: not heard(version), 90, "the newcomer to be refused")
        wait_for(
            lambda before=before: siege.target.drops().get("receive_unknown_sender", 0) > before, 30, "its counter"
        )


@pytest.mark.parametrize(
    "change",
    [
        "delete table {table}",
        "flush chain {table} input",
        "flush set {table} senders",
        "add element {table} senders {{ {stranger} }}",
        "insert rule {table} input accept",
    ],
)
@versions
def test_what_somebody_changes_is_put_back_and_counted(siege: Siege, version: int, change: str) -> None:
    stranger = (underlay_address if version == 4 else underlay_address6)(stranger_number)
    before = status(siege)
    siege.target.run("nft", change.format(table=tables[version], stranger=stranger))
    wait_for(
        lambda: status(siege)["events"].get("repairs", 0) > before["events"].get("repairs", 0), 9, "a repair"
    )  # by the notice: the timer is 10 s
    after = status(siege)
    assert after["drops"]["receive_unknown_sender"] >= before["drops"]["receive_unknown_sender"]
    expect_dropped(siege, siege.stranger, version, [vxlan(siege.frame(version))] * 2, "receive_unknown_sender")
    assert siege.lab.pods[2].ping(siege.lab.pods[0], version, count=2).ok


@pytest.mark.parametrize("multi", ["xtables-nft-multi", "xtables-legacy-multi"])
def test_by_iptables_where_there_is_no_nft(siege: Siege, multi: str) -> None:
    """Both of its kinds; what nft made before goes, and nft takes it over again."""
    if not Path("/usr/sbin", multi).exists():
        pytest.skip(f"{multi} is not installed")
    hidden = ("mount --bind /dev/null /usr/sbin/nft", f"mount --bind /usr/sbin/{multi} /usr/sbin/xtables-nft-multi")
    restart(siege, ("unshare", "--mount", "sh", "-c", " && ".join((*hidden, 'exec "$@"')), "sh", *no_bpf))
    assert stands(siege) == ["sender only", "sender only"]
    siege.target.run("nft", "delete table ip dataplane-flannel.1; delete table ip6 dataplane-flannel-v6.1")
    tools = {4: "iptables", 6: "ip6tables"}
    for version, tool in tools.items():
        assert siege.lab.pods[2].ping(siege.lab.pods[0], version, count=2).ok
        datagrams = [vxlan(siege.frame(version))] * 3
        expect_dropped(siege, siege.stranger, version, datagrams, "receive_unknown_sender")
        expect_other_tunnels_left_alone(siege, version)
        siege.target.run(f"/usr/sbin/{multi}", tool, "-t", "mangle", "-F", f"DP-{devices[version]}")
    wait_for(lambda: status(siege)["events"].get("repairs", 0) >= 2, 90, "both repairs")
    for version in tools:
        expect_dropped(siege, siege.stranger, version, [vxlan(siege.frame(version))] * 3, "receive_unknown_sender")
    siege.target.stop_daemon()
    for version, tool in tools.items():  # the next life's iptables is of the other kind, which does not see these
        root = f"DP-{devices[version]}"
        port = ("-p", "udp", "-m", "udp", "--dport", "8472")
        siege.target.run(f"/usr/sbin/{multi}", tool, "-t", "mangle", "-D", "INPUT", *port, "-j", root)
    siege.target.wrapper = no_bpf
    siege.target.start_daemon()
    siege.target.wait_ready()
    assert our_tables(siege) == list(tables.values())


@versions
def test_the_set_outlives_the_daemon_and_a_restart(siege: Siege, version: int) -> None:
    expect_it_outlives_the_daemon(siege, version)


def test_a_daemon_that_may_use_bpf_takes_the_set_away(siege: Siege) -> None:
    restart(siege, ())
    assert stands(siege) == ["full", "full"]
    assert our_tables(siege) == []
    assert status(siege)["problems"] == []
    expect_dropped(siege, siege.stranger, 4, [vxlan(siege.frame(4))] * 2, "receive_unknown_sender")
    restart(siege, no_bpf)
    assert stands(siege) == ["sender only", "sender only"]
    assert our_tables(siege) == list(tables.values())
    assert filters(siege) == ""


@pytest.mark.long
def test_a_set_of_many_is_a_tree_of_chains_in_iptables(siege: Siege) -> None:
    """The address of a peer, and of nobody, is looked for in more than one chain."""
    ours, _, kernels = siege.lab.pods
    leases = [
        siege.lab.book.acquire(
            LeaseAttrs(IPv4Address(f"198.18.{number}.1"), IPv6Address(f"2001:db8:9::{number}"), "vxlan", *data),
            ttl=600.0,
        )
        for number in range(1, 40)
        for data in [tuple({"VNI": 1, "VtepMAC": f"02:00:00:00:0{version}:{number:02x}"} for version in (4, 6))]
    ]
    restart(siege, ())  # what is in nft can only be taken away by it
    restart(
        siege, ("unshare", "--mount", "sh", "-c", 'mount --bind /dev/null /usr/sbin/nft && exec "$@"', "sh", *no_bpf)
    )
    assert stands(siege) == ["sender only", "sender only"]
    assert all("iptables" in problem for problem in status(siege)["problems"])
    wait_for(lambda: len(status(siege)["peers"]) >= 2 * len(leases), 90, "the leases")
    for version in (4, 6):
        assert kernels.ping(ours, version, count=3).ok
        expect_dropped(siege, siege.stranger, version, [vxlan(siege.frame(version))] * 5, "receive_unknown_sender")
    restart(siege, ())
    for tool in ("iptables-save", "ip6tables-save"):
        assert "DP-flannel" not in siege.target.run(tool, "-t", "mangle").stdout


def test_another_datapath_and_cleanup_take_the_set_away(siege: Siege) -> None:
    target = siege.target
    target.stop_daemon()
    target.start_daemon("--datapath=userspace")
    target.wait_ready()
    assert our_tables(siege) == []
    restart(siege, no_bpf)
    assert our_tables(siege) == list(tables.values())
    target.stop_daemon()
    said = target.run(sys.executable, "-m", "dataplane", "cleanup", f"--run-dir={target.run_dir}").stdout
    assert "set of senders of flannel.1" in said
    assert our_tables(siege) == []
