"""Nodes for tests: one without a daemon, and one whose daemon is ready."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from dataplane.doctor.finding import Finding, Level
from dataplane.doctor.node import Asked, Node
from dataplane.flannel.subnet_env import SubnetEnv
from dataplane.host.interface import InterfaceChoice
from dataplane.host.links import Link
from tests.observe.node import read, running

now = 1_800_000_000.0


def status(**changes: Any) -> Mapping[str, Any]:
    """As the daemon tells it, ready."""
    state, _, _ = running()
    document = read(state) | {"ready": True, "problems": [], "pid": 100, "netns": None, "started": now - 60}
    lease = document["lease"] | {"expires": now + 7200}
    return document | {"lease": lease, "store": {"last_contact": document["time"] - 2}} | changes


def node(document: Mapping[str, Any] | None = None, **changes: Any) -> Node:
    asked = Asked(
        document,
        "no daemon is running here",
        Path("/run/dataplane"),
        Path("net-conf.json"),
        Path("subnet.env"),
        InterfaceChoice(),
    )
    made = Node(
        asked,
        document,
        kind="vxlan",
        ports=(8472,),
        networks=(ip_network("10.244.0.0/16"),),
        external="eth0",
        own=(ip_address("192.0.2.1"),),
        links=(Link(1, "lo", 65536, True), Link(2, "eth0", 1500, True)),
    )
    if document is not None:
        made = replace(
            made,
            devices={"flannel.1": 1450},
            subnets=(ip_network("10.244.1.0/24"),),
            links=(*made.links, Link(7, "flannel.1", 1450, True, "tun")),
            env=SubnetEnv(ip_network("10.244.0.0/16"), ip_network("10.244.1.0/24"), mtu=1450),  # type: ignore[arg-type]
        )
    return replace(made, **changes)


def said(findings: list[Finding]) -> list[tuple[str, str]]:
    return [(finding.level.value, finding.text) for finding in findings]


def one(findings: list[Finding], level: str, *words: str) -> Finding:
    assert len(findings) == 1, findings
    assert findings[0].level is Level(level), findings
    assert all(word in findings[0].text for word in words), findings
    return findings[0]
