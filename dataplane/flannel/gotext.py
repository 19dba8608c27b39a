"""Go's reading rules for the texts that flannel writes and reads: JSON objects, addresses, prefixes.

net-conf.json, lease values and annotations were defined by what Go's encoding/json and net packages accept.
What must stay true: member names match in any case and of several the last one counts; any text either gives
a value or raises `BadInput`, nothing else.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeVar

from dataplane.errors import BadInput

Address = TypeVar("Address", IPv4Address, IPv6Address)


def read_object(text: str | bytes) -> dict[str, Any]:
    """Decode a JSON object; the outermost member names come back in lower case.

    Raises:
        BadInput: not JSON (with line and column), or JSON but not an object.
    """
    value = read_value(text)
    if not isinstance(value, dict):
        raise BadInput(f"not a JSON object but {show(value)}")
    return fold_names(value)


def read_value(text: str | bytes) -> Any:
    """Decode any JSON text.

    Source: Go encoding/json (the last of several members of one name counts, invalid UTF-8 is replaced).

    Raises:
        BadInput: not JSON, with line and column.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "replace")
    try:
        return json.loads(text, object_pairs_hook=_last_wins, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise BadInput(f"not JSON: {error.msg} at line {error.lineno} column {error.colno}") from None
    except RecursionError:
        raise BadInput("not usable JSON: nested too deeply") from None
    except ValueError as error:
        raise BadInput(f"not JSON: {error}") from None


def fold_names(members: dict[str, Any]) -> dict[str, Any]:
    """Return the members with their names in lower case; of names that become equal the last one counts."""
    return {name.lower(): value for name, value in members.items()}


def show(value: Any) -> str:
    """Return a decoded JSON value as short printable text for an error message."""
    try:
        text = json.dumps(value)
    except RecursionError:
        return "a value nested too deeply to show"
    return text if len(text) <= 80 else text[:77] + "..."


def ipv4(value: Any) -> IPv4Address:
    """Return the IPv4 address in a decoded JSON string; the IPv6 form ::ffff:1.2.3.4 is one too (Go net.ParseIP).

    Raises:
        BadInput: anything else, null and "" included.
    """
    if isinstance(value, str):
        address = _try(IPv4Address, value)
        if address is None and "%" not in value and (mapped := _try(IPv6Address, value)) is not None:
            address = mapped.ipv4_mapped
        if address is not None:
            return address
    raise BadInput(f'{show(value)} is not an IPv4 address such as "10.1.2.0"')


def ipv6(value: Any) -> IPv6Address:
    """Return the IPv6 address in a decoded JSON string; without a zone, and not an IPv4 address in disguise.

    Raises:
        BadInput: anything else, null and "" included.
    """
    if isinstance(value, str) and "%" not in value:
        address = _try(IPv6Address, value)
        if address is not None and address.ipv4_mapped is None:
            return address
    raise BadInput(f'{show(value)} is not an IPv6 address such as "fd00:1::"')


def ipv4_network(value: Any) -> IPv4Network:
    """Return the IPv4 prefix in a decoded JSON string, host bits cleared (Go net.ParseCIDR).

    Raises:
        BadInput: anything else; a bare address or a dotted mask is no prefix.
    """
    parts = _split_prefix(value, IPv4Address)
    if parts is None:
        raise BadInput(f'{show(value)} is not an IPv4 prefix such as "10.244.0.0/16"')
    return IPv4Network(parts, strict=False)


def ipv6_network(value: Any) -> IPv6Network:
    """Return the IPv6 prefix in a decoded JSON string, host bits cleared (Go net.ParseCIDR).

    Raises:
        BadInput: anything else; an IPv4 prefix too (flannel lets that one through and fails later).
    """
    parts = _split_prefix(value, IPv6Address)
    if parts is None:
        raise BadInput(f'{show(value)} is not an IPv6 prefix such as "fd00:244::/48"')
    return IPv6Network(parts, strict=False)


def _split_prefix(value: Any, kind: Callable[[str], Address]) -> tuple[Address, int] | None:
    if not isinstance(value, str) or "%" in value:
        return None
    text, slash, digits = value.partition("/")
    address = _try(kind, text)
    # At most four digits: Go takes leading zeros, and a longer number cannot be a prefix length.
    if address is None or not slash or not (digits.isascii() and digits.isdigit()) or len(digits) > 4:
        return None
    length = int(digits)
    return (address, length) if length <= address.max_prefixlen else None


def _try(kind: Callable[[str], Address], text: str) -> Address | None:
    # ipaddress also understands "10.0.0.0/8" handed to an address only as an error, so ValueError covers all.
    try:
        return kind(text)
    except ValueError:
        return None


def _last_wins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        members.pop(name, None)  # so that order is by last occurrence, which fold_names relies on
        members[name] = value
    return members


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")
