"""Does the host forward, and does it take what comes? Settings under /proc/sys."""

from __future__ import annotations

from collections.abc import Callable

from dataplane.doctor.finding import Finding, fail, ok, warn
from dataplane.doctor.node import Node, bridge
from dataplane.errors import HostError
from dataplane.host.sysctl import read_sysctl

_forwarding = {4: "net/ipv4/ip_forward", 6: "net/ipv6/conf/all/forwarding"}
_strict = "1"


def check_forwarding(node: Node) -> list[Finding]:
    """Look at the settings."""
    return judge_forwarding(node, _setting)


def _setting(path: str) -> str | None:
    try:
        return read_sysctl(path)
    except HostError:
        return None


def judge_forwarding(node: Node, setting: Callable[[str], str | None]) -> list[Finding]:
    """Judge the settings; `setting` returns one by its path, None where it is not there."""
    findings = [
        fail(
            "forwarding",
            f"{_forwarding[version].replace('/', '.')} is {setting(_forwarding[version])}: the host forwards no IPv{version} "
            "between pods and the overlay",
            f"sysctl -w {_forwarding[version].replace('/', '.')}=1",
        )
        for version in node.versions
        if setting(_forwarding[version]) in ("0", None)
    ]
    findings += _reverse_path(node, setting)
    findings += _bridge_netfilter(node, setting)
    if findings:
        return findings
    return [
        ok("forwarding", f"{' and '.join(f'IPv{version}' for version in node.versions)} forwarded; no strict rp_filter")
    ]


def _reverse_path(node: Node, setting: Callable[[str], str | None]) -> list[Finding]:
    """The kernel uses the larger of the device's value and that of all (ip-sysctl.rst)."""
    findings = []
    everywhere = setting("net/ipv4/conf/all/rp_filter") or "0"
    names = [node.external, *(link.name for link in node.overlay_devices)]
    for name in names if 4 in node.versions else ():
        own = setting(f"net/ipv4/conf/{name}/rp_filter") if name else None
        if own is not None and max(own, everywhere) == _strict:
            where = f"net.ipv4.conf.{name.replace('.', '/')}.rp_filter"
            text = f"rp_filter of {name} is 1 (strict): what arrives by another way than its answer takes is dropped"
            findings.append(warn("forwarding", text, f"sysctl -w {where}=2"))
    return findings


def _bridge_netfilter(node: Node, setting: Callable[[str], str | None]) -> list[Finding]:
    if node.link(bridge) is None:
        return []
    value = setting("net/bridge/bridge-nf-call-iptables")
    behind = f"kube-proxy's rules do not see packets between pods on {bridge}, so Services fail for pods of one node"
    if value is None:
        return [warn("forwarding", f"br_netfilter is not loaded: {behind}", "modprobe br_netfilter")]
    if value == "0":
        text = f"net.bridge.bridge-nf-call-iptables is 0: {behind}"
        return [warn("forwarding", text, "sysctl -w net.bridge.bridge-nf-call-iptables=1")]
    return []
