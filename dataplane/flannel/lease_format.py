"""How a lease is written down: the key that names its subnets and the JSON value with the node's attributes.

Bytes are those of flanneld, in etcd and in the embedded store alike. What must stay true: formatting is exactly
what Go writes (no spaces, this order of members), and any text either gives a value or raises `BadLease`.

Source: flannel pkg/subnet/subnet.go (keys), pkg/lease/lease.go (values); flannel.md sections 2.1 and 2.2.
"""

from __future__ import annotations

import re
from ipaddress import IPv4Network, IPv6Network
from typing import Any

import msgspec

from dataplane.errors import BadInput, BadLease
from dataplane.flannel import gotext
from dataplane.model import LeaseAttrs

_key_form = re.compile(
    r"(?P<ipv4>[0-9]+\.[0-9]+\.[0-9]+\.[0-9]+)-(?P<len4>[0-9]{1,3})"
    r"(?:&(?P<ipv6>[a-f0-9:]+)-(?P<len6>[0-9]{1,3}))?"
)
_key_allowed = 'allowed is "10.1.2.0-24" or "10.1.2.0-24&fd00:1::-64"'
_value_allowed = 'allowed is an object such as {"PublicIP":"192.0.2.1","PublicIPv6":null}'
# Go's json.Marshal escapes these inside strings, the only place of a JSON text where they can stand.
_go_escapes = {ord(sign): f"\\u{ord(sign):04x}" for sign in "<>&\u2028\u2029"}


def format_key(subnet: IPv4Network, ipv6_subnet: IPv6Network | None = None) -> str:
    """Return the key, e.g. "10.1.2.0-24" or "10.1.2.0-24&fd00:1::-64"; flannel has no form without IPv4."""
    key = f"{subnet.network_address}-{subnet.prefixlen}"
    if ipv6_subnet is None:
        return key
    return f"{key}&{ipv6_subnet.network_address}-{ipv6_subnet.prefixlen}"


def parse_key(text: str) -> tuple[IPv4Network, IPv6Network | None]:
    """Return the subnets that a key names; whatever stands before its last "/" is the store's own prefix.

    Raises:
        BadLease: not a key, a prefix length beyond 31 or 127, or host bits set (such a key would name a subnet
            that has another key).
    """
    match = _key_form.fullmatch(text.rpartition("/")[2])
    if match is None:
        raise BadLease(text, f"not the name of a subnet; {_key_allowed}")
    if int(match["len4"]) > 31 or int(match["len6"] or 0) > 127:
        raise BadLease(text, "prefix length too long; allowed is up to 31 for IPv4 and up to 127 for IPv6")
    try:
        subnet = IPv4Network((match["ipv4"], int(match["len4"])))
        if match["ipv6"] is None:
            return subnet, None
        return subnet, IPv6Network((match["ipv6"], int(match["len6"])))
    except ValueError as error:
        raise BadLease(text, f"{error}; {_key_allowed}") from None


def encode_value(attrs: LeaseAttrs) -> bytes:
    """Return the JSON value as flanneld writes it; a missing IPv4 address is written as 0.0.0.0."""
    members: dict[str, Any] = {
        "PublicIP": str(attrs.public_ip) if attrs.public_ip is not None else "0.0.0.0",
        "PublicIPv6": str(attrs.public_ipv6) if attrs.public_ipv6 is not None else None,
    }
    for name, value in (
        ("BackendType", attrs.backend_type or None),
        ("BackendData", attrs.backend_data),
        ("BackendV6Data", attrs.backend_v6_data),
    ):
        if value is not None:
            members[name] = value
    return msgspec.json.encode(members).decode().translate(_go_escapes).encode()


def decode_value(key: str, value: str | bytes) -> LeaseAttrs:
    """Return the attributes in a stored JSON value; the backend's data stay as found, to be judged by a backend.

    A missing PublicIP, and 0.0.0.0, is None.

    Args:
        key: the lease's key, for the error.
    Raises:
        BadLease: not JSON, or a member of the wrong form.
    """
    try:
        members = gotext.read_object(value)
    except BadInput as error:
        raise BadLease(key, f"value is {error}; {_value_allowed}") from None
    public_ip = public_ipv6 = None
    member = "PublicIP"
    try:
        if "publicip" in members:
            address = gotext.ipv4(members["publicip"])
            public_ip = None if address.is_unspecified else address
        member = "PublicIPv6"
        if members.get("publicipv6") is not None:
            public_ipv6 = gotext.ipv6(members["publicipv6"])
    except BadInput as error:
        raise BadLease(key, f"{member}: {error}") from None
    backend_type = members.get("backendtype") or ""
    if not isinstance(backend_type, str):
        raise BadLease(key, f'BackendType: {gotext.show(backend_type)} is not a string such as "vxlan"')
    return LeaseAttrs(public_ip, public_ipv6, backend_type, members.get("backenddata"), members.get("backendv6data"))
