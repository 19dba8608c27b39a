"""Whom to ask: the peers of a status document, each with the address that its node answers at.

Pure. A node's tunnel device has the first address of its subnet (.0), flanneld's as ours. Where there is no tunnel
(host-gw), cni0 has the second one (.1), and has it only once the node has had a pod.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from dataplane.errors import BadInput
from dataplane.model import IPAddress, IPNetwork, type_host_gw, type_udp

echo_bytes = {4: 28, 6: 48}  # IP and ICMP header


@dataclass(frozen=True, slots=True)
class Target:
    """One overlay prefix of a peer.

    Attributes:
        ask: the address that its node answers at.
        source: our own of that kind, to which answers are routed.
        mtu: of the overlay's device here, bytes.
        backend: as the status names it.
        direct: no tunnel carries what goes there.
    """

    subnet: IPNetwork
    public: IPAddress
    ask: IPAddress
    source: IPAddress
    mtu: int
    backend: str
    direct: bool

    @property
    def overhead(self) -> int:
        """Bytes that the backend puts in front of a packet: outer IP, UDP, and with vxlan its header and Ethernet's."""
        if self.direct:
            return 0
        outer = 20 if self.public.version == 4 else 40
        return outer + 8 + (0 if self.backend == type_udp else 22)


def targets(document: Mapping[str, Any]) -> list[Target]:
    """Return every peer of the status document, IPv4 first, by subnet; raises `BadInput` if the node has no lease yet."""
    lease = document["lease"]
    if lease is None:
        raise BadInput("this node has no lease yet, so nobody could answer it: `dataplane status` says why")
    own = {net.version: net for net in (ip_network(lease[name]) for name in ("subnet", "ipv6_subnet") if lease[name])}
    mtus = {device["name"]: device["mtu"] for device in document["devices"]}
    backend = document["backend"]
    place = 1 if backend == type_host_gw else 0
    found = []
    for peer in document["peers"]:
        subnet = ip_network(peer["subnet"])
        if subnet.version in own and peer["device"] in mtus:
            ask, source = subnet[place], own[subnet.version][place]
            public, mtu = ip_address(peer["public_ip"]), mtus[peer["device"]]
            found.append(Target(subnet, public, ask, source, mtu, backend, peer["direct"]))
    return sorted(found, key=lambda each: (each.subnet.version, each.subnet.network_address.packed))


def chosen(known: Iterable[Target], names: Iterable[IPNetwork]) -> list[Target]:
    """Return those that are named by their subnet, an address inside, or their public one; raises `BadInput`."""
    known, found = list(known), dict[Target, None]()
    for name in names:
        matching = [each for each in known if _is_named(each, name)]
        if not matching:
            shown = str(name.network_address) if name.prefixlen == name.max_prefixlen else str(name)
            raise BadInput(f"{shown} is of no peer: neither its subnet, nor an address inside, nor its public address")
        found.update(dict.fromkeys(matching))
    return list(found)


def _is_named(target: Target, name: IPNetwork) -> bool:
    if name == target.subnet:
        return True
    single = name.prefixlen == name.max_prefixlen
    return single and (name.network_address == target.public or name.network_address in target.subnet)
