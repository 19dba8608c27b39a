"""subnet.env as the CNI plugin reads it: the node's subnets, the overlay's networks, the pods' MTU.

What must stay true: what flannel's plugin accepts of a daemon's file is accepted, and a file that does not say all that is
needed is refused by the names that are missing.

Source: flannel-io/cni-plugin flannel.go (loadFlannelSubnetEnv); flannel.md section 9.
"""

from __future__ import annotations

import _socket

from dataplane.flannel.cni import failures
from dataplane.flannel.cni.failures import Failure

default_path = "/run/flannel/subnet.env"
look_at = (
    "flannel's daemon (flanneld, dataplane) on this node writes it as soon as it has a subnet. Look at the daemon's log: "
    "`kubectl -n flannel-dataplane logs ds/flannel-dataplane` for the pod on this node, or `journalctl -u dataplane`"
)


class SubnetFile:
    """What the file says.

    Attributes:
        networks: the overlay's, IPv4 first, as prefixes.
        subnets: this node's, at most one a family, IPv4 first, as prefixes without host bits.
        mtu: bytes.
        ip_masq: whether the daemon masquerades, so that the delegate must not.
    """

    def __init__(self, networks: list[str], subnets: list[str], mtu: int, ip_masq: bool) -> None:
        self.networks = networks
        self.subnets = subnets
        self.mtu = mtu
        self.ip_masq = ip_masq


def parse(text: str, path: str) -> SubnetFile:
    """Return what the text of the file at `path` says; raises `Failure`."""
    values = dict(line.rstrip().partition("=")[::2] for line in text.splitlines() if "=" in line)
    missing: list[str] = []
    for names in (
        ("FLANNEL_NETWORK", "FLANNEL_IPV6_NETWORK"),
        ("FLANNEL_SUBNET", "FLANNEL_IPV6_SUBNET"),
        ("FLANNEL_MTU",),
        ("FLANNEL_IPMASQ",),
    ):
        if not any(name in values for name in names):
            missing += names
    if missing:
        raise Failure(failures.subnet_file_unusable, f"{path} is missing {', '.join(missing)}", look_at)
    mtu = values["FLANNEL_MTU"]
    if not (mtu.isascii() and mtu.isdigit() and len(mtu) < 10):
        raise _unusable(path, "FLANNEL_MTU", mtu, "a number of bytes")
    return SubnetFile(
        _prefixes(values, path, "FLANNEL_NETWORK", _socket.AF_INET)
        + _prefixes(values, path, "FLANNEL_IPV6_NETWORK", _socket.AF_INET6),
        _prefixes(values, path, "FLANNEL_SUBNET", _socket.AF_INET, most=1)
        + _prefixes(values, path, "FLANNEL_IPV6_SUBNET", _socket.AF_INET6, most=1),
        int(mtu),
        values["FLANNEL_IPMASQ"] == "true",
    )


def _prefixes(values: dict[str, str], path: str, name: str, family: int, most: int = 1000) -> list[str]:
    if name not in values:
        return []
    parts = [part.strip() for part in values[name].split(",")]
    try:
        if len(parts) > most:
            raise ValueError
        return [prefix(part, family) for part in parts]
    except ValueError:
        several = "" if most == 1 else ", or several with commas between them"
        raise _unusable(path, name, values[name], f"address/length{several}") from None


def prefix(text: str, family: int) -> str:
    """Return address/length with the host bits cleared; raises `ValueError`."""
    address, _, length = text.partition("/")
    try:
        packed = _socket.inet_pton(family, address)
    except OSError:
        raise ValueError(text) from None
    bits = 8 * len(packed)
    if not (length.isascii() and length.isdigit() and len(length) <= 3 and int(length) <= bits):
        raise ValueError(text)
    host_bits = bits - int(length)
    number = int.from_bytes(packed, "big") >> host_bits << host_bits
    return f"{_socket.inet_ntop(family, number.to_bytes(len(packed), 'big'))}/{int(length)}"


def _unusable(path: str, name: str, value: str, allowed: str) -> Failure:
    return Failure(failures.subnet_file_unusable, f"{path}: {name}={value} is not {allowed}", look_at)
