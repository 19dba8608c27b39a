"""Does anything else on this host claim the overlay's addresses?"""

from __future__ import annotations

from collections.abc import Iterable
from shlex import quote

from dataplane.doctor.finding import Finding, fail, ok
from dataplane.doctor.node import Node, bridge
from dataplane.host.netlink import Host
from dataplane.host.routes import Route
from dataplane.model import IPNetwork, type_host_gw


async def check_routes(node: Node, host: Host) -> list[Finding]:
    """Look at the main table."""
    return judge_routes(node, [route for version in node.versions for route in await host.main_routes(version)])


def judge_routes(node: Node, routes: Iterable[Route]) -> list[Finding]:
    """Find routes that overlap the overlay and lead elsewhere."""
    if not node.networks:
        return [ok("routes", "the overlay's network is not known yet: no file of the network configuration, no daemon")]
    names = {link.index: link.name for link in node.links}
    findings = []
    for route in routes:
        name = names.get(route.index, str(route.index))
        network = next((one for one in node.networks if one.version == route.prefix.version), None)
        if (
            network is None
            or not route.prefix.prefixlen
            or not route.prefix.overlaps(network)
            or _ours(node, route, name)
        ):
            continue
        # A wider route takes only what is in no node's subnet, since the longest prefix goes first.
        if _within(network, route.prefix) and network != route.prefix:
            continue
        gateway = f" via {route.gateway}" if route.gateway else ""
        text = f"route {route.prefix}{gateway} dev {name} overlaps the pods' network {network}: packets for pods leave there"
        if gateway:
            findings.append(fail("routes", text, f"ip route del {route.prefix}{gateway} dev {quote(name)}"))
        else:
            text += "; the overlay needs a Network of its own in its configuration"
            findings.append(fail("routes", text, f"ip route show root {network}"))
    return findings or [ok("routes", f"no other route overlaps {', '.join(map(str, node.networks))}")]


def _within(inner: IPNetwork, outer: IPNetwork) -> bool:
    return inner.version == outer.version and inner.subnet_of(outer)  # type: ignore[arg-type]


def _ours(node: Node, route: Route, name: str) -> bool:
    """Say whether pods or peers are there: pod interfaces may be routed to one by one."""
    if name == bridge or any(name == link.name for link in node.overlay_devices) or name.startswith("flannel"):
        return True
    own = node.subnet(route.prefix.version)
    if own is not None and _within(route.prefix, own):
        return True
    direct = route.gateway is not None and (route.gateway in node.peers or node.kind == type_host_gw)
    return direct and name == node.external
