"""Does a full packet of a pod fit into one of the underlay?"""

from __future__ import annotations

from dataplane.backends import udp, vxlan
from dataplane.doctor.finding import Finding, fail, ok, warn
from dataplane.doctor.node import Node, bridge
from dataplane.model import type_host_gw, type_udp, type_vxlan


def check_mtu(node: Node) -> list[Finding]:
    """Compare the MTUs of pod bridge, overlay device and external interface."""
    external = node.link(node.external)
    if external is None:
        why = node.external_problem or f"the external interface {node.external} is gone"
        return [fail("mtu", why, "ip -br address; dataplane run --iface=NAME")]
    findings = []
    for link in node.overlay_devices:
        overhead = _overhead(node, link.name)
        if link.mtu + overhead > external.mtu:
            text = (
                f"{link.name} has MTU {link.mtu}: with {overhead} bytes of encapsulation that is {link.mtu + overhead}, more "
                f"than {external.name} carries (MTU {external.mtu})"
            )
            mend = f"ip link set {link.name} mtu {external.mtu - overhead}"
            findings.append(fail("mtu", text, mend))
    # Of both IP versions the larger, as in subnet.env: IPv6 has a path MTU of its own, and every pod heeds it.
    overlay = max((link.mtu for link in node.overlay_devices), default=external.mtu if node.kind == type_host_gw else 0)
    overlay = overlay or (node.env.mtu if node.env else 0)
    pods = node.link(bridge)
    if pods is not None and overlay and pods.mtu > overlay:
        text = (
            f"the bridge {bridge} has MTU {pods.mtu}, more than the overlay's {overlay}: large packets of pods are cut or refused "
            "(ICMP too big), and lost where that is filtered; running pods keep their MTU until they are made again"
        )
        findings.append(warn("mtu", text, f"ip link set {bridge} mtu {overlay}"))
    if node.env is not None and overlay and node.env.mtu > overlay:
        text = f"subnet.env gives new pods MTU {node.env.mtu}, more than the overlay's {overlay}"
        findings.append(warn("mtu", text, "systemctl restart dataplane"))
    if findings:
        return findings
    shown = ", ".join(f"{link.name} {link.mtu}" for link in (*node.overlay_devices, *([pods] if pods else [])))
    return [ok("mtu", f"{external.name} {external.mtu}{', ' if shown else ''}{shown}")]


def _overhead(node: Node, device: str) -> int:
    """Bytes around a pod's packet: IPv6 travels over IPv6 with vxlan; the udp backend takes the one address that there is."""
    if node.kind == type_vxlan:
        return vxlan.overhead_bytes[6 if device.startswith("flannel-v6") else 4]
    if node.kind == type_udp:
        return udp.overhead_bytes[4 if any(address.version == 4 for address in node.own) else 6]
    return 0
