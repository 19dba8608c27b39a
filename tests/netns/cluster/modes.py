"""Each way that is not the TUN alone, and what is seen of it on a node."""

from __future__ import annotations

from dataclasses import dataclass

from dataplane.lab.cluster import Lab, net_conf
from dataplane.lab.node import DaemonNode, Node


@dataclass(frozen=True)
class Mode:
    """A backend with its options, and the daemons' flags."""

    backend: str
    options: tuple[tuple[str, object], ...] = ()
    flags: tuple[str, ...] = ()

    def lab(self, *, ipv6: bool = True) -> Lab:
        return Lab(net_conf(self.backend, ipv6=ipv6, options=dict(self.options)), options=self.flags)


kernel = Mode("vxlan", flags=("--datapath=kernel",))
direct = (("DirectRouting", True),)
modes = {
    "kernel": kernel,
    "kernel-direct": Mode("vxlan", direct, ("--datapath=kernel",)),
    "userspace-direct": Mode("vxlan", direct),
    "host-gw": Mode("host-gw"),
}


def two(labs: list[Lab], mode: Mode, *, ipv6: bool = False) -> Lab:
    labs.append(mode.lab(ipv6=ipv6))
    labs[-1].start("dataplane", "dataplane")
    return labs[-1]


def routes(node: Node, version: int = 4) -> dict[str, str]:
    """What `ip route` shows behind each prefix."""
    lines = node.run("ip", f"-{version}", "route", "show").stdout.splitlines()
    return {line.split(" ", 1)[0]: line.split(" ", 1)[1].strip() for line in lines}


def subnet(node: Node) -> str:
    assert node.net is not None
    return str(node.net.ipv4)


def peers(node: DaemonNode) -> dict[str, dict[str, object]]:
    return {peer["subnet"]: peer for peer in (node.status() or {})["peers"]}
