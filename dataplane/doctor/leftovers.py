"""What other CNIs and earlier lives left: a bridge of another subnet, configurations that go first, devices in the way."""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import ip_interface
from pathlib import Path
from shlex import quote

from dataplane.doctor.finding import Finding, fail, ok, warn
from dataplane.doctor.node import Node, bridge
from dataplane.doctor.port import VxlanDevice, vxlan_devices
from dataplane.host.netlink import Host

cni_directory = Path("/etc/cni/net.d")
_endings = (".conf", ".conflist", ".json")
_foreign = re.compile(r"(cali|cilium_|lxc_|weave|vxlan\.calico|tunl0$|kube-bridge$|ovn|antrea|gre_sys)")
_flannel = re.compile(rb'"type"\s*:\s*"flannel"')


async def check_leftovers(node: Node, host: Host) -> list[Finding]:
    """Look for them."""
    found = [*judge_bridge(node), *judge_files(_files()), *judge_devices(node, await vxlan_devices(host))]
    return found or [ok("cni", f"no other CNI is in the way{_of_bridge(node)}")]


def _files() -> list[tuple[str, bool]]:
    if not cni_directory.is_dir():
        return []
    paths = [path for path in cni_directory.iterdir() if path.suffix in _endings and path.is_file()]
    return [(path.name, _flannel.search(path.read_bytes()) is not None) for path in sorted(paths)]


def _of_bridge(node: Node) -> str:
    return f"; {bridge} has our subnet" if node.link(bridge) and (node.env or node.subnets) else ""


def judge_bridge(node: Node) -> list[Finding]:
    """Compare the pod bridge's addresses with our subnet."""
    link = node.link(bridge)
    if link is None:
        return []
    findings = []
    env = node.env
    wanted = {
        4: node.subnet(4) or (env.subnet if env else None),
        6: node.subnet(6) or (env.ipv6_subnet if env else None),
    }
    for version, subnet in wanted.items():
        own = [
            address.interface
            for address in node.addresses
            if address.index == link.index and address.scope == 0 and address.interface.version == version
        ]
        if subnet is None or not own or any(ip_interface(one).ip in subnet for one in own):
            continue
        text = (
            f"{bridge} has {own[0]}, but this node's subnet (FLANNEL_SUBNET in subnet.env) is {subnet}: "
            "new pods fail, old ones are unreachable"
        )
        findings.append(fail("cni", text, f"ip link del {bridge}"))
    return findings


def judge_files(files: Sequence[tuple[str, bool]]) -> list[Finding]:
    """Judge the CNI configurations, of which the runtime takes the first; each with whether it is flannel's."""
    ours = [name for name, is_flannel in files if is_flannel]
    if not ours:
        return []
    before = [name for name, is_flannel in files if not is_flannel and name < ours[0]]
    return [
        fail(
            "cni",
            f"{cni_directory}/{name} sorts before flannel's {ours[0]}: the runtime uses that CNI for new pods",
            f"mv {quote(f'{cni_directory}/{name}')} {quote(f'{cni_directory}/{name}.disabled')}",
        )
        for name in before
    ]


def judge_devices(node: Node, devices: Sequence[VxlanDevice]) -> list[Finding]:
    """Judge devices of other CNIs, and foreign vxlan devices with our VNI and port."""
    findings = []
    for link in node.links:
        if _foreign.match(link.name) and link.name != "tunl0":
            text = f"device {link.name} is of another CNI: its routes and rules may still be here"
            findings.append(warn("cni", text, f"ip link del {quote(link.name)}"))
        elif link.name == "tunl0" and link.up:
            text = "tunl0 is up: Calico's IP-in-IP may still have routes here"
            findings.append(warn("cni", text, "ip link set tunl0 down"))
    vni = int((node.conf.backend_options.get("VNI") or 1) if node.conf else 1)
    for device in devices:
        ours = device.name in (node.devices or {}) or device.name.startswith("flannel")
        if not ours and device.port in node.ports and device.vni == vni:
            text = f"vxlan device {device.name} has the overlay's VNI {vni} and port {device.port}: it is another overlay's"
            findings.append(fail("cni", text, f"ip link del {quote(device.name)}"))
    return findings
