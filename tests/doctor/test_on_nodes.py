"""The doctor on real nodes: a thing that is broken is named, the command that is shown mends it, and looking changes nothing."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode
from tests.lab_fixtures import MakeLab

Found = list[dict[str, str]]
timers = re.compile(r"_timer +[0-9.]+")


def doctor(node: DaemonNode, *words: str, variables: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = (sys.executable, "-m", "dataplane", "doctor", f"--run-dir={node.run_dir}", *words)
    return node.run("env", *variables, *command, check=False)


def host(node: DaemonNode) -> tuple[str, ...]:
    """All of the host that a diagnosis could change, without what moves by itself."""
    commands = (
        ("nft", "-s", "list", "ruleset"),
        ("iptables-save",),
        ("ip6tables-save",),
        ("ip", "-d", "link"),
        ("ip", "address"),
        ("ip", "route", "show", "table", "all"),
        ("ip", "-6", "route", "show", "table", "all"),
        ("sysctl", "-a", "-r", r"^net\.(ipv[46]\.(conf|ip_forward)|bridge|core)"),
    )
    shown = (node.run(*command).stdout.splitlines() for command in commands)
    return tuple(timers.sub("", line) for lines in shown for line in lines if not line.startswith("#"))


def examined(node: DaemonNode, *, variables: tuple[str, ...] = ()) -> Found:
    """What the doctor finds apart from what is well; the host is as it was."""
    before = host(node)
    found = asked(node, variables=variables)
    assert host(node) == before
    return found


def asked(node: DaemonNode, *, variables: tuple[str, ...] = ()) -> Found:
    """The same without a look at the host; the exit code tells of any FAIL."""
    done = doctor(node, "--json", variables=variables)
    found: Found = json.loads(done.stdout)
    assert all(set(row) == {"check", "level", "text", "mend"} for row in found), found
    assert done.returncode == int(any(row["level"] == "FAIL" for row in found)), done
    assert all(row["mend"] for row in found if row["level"] != "OK"), found
    return [row for row in found if row["level"] != "OK"]


def the_one(found: Found, check: str, level: str, *words: str) -> dict[str, str]:
    rows = [row for row in found if row["check"] == check]
    assert len(rows) == 1, found
    assert rows[0]["level"] == level, rows
    for word in words:
        assert word in rows[0]["text"], (word, rows)
    return rows[0]


@pytest.fixture(scope="module")
def lab(make_shared_lab: MakeLab) -> Lab:
    return make_shared_lab("vxlan", "dataplane", "kernel")


@contextmanager
def undone(node: DaemonNode, *commands: str) -> Iterator[None]:
    try:
        yield
    finally:
        for command in commands:
            node.run("sh", "-c", command, check=False)


def reaches(lab: Lab) -> bool:
    return lab.pods[1].ping(lab.pods[0], count=1, wait_s=1).ok


def test_on_a_node_that_is_well_all_is_well(lab: Lab) -> None:
    node = lab.daemons[0]
    assert examined(node) == []
    done = doctor(node, variables=("COLUMNS=60",))
    lines = done.stdout.splitlines()
    assert lines[-1].endswith(" OK, 0 WARN, 0 FAIL")
    assert all(len(line) <= 60 and line == line.rstrip() and "\x1b" not in line for line in lines), done.stdout
    assert any("UDP port 8472: in use by the daemon, pid" in " ".join(line.split()) for line in lines), done.stdout


@pytest.mark.long
@pytest.mark.parametrize(
    ("backend", "options", "nftables"),
    [("udp", (), True), ("host-gw", (), False), ("vxlan", ("--datapath=kernel", "--ip-masq"), True)],
)
def test_on_nodes_of_every_kind_that_are_well_all_is_well(
    labs: list[Lab], backend: str, options: tuple[str, ...], nftables: bool
) -> None:
    lab = Lab(net_conf(backend, ipv6=True) | {"EnableNFTables": nftables}, options=options)
    labs.append(lab)
    lab.start("dataplane", "dataplane")
    assert examined(lab.daemons[0]) == []


nft_input = "add table inet filter; add chain inet filter input { type filter hook input priority 0; policy %s; }"
broken = {
    "nft drops the port": (
        f"nft '{nft_input % 'accept'}; add rule inet filter input udp dport {{ 53, 8000-9000 }} counter drop'",
        "nft delete table inet filter",
        ("firewall", "FAIL", "nft chain inet filter input drops UDP port 8472", "udp dport { 53, 8000-9000 } drop"),
    ),
    "nft drops what it does not know": (
        f"nft '{nft_input % 'drop'}; add rule inet filter input iifname lo accept;"
        " add rule inet filter input ct state established,related accept; add rule inet filter input tcp dport 22 accept'",
        "nft delete table inet filter",
        ("firewall", "FAIL", "inet filter input has policy drop", "no rule accepts UDP port 8472"),
    ),
    "iptables drops the port": (
        "iptables -N OWN; iptables -A INPUT -i eth+ -j OWN;"
        " iptables -A OWN -p udp -m multiport --dports 53,8472 -m comment --comment 'no tunnels' -j REJECT",
        "iptables -F INPUT; iptables -F OWN; iptables -X OWN",
        ("firewall", "FAIL", "iptables chain filter INPUT drops UDP port 8472", "no tunnels", "REJECT"),
    ),
    "forwarding is off": (
        "sysctl -w net.ipv4.ip_forward=0",
        "sysctl -w net.ipv4.ip_forward=1",
        ("forwarding", "FAIL", "net.ipv4.ip_forward is 0"),
    ),
    "nft forwards nothing": (
        "nft 'add table ip other; add chain ip other forward { type filter hook forward priority 0; policy drop; }'",
        "nft delete table ip other",
        ("firewall", "FAIL", "ip other forward has policy drop", "forwarded packets of pods"),
    ),
}


# nft and iptables are looked at in the same way at both hooks; the four that people meet most are enough each time.
cases = [pytest.param(name, marks=pytest.mark.long if name == "nft forwards nothing" else ()) for name in broken]


@pytest.mark.parametrize("name", cases)
def test_what_stops_the_packets_is_named_and_mended(lab: Lab, name: str) -> None:
    command, undo, (check, level, *words) = broken[name]
    node = lab.daemons[0]
    with undone(node, undo):
        assert reaches(lab)
        node.run("sh", "-c", command)
        assert not reaches(lab), "this breaks nothing, and should not be called FAIL"
        row = the_one(examined(node), check, level, *words)
        node.run("sh", "-c", row["mend"])
        assert reaches(lab), row["mend"]
        assert asked(node) == []


warned = {
    "rp_filter is strict": (
        "sysctl -w net.ipv4.conf.eth0.rp_filter=1",
        "sysctl -w net.ipv4.conf.eth0.rp_filter=0",
        ("forwarding", "WARN", "rp_filter of eth0 is 1 (strict)"),
    ),
    "cni0 has too large an MTU": (
        "ip link set cni0 mtu 1500",
        "ip link set cni0 mtu 1450",
        ("mtu", "WARN", "the bridge cni0 has MTU 1500", "more than the overlay's 1450"),
    ),
    "another CNI's device is left": (
        "ip link add cilium_host type bridge",
        "ip link del cilium_host",
        ("cni", "WARN", "cilium_host is of another CNI"),
    ),
}


@pytest.mark.parametrize("name", warned)
def test_what_may_do_harm_is_named_and_mended(lab: Lab, name: str) -> None:
    command, undo, wanted = warned[name]
    node = lab.daemons[0]
    with undone(node, undo):
        node.run("sh", "-c", command)
        row = the_one(examined(node), *wanted)
        node.run("sh", "-c", row["mend"])
        assert asked(node) == []


def test_a_bridge_of_another_subnet_is_named(lab: Lab) -> None:
    node = lab.daemons[0]
    assert node.net is not None and node.net.ipv4 is not None
    address = f"{node.net.ipv4[1]}/24"
    with undone(node, f"ip address add {address} dev cni0", "ip address del 10.99.0.1/24 dev cni0"):
        node.run("sh", "-c", f"ip address del {address} dev cni0; ip address add 10.99.0.1/24 dev cni0")
        row = the_one(examined(node), "cni", "FAIL", "cni0 has 10.99.0.1/24", "FLANNEL_SUBNET", str(node.net.ipv4))
        assert row["mend"] == "ip link del cni0"


def test_a_route_into_the_overlay_is_named_and_mended(lab: Lab) -> None:
    node = lab.daemons[0]
    with undone(node, "ip route del 10.244.128.0/17"):
        node.run("ip", "route", "add", "10.244.128.0/17", "via", "192.0.2.250")
        # Wider than the overlay: every node's subnet goes before it.
        node.run("ip", "route", "add", "10.0.0.0/8", "via", "192.0.2.250")
        row = the_one(
            examined(node), "routes", "FAIL", "10.244.128.0/17 via 192.0.2.250 dev eth0 overlaps", "10.244.0.0/16"
        )
        node.run("sh", "-c", row["mend"])
        assert asked(node) == []
    node.run("ip", "route", "del", "10.0.0.0/8")


def test_without_the_forward_rules_a_policy_of_drop_is_named_and_mended(make_lab: MakeLab) -> None:
    lab = make_lab("vxlan", "dataplane", "kernel", ipv6=False, options=("--iptables-forward-rules=false",))
    node = lab.daemons[0]
    node.run("iptables", "-P", "FORWARD", "DROP")
    assert not reaches(lab)
    row = the_one(examined(node), "firewall", "FAIL", "iptables chain filter FORWARD has policy drop", "pods")
    node.run("sh", "-c", row["mend"])
    assert reaches(lab)
    assert asked(node) == []


def test_a_subnet_file_that_says_something_else_is_named(lab: Lab) -> None:
    node = lab.daemons[0]
    text = node.subnet_file.read_text()
    try:
        node.subnet_file.write_text("FLANNEL_NETWORK=10.244.0.0/16\nFLANNEL_SUBNET=10.244.200.1/24\nFLANNEL_MTU=1450\n")
        the_one(asked(node), "daemon", "FAIL", str(node.subnet_file), "says 10.244.200.0/24")
    finally:
        node.subnet_file.write_text(text)


def test_before_its_start_another_program_or_device_on_the_port_is_named(make_lab: MakeLab) -> None:
    lab = make_lab("vxlan", ipv6=False)
    node = lab.add("dataplane")
    assert isinstance(node, DaemonNode)
    settings = (f"FLANNELD_NET_CONFIG_PATH={lab.net_conf_path}", "FLANNELD_IFACE=eth0")
    the_one(examined(node, variables=settings), "daemon", "WARN", "no daemon is running")
    with program_on_port(node) as pid:
        row = the_one(examined(node, variables=settings), "port", "FAIL", "UDP port 8472 is in use by python", str(pid))
        assert row["mend"] == f"kill {pid}"
    node.run("ip", "link", "add", "other", "type", "vxlan", "id", "7", "dstport", "8472", "dev", "eth0")
    node.run("ip", "link", "set", "other", "up")
    row = the_one(
        examined(node, variables=settings), "port", "FAIL", "UDP port 8472", "a kernel vxlan device other (VNI 7)"
    )
    node.run("sh", "-c", row["mend"])
    node.start_daemon()
    node.wait_ready()
    assert asked(node, variables=settings) == []


@contextmanager
def program_on_port(node: DaemonNode) -> Iterator[int]:
    text = "import socket; s = socket.socket(type=socket.SOCK_DGRAM); s.bind(('', 8472)); s.recv(1)"
    process = node.start(sys.executable, "-c", text)
    try:
        wait_for(lambda: ":8472 " in node.run("ss", "-lunH").stdout, 10, "the program to have the port")
        yield process.pid
    finally:
        process.kill()
        process.wait()


def test_a_configuration_that_cannot_be_used_is_named(lab: Lab, tmp_path: Path) -> None:
    path = tmp_path / "net-conf.json"
    variables = (f"FLANNELD_NET_CONFIG_PATH={path}", "FLANNELD_IFACE=eth0")
    node = lab.daemons[0]
    words = (sys.executable, "-m", "dataplane", "doctor", "--json", f"--run-dir={tmp_path / 'none'}")
    for text, level, problem in (
        ('{"Network": "10.244.0.0/16", "Backend": {"Type": "vxlan", "VNI": -1}}', "FAIL", "VNI"),
        ('{"Network": "10.244.0.0/16", "SubnetLen": 8, "Backend": {"Type": "vxlan"}}', "WARN", "--kube-subnet-mgr"),
    ):
        path.write_text(text)
        found: Found = json.loads(node.run("env", *variables, *words, check=False).stdout)
        rows = [row for row in found if row["check"] == "daemon" and "network configuration" in row["text"]]
        assert [row["level"] for row in rows] == [level], found
        assert str(path) in rows[0]["text"] and problem in rows[0]["text"], rows


def test_without_rights_it_says_what_it_did_not_see(lab: Lab) -> None:
    node = lab.daemons[0]
    dropped = ("setpriv", "--bounding-set=-net_admin,-bpf", "--inh-caps=-net_admin,-bpf")
    command = (sys.executable, "-m", "dataplane", "doctor", f"--run-dir={node.run_dir}", "--json")
    done = node.run(*dropped, *command, check=False)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    assert done.returncode == 1
    levels = {(row["check"], row["level"]) for row in found}
    assert {("tun", "FAIL"), ("rights", "FAIL"), ("rights", "WARN"), ("firewall", "WARN")} <= levels, found
    assert ("firewall", "OK") not in levels, "what was not seen is not well"
    assert any("CAP_NET_ADMIN" in row["text"] for row in found if row["check"] == "tun")
    assert any("CAP_BPF" in row["text"] for row in found if row["check"] == "rights")
