"""subnet.env: what the CNI plugin and Docker read of our lease, and what we remember of an earlier life.

What must stay true: reading never fails over content; a line that cannot be used counts as not there. The CNI plugin
reads by other rules (`flannel.cni.subnetfile`), as flannel's plugin does.

Source: flannel pkg/subnet/subnet.go (WriteSubnetFile, ReadCIDRFromSubnetFile); flannel.md section 7.3.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network
from typing import TypeVar

from dataplane.errors import BadInput
from dataplane.flannel import gotext

Network = TypeVar("Network", IPv4Network, IPv6Network)


@dataclass(frozen=True, slots=True)
class SubnetEnv:
    """The file's content. `subnet` and `ipv6_subnet` are the leased networks; the file names their first host.

    Attributes:
        network, ipv6_network: whole overlay, None where the family is off.
        mtu: bytes; 0 when a file read does not say.
        ip_masq: whether the daemon masquerades (so that the CNI plugin must not).
    """

    network: IPv4Network | None = None
    subnet: IPv4Network | None = None
    ipv6_network: IPv6Network | None = None
    ipv6_subnet: IPv6Network | None = None
    mtu: int = 0
    ip_masq: bool = False


def text_of(env: SubnetEnv) -> str:
    """Return the file's text."""
    lines = []
    for family, network, subnet in (("", env.network, env.subnet), ("IPV6_", env.ipv6_network, env.ipv6_subnet)):
        if network is not None and subnet is not None:
            lines.append(f"FLANNEL_{family}NETWORK={network}")
            lines.append(f"FLANNEL_{family}SUBNET={subnet.network_address + 1}/{subnet.prefixlen}")
    lines.append(f"FLANNEL_MTU={env.mtu}")
    lines.append(f"FLANNEL_IPMASQ={'true' if env.ip_masq else 'false'}")
    return "".join(line + "\n" for line in lines)


def parse(text: str) -> SubnetEnv:
    """Return what the file's text says; what cannot be used in it counts as not said."""
    values = _variables(text)
    mtu = values.get("FLANNEL_MTU", "")
    return SubnetEnv(
        network=_only(values.get("FLANNEL_NETWORK", ""), gotext.ipv4_network),
        subnet=_only(values.get("FLANNEL_SUBNET", ""), gotext.ipv4_network),
        ipv6_network=_only(values.get("FLANNEL_IPV6_NETWORK", ""), gotext.ipv6_network),
        ipv6_subnet=_only(values.get("FLANNEL_IPV6_SUBNET", ""), gotext.ipv6_network),
        mtu=int(mtu) if mtu.isascii() and mtu.isdigit() and len(mtu) < 10 else 0,
        ip_masq=values.get("FLANNEL_IPMASQ") == "true",
    )


def _variables(text: str) -> dict[str, str]:
    """Return NAME=value lines as a dotenv reader does: comments, `export`, quotes; the last of several counts."""
    values = {}
    for line in text.splitlines():
        name, equals, value = line.strip().removeprefix("export ").partition("=")
        if not equals or name.startswith("#"):
            continue
        value = value.strip()
        if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
            value = value[1:-1]
        else:
            value = value.partition(" #")[0].rstrip()
        values[name.strip()] = value
    return values


def _only(text: str, read_network: Callable[[str], Network]) -> Network | None:
    """Return the one usable prefix of a comma list; none and several are both None, as flannel has it."""
    found = []
    for part in text.split(","):
        try:
            found.append(read_network(part.strip()))
        except BadInput:
            continue
    return found[0] if len(found) == 1 else None
