"""What a daemon leaves when it ends, and `dataplane cleanup`, which takes that away and nothing else."""

from __future__ import annotations

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode
from tests.netns.life.cleaning import cleanup, host_state, tried


@pytest.mark.parametrize(
    ("backend", "options", "flags"),
    [
        ("vxlan", {}, ("--datapath=kernel", "--ip-masq")),
        ("vxlan", {"DirectRouting": True}, ("--ip-masq",)),
        ("host-gw", {}, ("--ip-blackhole-route",)),
    ],
)
@pytest.mark.parametrize("nftables", [False, True])
def test_cleanup_leaves_the_host_as_it_was(
    labs: list[Lab], backend: str, options: dict[str, object], flags: tuple[str, ...], nftables: bool
) -> None:
    conf = net_conf(backend, ipv6=True, options=options) | {"EnableNFTables": nftables}
    lab = Lab(conf, options=flags)
    labs.append(lab)
    node, other = lab.add("dataplane"), lab.add("dataplane")
    assert isinstance(node, DaemonNode) and isinstance(other, DaemonNode)
    # Somebody else's: rules, routes inside and outside the overlay, tables that nft and iptables made.
    node.batch("route add 198.51.100.0/24 via 192.0.2.99", "route add 10.244.250.0/24 via 192.0.2.99 proto static")
    for command in ("iptables", "ip6tables"):
        for table in ("filter", "nat"):
            node.run(command, "-t", table, "-N", "SOMEBODY")
        node.run(command, "-A", "FORWARD", "-m", "comment", "--comment", "flanneld of somebody", "-j", "SOMEBODY")
        node.run(command, "-t", "nat", "-A", "POSTROUTING", "-j", "SOMEBODY")
        # Its base chains stay once iptables has made them, empty: as with every other program that uses it.
        for chain in ("INPUT", "FORWARD"):
            node.run(command, "-t", "mangle", "-P", chain, "ACCEPT")
    node.run("nft", "add", "table", "inet", "somebody")
    before = host_state(node)
    for each in (node, other):
        each.start_daemon()
    for each in (node, other):
        each.wait_ready()
    wait_for(lambda: len((node.status() or {})["peers"]) == 2, 90, "the peer")
    node.stop_daemon()
    assert host_state(node) != before
    assert node.subnet_file.exists()
    print(cleanup(node))
    assert host_state(node) == before
    assert not node.subnet_file.exists()
    assert "nothing to remove" in cleanup(node)


def test_cleanup_is_refused_while_the_daemon_runs(labs: list[Lab]) -> None:
    lab = Lab(net_conf("vxlan"))
    labs.append(lab)
    lab.start("dataplane")
    (node,) = lab.daemons
    refused = node.run(sys.executable, "-m", "dataplane", "cleanup", f"--run-dir={node.run_dir}", check=False)
    assert refused.returncode == 1
    assert "is in use by another daemon" in refused.stderr


def test_masquerade_is_told_to_the_cni_plugin(labs: list[Lab]) -> None:
    lab = Lab(net_conf("vxlan"), options=("--ip-masq",))
    labs.append(lab)
    lab.start("dataplane")
    (node,) = lab.daemons
    assert "FLANNEL_IPMASQ=true\n" in node.subnet_file.read_text()
    assert "FLANNEL-POSTRTG" in node.run("iptables", "-t", "nat", "-S").stdout
    node.run("iptables", "-t", "nat", "-F", "FLANNEL-POSTRTG")
    wait_for(lambda: "MASQUERADE" in node.run("iptables", "-t", "nat", "-S").stdout, 90, "the rules to be back")


def test_a_blackhole_route_is_kept_and_gives_way(labs: list[Lab]) -> None:
    """Where a bridge has the subnet its route stays, and the status says so."""
    lab = Lab(net_conf("vxlan"), options=("--ip-blackhole-route", "--iptables-resync=1"))
    labs.append(lab)
    node = lab.add("dataplane")
    assert isinstance(node, DaemonNode)
    node.start_daemon()
    node.wait_ready()
    subnet = node.pod_net().ipv4
    wait_for(lambda: f"blackhole {subnet}" in node.run("ip", "route").stdout, 90, "the route")
    node.run("ip", "route", "delete", "blackhole", str(subnet))
    wait_for(lambda: f"blackhole {subnet}" in node.run("ip", "route").stdout, 90, "the route to be back")
    node.run("ip", "route", "replace", str(subnet), "dev", "eth0")
    wait_for(lambda: any("no blackhole route" in text for text in (node.status() or {})["problems"]), 90, "the note")
    assert f"{subnet} dev eth0" in node.run("ip", "route").stdout


def test_routes_by_an_earlier_external_interface_are_removed(labs: list[Lab]) -> None:
    lab = Lab(net_conf("host-gw"))
    labs.append(lab)
    lab.start("dataplane")
    (node,) = lab.daemons
    node.stop_daemon()
    path = node.run_dir / "footprint.json"
    document = json.loads(path.read_text())
    path.write_text(json.dumps(document | {"interfaces": ["earlier", "eth0"]}))
    node.batch(
        "link add earlier type veth peer name far",
        "addr add 203.0.113.1/24 dev earlier",
        "link set far up",
        "link set earlier up",
        "route add 10.244.77.0/24 via 203.0.113.2",
    )
    assert "removed route 10.244.77.0/24 via 203.0.113.2 dev earlier" in cleanup(node)


def test_two_cleanups_at_once(labs: list[Lab]) -> None:
    """One does it; the other is refused, or finds nothing."""
    lab = Lab(net_conf("vxlan"), options=("--datapath=kernel", "--ip-masq"))
    labs.append(lab)
    lab.start("dataplane")
    (node,) = lab.daemons
    node.kill_daemon()
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda _: tried(node, node.run_dir), range(4)))
    assert sum("removed device flannel.1" in answer.stdout for answer in answers) == 1
    for answer in answers:
        assert "Traceback" not in answer.stderr
        assert answer.returncode == 0 or "is in use by another daemon" in answer.stderr
    assert "nothing to remove" in cleanup(node)
