"""`dataplane ping` between whole nodes: what it says where all is well, and of each trouble that is made here."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

from dataplane.lab.cluster import Lab
from dataplane.lab.commands import run
from dataplane.lab.node import DaemonNode, Node
from tests.lab_fixtures import MakeLab


def ping(node: DaemonNode, *words: str) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "dataplane", "ping", f"--run-dir={node.run_dir}", *words)
    return node.run("env", "COLUMNS=80", *command, check=False, timeout=60)


def said(node: DaemonNode, *words: str, code: int) -> str:
    """What it prints, without its line ends."""
    done = ping(node, *words)
    assert (done.returncode, done.stderr) == (code, ""), done.stdout
    for line in done.stdout.splitlines():
        assert len(line) < 80 and line == line.rstrip() and "\033" not in line
    return " ".join(done.stdout.split())


def results(node: DaemonNode, *words: str, code: int = 0) -> list[dict[str, Any]]:
    done = ping(node, "--json", *words)
    assert done.returncode == code, done.stdout + done.stderr
    return list(json.loads(done.stdout))


def subnet(node: Node) -> str:
    assert node.net is not None
    return str(node.net.ipv4)


def drop(node: Node, *rules: str) -> None:
    """Have the node's firewall drop what comes in and is like these."""
    added = [f"add rule inet ping in {rule} drop" for rule in rules]
    lines = ("add table inet ping", "add chain inet ping in { type filter hook input priority -300; }", *added)
    node.run("nft", "; ".join(lines))


def expect_all(lab: Lab, sizes: dict[str, int]) -> None:
    found = {each["subnet"]: each for each in results(lab.daemons[0], "--all")}
    others = [net for node in lab.nodes[1:] if node.net for net in (node.net.ipv4, node.net.ipv6) if net is not None]
    assert set(found) == set(map(str, others))
    for name, each in found.items():
        assert (each["ok"], each["answered"], each["verdict"]) == (True, 5, []), each
        assert each["largest"] == each["mtu"] == sizes["v6" if ":" in name else "v4"]
        assert 0 < each["rtt_ms"]["min"] <= each["rtt_ms"]["median"] <= each["rtt_ms"]["max"]


def test_ours_and_the_kernels_node_answer_in_both_versions_and_by_every_name(make_lab: MakeLab) -> None:
    lab = make_lab("vxlan", "dataplane", "dataplane", "kernel")
    node = lab.daemons[0]
    expect_all(lab, {"v4": 1450, "v6": 1430})
    for other in lab.nodes[1:]:
        for name in (subnet(other), str(other.address), other.pods[0].address):
            (found,) = results(node, "--count=1", name)
            assert (found["subnet"], found["ok"]) == (subnet(other), True)
    text = said(node, "--all", code=0)
    assert text.count("5/5") == 4 and "4 of 4 answered everything, up to the MTU" in text
    assert ping(node).returncode == ping(node, "--all", subnet(lab.nodes[1])).returncode == 2
    assert ping(node, "nonsense").returncode == ping(node, "--count=0", "--all").returncode == 2
    unknown = ping(node, "10.9.9.9")
    assert (unknown.returncode, "10.9.9.9 is of no peer" in unknown.stderr) == (1, True)
    outside = run(None, sys.executable, "-m", "dataplane", "ping", f"--run-dir={node.run_dir}", "--all", check=False)
    assert outside.returncode == 1 and "the daemon runs in another network namespace" in outside.stderr


@pytest.mark.parametrize(
    ("backend", "flags", "sizes"),
    [
        ("udp", (), {"v4": 1472}),
        ("host-gw", (), {"v4": 1500, "v6": 1500}),
        pytest.param("vxlan", ("--datapath=kernel",), {"v4": 1450, "v6": 1430}, marks=pytest.mark.long),
    ],
)
def test_every_backend_answers(backend: str, flags: tuple[str, ...], sizes: dict[str, int], make_lab: MakeLab) -> None:
    lab = make_lab(backend, "dataplane", "dataplane", ipv6="v6" in sizes, options=flags)
    expect_all(lab, sizes)


def test_a_node_alone_has_no_peers(make_lab: MakeLab) -> None:
    (node,) = make_lab("udp", "dataplane", ipv6=False).daemons
    assert said(node, "--all", code=0) == "no peers"
    node.stop_daemon()
    silent = ping(node, "--all")
    assert silent.returncode == 1 and "no daemon is running here" in silent.stderr


def test_an_underlay_that_is_narrower_than_it_says(make_lab: MakeLab) -> None:
    lab = make_lab("vxlan", "dataplane", "dataplane")
    run(None, "ip", "link", "set", lab.underlay.port(2), "mtu", "1400")
    for found in results(lab.daemons[0], "--all", code=1):
        # A bridge lets four bytes more pass, for a VLAN tag.
        overhead = 70 if ":" in found["subnet"] else 50
        assert 1400 <= found["largest"] + overhead <= 1404
        assert (found["answered"], found["full_size"]) == (5, False)
        (text,) = found["verdict"]
        assert f"small packets pass, {found['mtu']}-byte ones do not" in text
        assert f"lower the backend's MTU option to {found['largest'] + overhead} on all nodes" in text


def test_the_peers_daemon_was_killed_and_its_tun_stays(make_lab: MakeLab) -> None:
    lab = make_lab("vxlan", "dataplane", "dataplane")
    node, other = lab.daemons
    other.kill_daemon()
    text = said(node, subnet(other), code=1)
    assert f"{subnet(other)} 0/5 - -" in text
    assert f"ICMP about {other.address}: port closed: no daemon listens there." in text
    assert "On the other node: `dataplane status`, and the daemon's log." in text


@pytest.mark.long
def test_a_firewall_drops_the_answers_here_or_the_port_on_the_peer(make_lab: MakeLab) -> None:
    lab = make_lab("vxlan", "dataplane", "dataplane", ipv6=False)
    node, other = lab.daemons
    drop(node, "iifname flannel.1 icmp type echo-reply")
    text = said(node, subnet(other), code=1)
    assert "packets come from it (5 meanwhile), but no answer of" in text
    drop(other, "udp dport 8472")
    text = said(node, subnet(other), code=1)
    assert "sent (5 packets), nothing came back. On the other node: `dataplane ping " in text
    assert "dropped here" not in text and "ICMP about" not in text


@pytest.mark.long
def test_answers_come_from_an_address_without_a_lease(make_lab: MakeLab) -> None:
    """As behind a NAT that is not in the leases."""
    lab = make_lab("vxlan", "dataplane", "dataplane", ipv6=False)
    node, other = lab.daemons
    other.run("ip", "address", "add", "192.0.2.77/24", "dev", "eth0")
    nat = "type nat hook postrouting priority 100;"
    rule = "oifname eth0 udp dport 8472 snat ip to 192.0.2.77"
    other.run("nft", f"add table ip away; add chain ip away out {{ {nat} }}; add rule ip away out {rule}")
    text = said(node, subnet(other), code=1)
    assert "5 receive_unknown_sender (sender holds no lease)." in text
    assert "something came and was refused" in text
