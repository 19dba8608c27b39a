"""What `dataplane cleanup` leaves alone: other nodes, living daemons, other overlays, and flanneld in our place."""

from __future__ import annotations

import json
import re
import sys

from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode
from tests.netns.life.cleaning import cleanup, host_state, tried


def two_kernel_nodes(labs: list[Lab], **config: object) -> tuple[DaemonNode, DaemonNode]:
    """Two nodes with the kernel's vxlan, ready."""
    lab = Lab(net_conf("vxlan", **config), options=("--datapath=kernel", "--ip-masq"))
    labs.append(lab)
    lab.start("dataplane", "dataplane")
    one, two = lab.daemons
    return one, two


def test_cleanup_of_another_nodes_run_dir_touches_nothing(labs: list[Lab]) -> None:
    """Whether or not the one or the other runs."""
    one, two = two_kernel_nodes(labs)
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


def test_a_run_dir_of_before_is_refused_where_another_node_lives(labs: list[Lab]) -> None:
    """One that does not say where it is: by the running daemon, then by the device's address."""
    one, two = two_kernel_nodes(labs)
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


def test_a_device_with_another_mac_is_left_and_named(labs: list[Lab]) -> None:
    lab = Lab(net_conf("vxlan"), options=("--datapath=kernel",))
    labs.append(lab)
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


def test_cleanup_with_a_second_run_dir_is_refused_while_the_daemon_runs(labs: list[Lab]) -> None:
    """The second was written here, by an earlier daemon with the same device."""
    lab = Lab(net_conf("vxlan"), options=("--datapath=kernel",))
    labs.append(lab)
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


def test_a_run_dir_that_is_used_in_another_namespace(labs: list[Lab]) -> None:
    """Another node's footprint is moved aside at a start, and cleaned up where it belongs; status says where it asks."""
    one, two = two_kernel_nodes(labs)
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


def test_the_rules_stay_for_a_daemon_of_another_overlay(labs: list[Lab]) -> None:
    """Two daemons of a namespace share their chains."""
    lab = Lab(net_conf("vxlan"), options=("--ip-masq",))
    labs.append(lab)
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


def test_flanneld_in_our_place_is_left_alone(labs: list[Lab]) -> None:
    """A footprint of before, and the device of a flanneld that lives here now with another subnet."""
    lab = Lab(net_conf("vxlan"), options=("--datapath=kernel",))
    labs.append(lab)
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


def test_after_a_cleanup_flannelds_device_is_left_alone(labs: list[Lab]) -> None:
    """The way back (docs/kubernetes.md): cleanup while neither runs, then a flanneld that finds our MAC in the store."""
    lab = Lab(net_conf("vxlan"), options=("--datapath=kernel",))
    labs.append(lab)
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
