"""What a daemon leaves when it ends, and `dataplane cleanup`, which takes that away and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode


@pytest.fixture
def made() -> Iterator[list[Lab]]:
    """Labs put in here are removed at the end."""
    labs: list[Lab] = []
    try:
        yield labs
    finally:
        for lab in labs:
            print(lab.logs(lines=60))
            lab.close()


def host_state(node: DaemonNode) -> str:
    """Everything that a daemon could leave, as text."""
    commands = (
        ("ip", "-o", "link"),
        ("ip", "-4", "route", "show", "table", "main"),
        ("ip", "-6", "route", "show", "table", "main"),
        ("ip", "neigh", "show", "nud", "permanent"),
        ("iptables-save",),
        ("ip6tables-save",),
        ("nft", "list", "ruleset"),
        ("tc", "qdisc", "show", "dev", "eth0"),
        ("tc", "filter", "show", "dev", "eth0", "ingress"),
    )
    shown = [node.run(*words).stdout for words in commands]
    # iptables-save writes the time and packet counts.
    lines = [line for text in shown for line in text.splitlines() if not line.startswith(("#", ":"))]
    return "\n".join(lines)


def cleanup(node: DaemonNode) -> str:
    return node.run(sys.executable, "-m", "dataplane", "cleanup", f"--run-dir={node.run_dir}").stdout


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
    made: list[Lab], backend: str, options: dict[str, object], flags: tuple[str, ...], nftables: bool
) -> None:
    conf = net_conf(backend, ipv6=True, options=options) | {"EnableNFTables": nftables}
    lab = Lab(conf, options=flags)
    made.append(lab)
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


def test_cleanup_is_refused_while_the_daemon_runs(made: list[Lab]) -> None:
    lab = Lab(net_conf("vxlan"))
    made.append(lab)
    lab.start("dataplane")
    (node,) = lab.daemons
    refused = node.run(sys.executable, "-m", "dataplane", "cleanup", f"--run-dir={node.run_dir}", check=False)
    assert refused.returncode == 1
    assert "is in use by another daemon" in refused.stderr


def test_masquerade_is_told_to_the_cni_plugin(made: list[Lab]) -> None:
    lab = Lab(net_conf("vxlan"), options=("--ip-masq",))
    made.append(lab)
    lab.start("dataplane")
    (node,) = lab.daemons
    assert "FLANNEL_IPMASQ=true\n" in node.subnet_file.read_text()
    assert "FLANNEL-POSTRTG" in node.run("iptables", "-t", "nat", "-S").stdout
    node.run("iptables", "-t", "nat", "-F", "FLANNEL-POSTRTG")
    wait_for(lambda: "MASQUERADE" in node.run("iptables", "-t", "nat", "-S").stdout, 90, "the rules to be back")


def test_a_blackhole_route_is_kept_and_gives_way(made: list[Lab]) -> None:
    """Where a bridge has the subnet its route stays, and the status says so."""
    lab = Lab(net_conf("vxlan"), options=("--ip-blackhole-route", "--iptables-resync=1"))
    made.append(lab)
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


def tried(node: DaemonNode, run_dir: Path) -> subprocess.CompletedProcess[str]:
    return node.run(sys.executable, "-m", "dataplane", "cleanup", f"--run-dir={run_dir}", check=False)


def two_kernel_nodes(made: list[Lab], **config: object) -> tuple[DaemonNode, DaemonNode]:
    """Two nodes with the kernel's vxlan, ready."""
    lab = Lab(net_conf("vxlan", **config), options=("--datapath=kernel", "--ip-masq"))
    made.append(lab)
    lab.start("dataplane", "dataplane")
    one, two = lab.daemons
    return one, two


def test_cleanup_of_another_nodes_run_dir_touches_nothing(made: list[Lab]) -> None:
    """Whether or not the one or the other runs."""
    one, two = two_kernel_nodes(made)
    before = host_state(two)
    for ends in (None, one, two):
        if ends is not None:
            ends.kill_daemon()
        refused = tried(two, one.run_dir)
        assert refused.returncode == 1
        assert f"{one.run_dir}/footprint.json is of another network namespace" in refused.stderr
        assert host_state(two) == before
        assert (one.run_dir / "footprint.json").exists() and one.subnet_file.exists()
    assert "device flannel.1" in cleanup(one)
    assert host_state(two) == before
    assert "device flannel.1" in cleanup(two)


def test_a_run_dir_of_before_is_refused_where_another_node_lives(made: list[Lab]) -> None:
    """One that does not say where it is: by the running daemon, then by the device's address."""
    one, two = two_kernel_nodes(made)
    one.kill_daemon()
    path = one.run_dir / "footprint.json"
    document = json.loads(path.read_text())
    legacy = {key: value for key, value in document.items() if key not in ("place", "interfaces")}
    path.write_text(json.dumps(legacy | {"devices": list(document["devices"])}))
    before = host_state(two)
    for reason in ("is in use by another daemon", "is of another node"):
        refused = tried(two, one.run_dir)
        assert refused.returncode == 1 and reason in refused.stderr
        assert "Traceback" not in refused.stderr
        assert host_state(two) == before and path.exists()
        if reason == "is in use by another daemon":
            two.kill_daemon()
    assert "device flannel.1" in cleanup(one)
    assert "nothing to remove" in cleanup(one)


def test_a_device_with_another_mac_is_left_and_named(made: list[Lab]) -> None:
    lab = Lab(net_conf("vxlan"), options=("--datapath=kernel",))
    made.append(lab)
    lab.start("dataplane")
    (node,) = lab.daemons
    node.kill_daemon()
    node.batch(
        "link delete flannel.1",
        "link add flannel.1 address 02:00:00:00:00:99 type vxlan id 1 dev eth0 dstport 8472 nolearning",
    )
    answer = tried(node, node.run_dir)
    assert answer.returncode == 0
    assert "left alone: device flannel.1 has the MAC 02:00:00:00:00:99" in answer.stderr
    assert "flannel.1" in node.run("ip", "-o", "link").stdout
    assert "nothing to remove" in cleanup(node)


def test_cleanup_with_a_second_run_dir_is_refused_while_the_daemon_runs(made: list[Lab]) -> None:
    """The second was written here, by an earlier daemon with the same device."""
    lab = Lab(net_conf("vxlan"), options=("--datapath=kernel",))
    made.append(lab)
    lab.start("dataplane")
    (node,) = lab.daemons
    second = node.directory / "second"
    second.mkdir(mode=0o755)
    (second / "footprint.json").write_text((node.run_dir / "footprint.json").read_text())
    before = host_state(node)
    refused = tried(node, second)
    assert refused.returncode == 1
    assert re.search(r"is in use by another daemon \(pid \d+\).*nothing is removed; stop it first", refused.stderr)
    document = json.loads((second / "footprint.json").read_text())
    (second / "footprint.json").write_text(json.dumps(document | {"devices": {}, "networks": ["10.99.0.0/16"]}))
    refused = tried(node, second)
    assert refused.returncode == 1 and f"{node.subnet_file} is in use by another daemon" in refused.stderr
    assert host_state(node) == before and node.subnet_file.exists()


def test_a_run_dir_that_is_used_in_another_namespace(made: list[Lab]) -> None:
    """Another node's footprint is moved aside at a start, and cleaned up where it belongs; status says where it asks."""
    one, two = two_kernel_nodes(made)
    for node in (one, two):
        node.kill_daemon()
    two.start_daemon(f"--run-dir={one.run_dir}")
    aside = f"{one.run_dir}/footprint.json."
    wait_for(lambda: f"moved to {aside}" in two.log(), 90, "the footprint to be moved aside")
    own = two.run_dir
    two.run_dir = one.run_dir
    two.wait_ready()
    asked = [
        node.run(sys.executable, "-m", "dataplane", "status", "--json", f"--run-dir={one.run_dir}")
        for node in (one, two)
    ]
    assert "note: this daemon runs in another network namespace" in asked[0].stderr
    assert not asked[1].stderr
    assert json.loads(asked[0].stdout)["netns"] == json.loads(asked[1].stdout)["netns"]
    assert two.stop_daemon() == 0
    before = host_state(two)
    assert f"removed {aside}" in cleanup(one)
    assert "flannel.1" not in one.run("ip", "-o", "link").stdout
    assert host_state(two) == before
    assert "device flannel.1" in cleanup(two)
    two.run_dir = own


def test_routes_by_an_earlier_external_interface_are_removed(made: list[Lab]) -> None:
    lab = Lab(net_conf("host-gw"))
    made.append(lab)
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


def test_the_rules_stay_for_a_daemon_of_another_overlay(made: list[Lab]) -> None:
    """Two daemons of a namespace share their chains."""
    lab = Lab(net_conf("vxlan"), options=("--ip-masq",))
    made.append(lab)
    lab.start("dataplane")
    (node,) = lab.daemons
    second = node.directory / "second"
    second.mkdir(mode=0o755)
    document = json.loads((node.run_dir / "footprint.json").read_text())
    ended = {
        "devices": {},
        "networks": ["10.99.0.0/16"],
        "subnets": [],
        "subnet_file": str(node.directory / "other.env"),
    }
    (second / "footprint.json").write_text(json.dumps(document | ended))
    before = host_state(node)
    answer = tried(node, second)
    assert answer.returncode == 0
    assert re.search(
        r"left alone: masquerade and forward rules: a daemon has 10\.244\.0\.0/16 \(pid \d+\)", answer.stderr
    )
    assert host_state(node) == before


def test_flanneld_in_our_place_is_left_alone(made: list[Lab]) -> None:
    """A footprint of before, and the device of a flanneld that lives here now with another subnet."""
    lab = Lab(net_conf("vxlan"), options=("--datapath=kernel",))
    made.append(lab)
    lab.start("dataplane")
    (node,) = lab.daemons
    node.kill_daemon()
    path = node.run_dir / "footprint.json"
    document = json.loads(path.read_text())
    path.write_text(
        json.dumps({key: value for key, value in document.items() if key != "place"} | {"devices": ["flannel.1"]})
    )
    node.batch(
        "link delete flannel.1",
        "link add flannel.1 type vxlan id 1 dev eth0 dstport 8472 nolearning",
        "addr add 10.244.199.0/32 dev flannel.1",
        "link set flannel.1 up",
    )
    before = host_state(node)
    refused = tried(node, node.run_dir)
    assert refused.returncode == 1
    assert "is of another node" in refused.stderr and "flannel.1 here has 10.244.199.0" in refused.stderr
    assert host_state(node) == before and path.exists() and node.subnet_file.exists()


def test_two_cleanups_at_once(made: list[Lab]) -> None:
    """One does it; the other is refused, or finds nothing."""
    lab = Lab(net_conf("vxlan"), options=("--datapath=kernel", "--ip-masq"))
    made.append(lab)
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


def test_after_a_cleanup_flannelds_device_is_left_alone(made: list[Lab]) -> None:
    """The way back (docs/kubernetes.md): cleanup while neither runs, then a flanneld that finds our MAC in the store."""
    lab = Lab(net_conf("vxlan"), options=("--datapath=kernel",))
    made.append(lab)
    lab.start("dataplane")
    (node,) = lab.daemons
    status = node.status()
    assert status is not None
    mac, subnet = status["lease"]["vtep_mac"], status["lease"]["subnet"]
    node.stop_daemon()
    assert node.run("tc", "filter", "show", "dev", "eth0", "ingress").stdout
    assert "removed device flannel.1" in cleanup(node)
    assert not node.run("tc", "filter", "show", "dev", "eth0", "ingress").stdout
    node.batch(
        f"link add flannel.1 address {mac} type vxlan id 1 dev eth0 local {node.address} dstport 8472 nolearning",
        f"addr add {subnet.removesuffix('/24')}/32 dev flannel.1",
        "link set flannel.1 up",
        "route add 10.244.250.0/24 via 10.244.250.0 dev flannel.1 onlink",
    )
    before = host_state(node)
    assert "nothing to remove" in cleanup(node)
    assert host_state(node) == before
