"""Which versions are at work."""

from __future__ import annotations

import os
import platform
import re
from importlib.metadata import version

from dataplane.doctor.finding import Finding, fail, ok, warn
from dataplane.doctor.node import Node
from dataplane.errors import HostError
from dataplane.host.command import call, find


async def check_tools(node: Node) -> list[Finding]:
    """Look for the tools that write the firewall's rules, and name every version."""
    said = {}
    for tool in ("nft", "iptables"):
        try:
            said[tool] = await call(tool, "--version") if find(tool) else ""
        except HostError as error:
            said[tool] = str(error)
    return judge_tools(node, said, os.uname().release)


def judge_tools(node: Node, said: dict[str, str], release: str) -> list[Finding]:
    """Judge what the tools say of themselves; "" is said by one that is not installed."""
    findings = []
    wanted = "nft" if node.conf is not None and node.conf.enable_nftables else "iptables"
    package = {"nft": "nftables", "iptables": "iptables"}[wanted]
    if not said[wanted]:
        other = said["nft" if wanted == "iptables" else "iptables"]
        text = f"{wanted} is not installed: the daemon cannot put in its firewall rules"
        judge = warn if other and node.conf is None else fail
        findings.append(judge("versions", text, f"apt-get install {package}"))
    shown = ", ".join(_short(tool, text) for tool, text in said.items())
    findings.append(
        ok(
            "versions",
            f"dataplane {version('flannel-dataplane')}, Python {platform.python_version()}, Linux {release}, {shown}",
        )
    )
    return findings


def _short(tool: str, text: str) -> str:
    found = re.search(r"v?(\d+\.\d+(\.\d+)?)", text)
    kind = re.search(r"\((nf_tables|legacy)\)", text)
    if not found:
        return f"no {tool}" if not text else f"{tool}: {text.strip()}"
    return f"{tool} {found[1]}{f' ({kind[1]})' if kind else ''}"
