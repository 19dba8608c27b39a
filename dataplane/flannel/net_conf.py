"""The cluster's network configuration: net-conf.json text to a checked, complete `NetConf`.

Reading (`parse`) and checking (`validate`) are apart because flannel's Kubernetes mode reads without checking.
What must stay true: a configuration that flannel accepts means the same here, defaults included, and one that
cannot work is refused with the name of the field, its value and what would be allowed.

Source: flannel pkg/subnet/config.go. A backend's own options (VNI, Port, ...) are checked by that backend.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network
from typing import Annotated, Any

import msgspec

from dataplane.errors import BadConfig, BadInput
from dataplane.flannel import gotext
from dataplane.model import IPAddress, IPNetwork, NetConf, type_udp

_no_family = "none defined stack: EnableIPv4 and EnableIPv6 are both false, at least one must be true"


_never_pods: tuple[tuple[IPNetwork, str], ...] = tuple(
    (ip_network(text), what)
    for text, what in (
        ("0.0.0.0/8", "the unspecified"),
        ("127.0.0.0/8", "loopback"),
        ("169.254.0.0/16", "link-local"),
        ("224.0.0.0/4", "multicast"),
        ("::/96", "unspecified and loopback"),
        ("::ffff:0:0/96", "IPv4-mapped"),
        ("fe80::/10", "link-local"),
        ("ff00::/8", "multicast"),
    )
)


def parse(text: str | bytes) -> NetConf:
    """Decode a network configuration without judging it; host bits of the networks are cleared.

    Source: flannel ParseConfig and Go's encoding/json: names in any case, unknown names ignored, the last of
    several counts, strict types, null leaves a number or boolean at its default.

    Raises:
        BadConfig: not a JSON object, a member of the wrong type, or no backend type.
    """
    try:
        members = gotext.read_object(text)
    except BadInput as error:
        raise BadConfig(f"network configuration: {error}") from error
    values: dict[str, Any] = {}
    for name, attribute, read in _fields:
        member = name.lower()
        if member not in members:
            continue
        try:
            values[attribute] = read(members[member])
        except BadInput as error:
            raise BadConfig(f"{name}: {error}") from error
    known = {attribute: value for attribute, value in values.items() if value is not None}
    backend_type, backend_options = _read_backend(members)
    return NetConf(**known, backend_type=backend_type, backend_options=backend_options)


def validate(conf: NetConf) -> NetConf:
    """Return the configuration with every default filled in.

    Source: flannel CheckNetworkConfig; on top of it SubnetMin must not lie above SubnetMax (flannel finds out
    at allocation, as "out of subnets"), and a network must be one that pods can have addresses of.

    Raises:
        BadConfig: in flannel's words, with the value and what would be allowed.
    """
    if not (conf.enable_ipv4 or conf.enable_ipv6):
        raise BadConfig(_no_family)
    if conf.enable_ipv4:
        conf = _complete_ipv4(conf)
    if conf.enable_ipv6:
        conf = _complete_ipv6(conf)
    return conf


def networks_only(conf: NetConf) -> NetConf:
    """Return the configuration as it is if it names a network for each enabled family.

    Where subnets come from somewhere else (Kubernetes), nothing of SubnetLen, SubnetMin and SubnetMax counts, and
    flannel looks at none of them.

    Raises:
        BadConfig: a network is missing, or no family is enabled.
    """
    if not (conf.enable_ipv4 or conf.enable_ipv6):
        raise BadConfig(_no_family)
    for field, enabled, network in (
        ("Network", conf.enable_ipv4, conf.network),
        ("IPv6Network", conf.enable_ipv6, conf.ipv6_network),
    ):
        if enabled and network is None:
            raise BadConfig(f"{field}: please define a correct {field} parameter in the flannel config (found none)")
        if network is not None and enabled:
            _refuse_unusable(field, network)
    return replace(
        conf,
        subnet_len=0,
        subnet_min=None,
        subnet_max=None,
        ipv6_subnet_len=0,
        ipv6_subnet_min=None,
        ipv6_subnet_max=None,
    )


def _complete_ipv4(conf: NetConf) -> NetConf:
    network = conf.network
    if network is None or network == IPv4Network("0.0.0.0/0"):
        raise BadConfig(
            "Network: please define a correct Network parameter in the flannel config, "
            f'such as "10.244.0.0/16" (found {network or "none"})'
        )
    _refuse_unusable("Network", network)
    length = _subnet_len("", network, conf.subnet_len, largest=30, default=24)
    lowest, highest = _subnet_range("", network, length, conf.subnet_min, conf.subnet_max)
    return replace(conf, subnet_len=length, subnet_min=IPv4Address(lowest), subnet_max=IPv4Address(highest))


def _complete_ipv6(conf: NetConf) -> NetConf:
    network = conf.ipv6_network
    if network is None or network == IPv6Network("::/0"):
        raise BadConfig(
            "IPv6Network: please define a correct IPv6Network parameter in the flannel config, "
            f'such as "fd00:244::/48" (found {network or "none"})'
        )
    _refuse_unusable("IPv6Network", network)
    length = _subnet_len("IPv6", network, conf.ipv6_subnet_len, largest=126, default=64)
    lowest, highest = _subnet_range("IPv6", network, length, conf.ipv6_subnet_min, conf.ipv6_subnet_max)
    return replace(
        conf, ipv6_subnet_len=length, ipv6_subnet_min=IPv6Address(lowest), ipv6_subnet_max=IPv6Address(highest)
    )


def _refuse_unusable(field: str, network: IPNetwork) -> None:
    """Raise `BadConfig` for a network some of whose addresses no pod can have.

    Source: the IANA special-purpose address registries (RFC 6890); 240.0.0.0/4 is let through, since clusters use it.
    """
    for special, what in _never_pods:
        if special.version == network.version and special.overlaps(network) and network.prefixlen:
            raise BadConfig(
                f"{field}: {network} overlaps {special}, {what} addresses, which no pod can have; "
                'allowed are unicast networks such as "10.244.0.0/16" and "fd00:244::/48"'
            )


def _subnet_len(family: str, network: IPNetwork, length: int, *, largest: int, default: int) -> int:
    prefix = network.prefixlen
    if length > 0:
        allowed = f"{family}SubnetLen is {length}, allowed with {network} is {prefix + 2} to {largest}"
        if length > largest:
            raise BadConfig(f"SubnetLen must be less than /{largest + 1}: {allowed}")
        if length < prefix + 2:
            raise BadConfig(f"network must be able to accommodate at least four subnets: {allowed}")
        return length
    if prefix > largest - 2:
        raise BadConfig(
            f"{family}{'Network' if family else 'network'} is too small. Minimum useful network prefix is "
            f"/{largest - 2}: {family}Network is {network}"
        )
    return default if prefix <= default - 2 else prefix + 2


def _subnet_range(
    family: str, network: IPNetwork, length: int, lowest: IPAddress | None, highest: IPAddress | None
) -> tuple[int, int]:
    size = 1 << (network.max_prefixlen - length)
    first = int(network.network_address)
    # The first subnet is skipped by default: its base equals the network's own address.
    bounds = {"Min": first + size, "Max": first + network.num_addresses - size}
    for end, given in (("Min", lowest), ("Max", highest)):
        if given is None or int(given) == 0:
            continue
        name = f"{family}Subnet{end}"
        if given not in network:
            raise BadConfig(f"{name} is not in the range of the {family}Network: {given} is not in {network}")
        if int(given) % size:
            raise BadConfig(f"{name} is not on a SubnetLen boundary: {given} is not the base of a /{length}")
        bounds[end] = int(given)
    if bounds["Min"] > bounds["Max"]:
        shown = [str(type(network.network_address)(bounds[end])) for end in ("Min", "Max")]
        raise BadConfig(f"{family}SubnetMin {shown[0]} lies above {family}SubnetMax {shown[1]}, allowed is up to it")
    return bounds["Min"], bounds["Max"]


def _read_backend(members: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    if "backend" not in members:
        return type_udp, {}
    backend = members["backend"]
    if not isinstance(backend, dict | None):
        raise BadConfig(f'Backend: {gotext.show(backend)} is not an object such as {{"Type": "vxlan"}}')
    options = gotext.fold_names(backend or {})
    backend_type = options.pop("type", None) or ""
    if not isinstance(backend_type, str):
        raise BadConfig(f'Backend.Type: {gotext.show(backend_type)} is not a string such as "vxlan"')
    if not backend_type:
        raise BadConfig('Backend.Type: unknown backend type: "" (name one, such as "vxlan", or leave Backend out)')
    return backend_type.lower(), options


def _boolean(value: Any) -> bool | None:
    try:
        return msgspec.convert(value, bool | None)
    except msgspec.ValidationError:
        raise BadInput(f"{gotext.show(value)} is not true or false") from None


_Unsigned = Annotated[int, msgspec.Meta(ge=0, le=0xFFFFFFFF)]


def _whole_number(value: Any) -> int | None:
    try:
        return msgspec.convert(value, _Unsigned | None)
    except msgspec.ValidationError:
        raise BadInput(f"{gotext.show(value)} is not a whole number of 0 or more") from None


_fields: tuple[tuple[str, str, Callable[[Any], Any]], ...] = (
    ("EnableIPv4", "enable_ipv4", _boolean),
    ("EnableIPv6", "enable_ipv6", _boolean),
    ("EnableNFTables", "enable_nftables", _boolean),
    ("Network", "network", gotext.ipv4_network),
    ("IPv6Network", "ipv6_network", gotext.ipv6_network),
    ("SubnetMin", "subnet_min", gotext.ipv4),
    ("SubnetMax", "subnet_max", gotext.ipv4),
    ("IPv6SubnetMin", "ipv6_subnet_min", gotext.ipv6),
    ("IPv6SubnetMax", "ipv6_subnet_max", gotext.ipv6),
    ("SubnetLen", "subnet_len", _whole_number),
    ("IPv6SubnetLen", "ipv6_subnet_len", _whole_number),
)
