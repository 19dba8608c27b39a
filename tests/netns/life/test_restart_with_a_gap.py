"""A daemon ends and another begins, with a gap between: the TUN stays, connections live, and what is known is forwarded first."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from dataplane.lab.commands import wait_for
from dataplane.lab.node import DaemonNode
from dataplane.lab.steady import Steady
from dataplane.takeover import form, record
from tests.lab_fixtures import MakeLab

backends = pytest.mark.parametrize("backend", [pytest.param("udp", marks=pytest.mark.long), "vxlan"])
ends = pytest.mark.parametrize("end", ["stopped", "killed"])


def end_daemon(node: DaemonNode, end: str) -> None:
    if end == "stopped":
        assert node.stop_daemon() == 0
    else:
        node.kill_daemon()


def told(node: DaemonNode) -> dict[str, Any]:
    status = node.status()
    assert status is not None
    return status


@backends
@ends
@pytest.mark.parametrize("version", [4, pytest.param(6, marks=pytest.mark.long)])
def test_connections_live(make_lab: MakeLab, backend: str, end: str, version: int) -> None:
    lab = make_lab(backend, "dataplane", "dataplane", options=("--workers=2",))
    node = lab.daemons[0]
    device = told(node)["devices"][0]
    with Steady(*lab.pods, version) as steady:
        for _ in range(2):
            before = told(node)
            end_daemon(node, end)
            node.start_daemon()
            node.wait_ready()
            after = told(node)
            for kind in ("counters", "drops"):
                assert {name: count for name, count in before[kind].items() if after[kind][name] < count} == {}
            assert after["peers"][0]["tx_packets"] >= before["peers"][0]["tx_packets"]
        wait_for(lambda: lab.pods[0].ping(lab.pods[1], version, count=1).ok, 30, "the pods to reach each other")
        seen = steady.stop()
    assert (seen.tcp_broken, seen.tcp_missing, seen.reordered) == ("", 0, 0), f"{seen}\n{lab.logs()}"
    assert 0 < len(seen.lost) < seen.sent / 2, seen
    assert told(node)["devices"][0]["index"] == device["index"]


@backends
@ends
def test_it_forwards_while_the_store_cannot_be_had(make_lab: MakeLab, backend: str, end: str) -> None:
    """The configuration is away, and with it all that the daemon would learn: it knows by what was written down."""
    lab = make_lab(backend, "dataplane", "dataplane", ipv6=False)
    node = lab.daemons[0]
    end_daemon(node, end)
    away = lab.net_conf_path.rename(lab.net_conf_path.with_suffix(".away"))
    node.start_daemon()
    wait_for(lambda: lab.pods[0].ping(lab.pods[1], count=1, wait_s=0.2).ok, 30, "the pods to reach each other")
    assert lab.pods[1].ping(lab.pods[0], count=20).ok
    wait_for(lambda: node.status() is not None, 60, "the daemon to answer")
    status = told(node)
    assert not status["ready"] and status["lease"] is None
    away.rename(lab.net_conf_path)
    with Steady(*lab.pods) as steady:
        node.wait_ready()
        assert lab.pods[0].ping(lab.pods[1], count=20).ok
        seen = steady.stop()
    assert (seen.lost, seen.reordered, seen.tcp_broken) == ((), 0, ""), f"{seen}\n{lab.logs()}"


def rewrite(path: Path, **changed: Any) -> None:
    """Change the head of what was written down, as if time had passed."""
    line, _, blobs = path.read_bytes().partition(b"\n")
    head = json.loads(line)
    for device in head["devices"]:
        device["ends"] |= changed.pop("ends", {})
    path.write_bytes(json.dumps(head | changed).encode() + b"\n" + blobs)


@backends
@pytest.mark.parametrize(
    "what", ["a peer's lease has ended", "our lease has ended", "too old", "of another boot", "cut", "odd"]
)
def test_what_does_not_hold_any_more_is_not_forwarded(make_lab: MakeLab, backend: str, what: str) -> None:
    lab = make_lab(backend, "dataplane", "dataplane", ipv6=False)
    node, other = lab.daemons
    node.stop_daemon()
    path = node.run_dir / record.file_name
    now = form.boot_now()
    if what == "a peer's lease has ended":
        rewrite(path, ends={str(other.pod_net().ipv4): now - 1})
    elif what == "our lease has ended":
        rewrite(path, ends={str(node.pod_net().ipv4): now - 1})
    elif what == "too old":
        rewrite(path, contact=now - form.unknown_lease_s - 1)
    elif what == "of another boot":
        rewrite(path, place={"boot": "another", "netns": 1, "cookie": 1})
    elif what == "cut":
        path.write_bytes(path.read_bytes()[:-3])
    else:
        path.write_bytes(b'{"form": 1, "devices": 7}\n')
    away = lab.net_conf_path.rename(lab.net_conf_path.with_suffix(".away"))
    node.start_daemon()
    wait_for(lambda: node.status() is not None, 60, "the daemon to be there")
    assert not lab.pods[0].ping(lab.pods[1], count=3, wait_s=0.3).received
    away.rename(lab.net_conf_path)
    node.wait_ready()
    assert lab.pods[0].ping(lab.pods[1]).ok
    if what in ("cut", "odd"):
        assert "starting without what was known before" in node.log()


@backends
def test_a_lease_that_ends_while_the_store_is_away_is_not_forwarded_for_longer(make_lab: MakeLab, backend: str) -> None:
    lab = make_lab(backend, "dataplane", "dataplane", ipv6=False)
    node, other = lab.daemons
    node.stop_daemon()
    lab.net_conf_path.rename(lab.net_conf_path.with_suffix(".away"))
    rewrite(node.run_dir / record.file_name, ends={str(other.pod_net().ipv4): form.boot_now() + 6})
    began = time.monotonic()
    node.start_daemon()
    wait_for(lambda: lab.pods[0].ping(lab.pods[1], count=1, wait_s=0.2).ok, 6, "the pods to reach each other")
    wait_for(lambda: not lab.pods[0].ping(lab.pods[1], count=1, wait_s=0.2).ok, 30, "forwarding to end")
    assert time.monotonic() - began > 5


@backends
@ends
def test_cleanup_takes_the_tun_that_stayed(make_lab: MakeLab, backend: str, end: str) -> None:
    lab = make_lab(backend, "dataplane", ipv6=False)
    node = lab.daemons[0]
    name = told(node)["devices"][0]["name"]
    end_daemon(node, end)
    assert name in node.run("ip", "-o", "link").stdout
    answer = node.run(
        "env", "PYTHONSAFEPATH=1", node.python, "-m", "dataplane", "cleanup", "--run-dir", str(node.run_dir)
    )
    assert f"removed TUN device {name}" in answer.stdout
    assert name not in node.run("ip", "-o", "link").stdout
    assert not (node.run_dir / record.file_name).exists()


@backends
def test_a_tun_of_somebody_else_is_left_alone(make_lab: MakeLab, backend: str) -> None:
    """Of our name, but made after ours went: its index tells."""
    lab = make_lab(backend, "dataplane", ipv6=False)
    node = lab.daemons[0]
    name = told(node)["devices"][0]["name"]
    node.stop_daemon()
    node.run("ip", "link", "delete", name)
    node.run("ip", "tuntap", "add", "dev", name, "mode", "tun", "multi_queue")
    index = json.loads(node.run("ip", "-j", "link", "show", name).stdout)[0]["ifindex"]
    node.start_daemon()
    if backend == "udp":  # its device is a template: the next free name
        node.wait_ready()
        assert told(node)["devices"][0]["name"] != name
    else:
        assert node.process is not None and node.process.wait(60) == 1
        assert "another process (or a persistent TUN) holds the name" in node.log()
    assert json.loads(node.run("ip", "-j", "link", "show", name).stdout)[0]["ifindex"] == index
