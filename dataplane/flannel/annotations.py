"""What a Node's annotations and pod subnets mean: a lease; and what ours have to be.

Pure. What must stay true: names and values are flannel's byte for byte; a Node without `kube-subnet-manager: "true"` is
no node of the overlay; what is written on a Node is hostile input until it is a `Lease` or a `BadLease`.
Source: flannel pkg/subnet/kube/kube.go (AcquireLease, nodeToLease), annotations.go; flannel.md sections 3.1 and 3.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeVar

import msgspec

from dataplane.errors import BadInput, BadLease
from dataplane.flannel import gotext
from dataplane.model import Born, Lease, LeaseAttrs, NetConf, type_vxlan

Address = TypeVar("Address", IPv4Address, IPv6Address)

longest_data = 65536  # characters of one annotation that are looked at; all of a Node's may be 262,144 bytes


@dataclass(frozen=True, slots=True)
class Facts:
    """All of a Node that matters here.

    Attributes:
        cidrs: its pod subnets as Kubernetes wrote them.
        annotations: those under our prefix, by the rest of their name ("public-ip").
        created: Unix time in seconds; 0 where the server does not tell.
    """

    cidrs: tuple[str, ...]
    annotations: Mapping[str, str]
    created: float = 0.0


def read_lease(name: str, facts: Facts, conf: NetConf) -> Lease | None:
    """Return the lease that a Node is, None where it takes no part in the overlay.

    Only the enabled families are looked at. A Node with one family's subnet in a dual-stack network is a lease of that
    family.

    Raises:
        BadLease: no subnet, or something that cannot be read.
    """
    if facts.annotations.get("kube-subnet-manager") != "true":
        return None
    key = refused_key(name)
    try:
        subnet, ipv6_subnet = read_subnets(name, facts, conf)
    except BadInput as error:
        raise BadLease(key, str(error)) from None
    if subnet is None and ipv6_subnet is None:
        raise BadLease(key, "pod cidr not assigned (spec.podCIDRs is empty)")
    texts = facts.annotations
    item = ""
    try:
        item = "public-ip"
        public_ip = gotext.ipv4(texts[item]) if conf.enable_ipv4 and texts.get(item) else None
        item = "public-ipv6"
        public_ipv6 = gotext.ipv6(texts[item]) if conf.enable_ipv6 and texts.get(item) else None
        item = "backend-data"
        data = _read_data(texts.get(item, "")) if conf.enable_ipv4 else None
        item = "backend-v6-data"
        v6_data = _read_data(texts.get(item, "")) if conf.enable_ipv6 else None
    except BadInput as error:
        raise BadLease(key, f"annotation {item}: {error}") from None
    attrs = LeaseAttrs(public_ip, public_ipv6, texts.get("backend-type", ""), data, v6_data)
    return Lease(subnet, ipv6_subnet, attrs, born=born_of(name, facts))


def born_of(name: str, facts: Facts) -> Born:
    """Return how old a Node is; of those of one second the one whose name comes first counts as older."""
    return (facts.created, name) if facts.created else (0.0, "")


def refused_key(name: str) -> str:
    """Return what a Node that is no usable lease is called: it need not have a subnet."""
    return f"node {name}"


def read_subnets(name: str, facts: Facts, conf: NetConf) -> tuple[IPv4Network | None, IPv6Network | None]:
    """Return a Node's pod subnets of the enabled families, None for what it has not.

    Raises:
        BadInput: not subnets, or more than two.
    """
    if len(facts.cidrs) > 2:
        raise BadInput(f'node "{name}" pod cidrs should be IPv4/IPv6 only or dualstack; there are {len(facts.cidrs)}')
    subnet: IPv4Network | None = None
    ipv6_subnet: IPv6Network | None = None
    for text in facts.cidrs:
        if ":" in text:
            ipv6_subnet = ipv6_subnet or gotext.ipv6_network(text)
        else:
            subnet = subnet or gotext.ipv4_network(text)
    return subnet if conf.enable_ipv4 else None, ipv6_subnet if conf.enable_ipv6 else None


def wanted(attrs: LeaseAttrs, facts: Facts) -> dict[str, str]:
    """Return the annotations that say `attrs` on the Node whose facts these are, by the rest of their name.

    An administrator's public-ip-overwrite and public-ipv6-overwrite take the place of our addresses, for the peers alone.

    Raises:
        BadInput: such an overwrite is no address.
    """
    texts = {"kube-subnet-manager": "true"}
    vxlan = attrs.backend_type == type_vxlan
    if attrs.public_ip is not None and (attrs.backend_data is not None or not vxlan):
        texts |= {
            "backend-type": attrs.backend_type,
            "backend-data": _data_text(attrs.backend_data),
            "public-ip": str(_overwritten(facts, "public-ip-overwrite", gotext.ipv4) or attrs.public_ip),
        }
    if attrs.public_ipv6 is not None and (attrs.backend_v6_data is not None or not vxlan):
        texts |= {
            "backend-type": attrs.backend_type,
            "backend-v6-data": _data_text(attrs.backend_v6_data),
            "public-ipv6": str(_overwritten(facts, "public-ipv6-overwrite", gotext.ipv6) or attrs.public_ipv6),
        }
    return texts


def published(texts: Mapping[str, str]) -> dict[str, Any]:
    """Return the addresses that such annotations tell peers, as members of `LeaseAttrs`."""
    reads = {"public_ip": ("public-ip", gotext.ipv4), "public_ipv6": ("public-ipv6", gotext.ipv6)}
    return {member: read(texts[item]) for member, (item, read) in reads.items() if item in texts}


def own_addresses(facts: Facts) -> tuple[IPv4Address | None, IPv6Address | None]:
    """Return the addresses that an administrator wants in place of --public-ip and --public-ipv6.

    Raises:
        BadInput: node-public-ip or node-public-ipv6 is no address.
    """
    return _overwritten(facts, "node-public-ip", gotext.ipv4), _overwritten(facts, "node-public-ipv6", gotext.ipv6)


def _overwritten(facts: Facts, item: str, read: Callable[[str], Address]) -> Address | None:
    text = facts.annotations.get(item)
    if not text:
        return None
    try:
        return read(text)
    except BadInput as error:
        raise BadInput(f"our Node's annotation {item}: {error}") from None


def _read_data(text: str) -> Any:
    if len(text) > longest_data:
        raise BadInput(f"it has {len(text)} characters; allowed are up to {longest_data}")
    return gotext.read_value(text) if text else None


def _data_text(data: Any) -> str:
    return msgspec.json.encode(data).decode()
