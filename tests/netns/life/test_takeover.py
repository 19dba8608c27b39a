"""A new daemon takes over from one that runs: nothing is lost, nothing overtaken, and who asks is answered all along."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path
from typing import Any

import pytest

from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode
from dataplane.lab.steady import Seen, Steady
from dataplane.takeover.conversation import hear, say
from dataplane.takeover.form import form, table_layout
from tests import root
from tests.lab_fixtures import MakeLab

backends = pytest.mark.parametrize("backend", [pytest.param("udp", marks=pytest.mark.long), "vxlan"])
ways = pytest.mark.parametrize(
    ("backend", "flags"),
    [
        pytest.param("udp", ("--workers=1",), marks=pytest.mark.long),
        ("udp", ("--workers=2",)),
        ("vxlan", ("--workers=1",)),
        pytest.param("vxlan", ("--workers=2",), marks=pytest.mark.long),
        pytest.param("vxlan", ("--datapath=kernel",), marks=pytest.mark.long),
        pytest.param("host-gw", (), marks=pytest.mark.long),
    ],
)


def take_over(node: DaemonNode, *flags: str) -> None:
    """Start a daemon that takes over, and wait until it is ready and the one before has ended."""
    before = node.process
    assert before is not None
    node.process = None
    node.start_daemon("--takeover", *flags)
    assert before.wait(60) == 0
    node.wait_ready()


def told(node: DaemonNode) -> dict[str, Any]:
    status = node.status()
    assert status is not None
    return status


def nothing_lost(seen: Seen) -> bool:
    return (seen.lost, seen.reordered, seen.tcp_broken, seen.tcp_missing) == ((), 0, "", 0) and seen.sent > 20


@ways
@pytest.mark.parametrize("version", [4, pytest.param(6, marks=pytest.mark.long)])
def test_nothing_is_lost(make_lab: MakeLab, backend: str, flags: tuple[str, ...], version: int) -> None:
    lab = make_lab(backend, "dataplane", "dataplane", options=flags)
    node = lab.daemons[0]
    before = told(node)
    with Steady(*lab.pods, version, interval_s=0.005) as steady:
        for _ in range(3):
            take_over(node)
        seen = steady.stop()
    after = told(node)
    assert nothing_lost(seen), f"{seen}\n{lab.logs()}"
    assert after["lease"]["subnet"] == before["lease"]["subnet"]
    assert after["lease"]["vtep_mac"] == before["lease"]["vtep_mac"]
    assert [(device["name"], device["index"]) for device in after["devices"]] == [
        (device["name"], device["index"]) for device in before["devices"]
    ]


@backends
def test_counters_go_on(make_lab: MakeLab, backend: str) -> None:
    lab = make_lab(backend, "dataplane", "dataplane", ipv6=False)
    node = lab.daemons[0]
    assert lab.pods[0].ping(lab.pods[1], count=30).ok
    lab.pods[0].ping(lab.pods[0], count=1)
    node.run("ping", "-c", "2", "-W", "0.1", "10.244.250.7", check=False)  # nobody's
    before = told(node)
    assert before["drops"]["send_no_route"] > 0
    take_over(node)
    after = told(node)
    for kind in ("counters", "drops"):
        assert {name: count for name, count in before[kind].items() if after[kind][name] < count} == {}
    (peer,), (same) = before["peers"], after["peers"][0]
    assert peer["tx_packets"] >= 30
    assert all(same[name] >= peer[name] for name in ("tx_packets", "tx_bytes", "rx_packets", "rx_bytes"))
    assert after["started"] > before["started"]
    assert after["forwarding_since"] == before["forwarding_since"] <= before["started"] + 60


@backends
def test_it_can_be_done_by_a_signal(make_lab: MakeLab, backend: str) -> None:
    lab = make_lab(backend, "dataplane", "dataplane", ipv6=False)
    node = lab.daemons[0]
    process, pid = node.process, told(node)["pid"]
    assert process is not None
    with Steady(*lab.pods) as steady:
        node.run("kill", "-HUP", str(pid))
        assert process.wait(60) == 0
        wait_for(lambda: (node.status() or {}).get("ready") and told(node)["pid"] != pid, 60, "the next daemon")
        seen = steady.stop()
    assert nothing_lost(seen), f"{seen}\n{lab.logs()}"
    node.run("kill", str(told(node)["pid"]))
    wait_for(lambda: node.status() is None, 60, "it to end")


@backends
@pytest.mark.parametrize("flags", [("--workers=2",), ("--spin-us=0",), ("--leave-tun=false",)])
def test_the_next_daemon_may_be_told_otherwise(make_lab: MakeLab, backend: str, flags: tuple[str, ...]) -> None:
    """What has to be opened anew for it is, by and by; the TUN stays, and nobody's connection breaks."""
    lab = make_lab(backend, "dataplane", "dataplane", ipv6=False, options=("--workers=1",))
    node = lab.daemons[0]
    index = told(node)["devices"][0]["index"]
    with Steady(*lab.pods) as steady:
        take_over(node, *flags)
        wait_for(lambda: lab.pods[0].ping(lab.pods[1], count=1).ok, 30, "the pods to reach each other")
        seen = steady.stop()
    assert (seen.tcp_broken, seen.tcp_missing, seen.reordered) == ("", 0, 0), f"{seen}\n{lab.logs()}"
    assert told(node)["devices"][0]["index"] == index


def test_another_mtu_is_another_device(make_lab: MakeLab) -> None:
    lab = make_lab("vxlan", "dataplane", "dataplane", ipv6=False)
    node = lab.daemons[0]
    lab.configure({**lab.conf, "Backend": {**lab.conf["Backend"], "MTU": 1300}})
    take_over(node)
    assert told(node)["devices"][0]["mtu"] == 1250
    wait_for(lambda: lab.pods[0].ping(lab.pods[1], count=1).ok, 30, "the pods to reach each other")


def test_another_datapath_takes_the_place_of_the_tun(make_lab: MakeLab) -> None:
    lab = make_lab("vxlan", "dataplane", "dataplane", ipv6=False)
    node = lab.daemons[0]
    for datapath in ("kernel", "userspace"):
        take_over(node, f"--datapath={datapath}")
        assert told(node)["datapath"]["kind"] == datapath
        wait_for(lambda: lab.pods[0].ping(lab.pods[1], count=1).ok, 30, "the pods to reach each other")


# What goes wrong


def ask(node: DaemonNode) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(30)
    connection.connect(str(node.run_dir / "takeover.sock"))
    return connection


def receive_all(connection: socket.socket) -> None:
    word = ""
    while word != "state":
        message, fds = hear(connection, "descriptors", "state")
        word = message["word"]
        for fd in fds:
            os.close(fd)


@backends
@pytest.mark.parametrize("until", ["connected", "asked", "nonsense", "received", "cannot", "ready", "stopped"])
def test_who_leaves_on_the_way_has_changed_nothing(make_lab: MakeLab, backend: str, until: str) -> None:
    lab = make_lab(backend, "dataplane", "dataplane", ipv6=False)
    node = lab.daemons[0]
    with Steady(*lab.pods, interval_s=0.005) as steady, ask(node) as connection:
        if until == "nonsense":
            connection.send(b"\xff nonsense")
        elif until != "connected":
            say(connection, "take over", form=form, layout=table_layout)
        if until in ("received", "cannot", "ready", "stopped"):
            receive_all(connection)
        if until == "cannot":
            say(connection, "cannot", reason="for a test")
        if until in ("ready", "stopped"):
            say(connection, "ready")
        if until == "stopped":
            _, (fd,) = hear(connection, "stopped")
            os.close(fd)
        connection.close()
        if until != "connected":
            wait_for(lambda: "nobody takes over" in node.log(), 60, "the daemon to say that nobody takes over")
        assert lab.pods[0].ping(lab.pods[1], count=20).ok
        seen = steady.stop()
    assert nothing_lost(seen), f"{seen}\n{lab.logs()}"
    assert told(node)["ready"] and "ERROR" not in node.log()
    take_over(node)
    assert lab.pods[0].ping(lab.pods[1]).ok


@pytest.mark.parametrize("may_connect", [False, True])
def test_another_user_gets_nothing(make_lab: MakeLab, may_connect: bool) -> None:
    lab = make_lab("vxlan", "dataplane", ipv6=False)
    node = lab.daemons[0]
    path = node.run_dir / "takeover.sock"
    assert path.stat().st_mode & 0o777 == 0o600
    for parent in path.parents:
        if parent.is_relative_to("/run"):
            parent.chmod(0o755)
    if may_connect:
        path.chmod(0o666)
    script = (
        "import socket, sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.settimeout(10); "
        f's.connect(\'{path}\'); s.send(b\'{{"word": "take over", "form": {form}}}\'); print(s.recv(100))'
    )
    python = Path(sys.executable).resolve()
    words = ("setpriv", "--reuid=65534", "--clear-groups", str(python), "-I", "-S", "-c", script)
    done = node.run(*words, check=False)
    if may_connect:
        assert done.stdout == "b''\n" or "ConnectionReset" in done.stderr or "BrokenPipe" in done.stderr, done
        assert "user 65534" in node.log() and "may not take over" in node.log()
    else:
        assert "PermissionError" in done.stderr


@backends
@pytest.mark.parametrize("other", ["form", "before takeovers"])
def test_a_version_that_cannot_hand_over_to_us_is_followed_the_plain_way(
    make_lab: MakeLab, backend: str, other: str
) -> None:
    lab = make_lab(backend, "dataplane", "dataplane", ipv6=False)
    node = lab.daemons[0]
    with Steady(*lab.pods) as steady:
        if other == "form":
            node.program = (str(root / "tests/programs/other_form.py"),)
        else:
            (node.run_dir / "takeover.sock").unlink()
        take_over(node)
        wait_for(lambda: lab.pods[0].ping(lab.pods[1], count=1).ok, 30, "the pods to reach each other")
        seen = steady.stop()
    assert (seen.tcp_broken, seen.tcp_missing, seen.reordered) == ("", 0, 0), f"{seen}\n{lab.logs()}"
    log = node.log()
    assert "starting the plain way" in log
    if other == "form":
        assert f"hands over in form {form}, asked for was 2" in log
        assert f"it is in form {form}, of another version; this one reads form 2" in log


def test_without_the_flag_a_second_daemon_is_refused(make_lab: MakeLab) -> None:
    lab = make_lab("vxlan", "dataplane", "dataplane", ipv6=False)
    node = lab.daemons[0]
    first, node.process = node.process, None
    node.start_daemon()
    assert node.process is not None and node.process.wait(60) == 1
    node.process = first
    assert "is in use by another daemon" in node.log() and told(node)["ready"]
    assert lab.pods[0].ping(lab.pods[1]).ok


def test_a_configuration_that_cannot_be_used_ends_the_next_daemon_before_it_has_taken_anything(
    make_lab: MakeLab,
) -> None:
    lab = make_lab("vxlan", "dataplane", "dataplane", ipv6=False)
    node: DaemonNode = lab.daemons[0]
    with Steady(*lab.pods) as steady:
        lab.configure({**lab.conf, "Backend": {"Type": "vxlan", "VNI": -5}})
        first, node.process = node.process, None
        node.start_daemon("--takeover")
        assert node.process is not None and node.process.wait(60) == 1
        node.process = first
        seen = steady.stop()
    assert nothing_lost(seen), f"{seen}\n{lab.logs()}"
    assert first is not None and first.poll() is None
