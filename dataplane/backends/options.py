"""The options of a configuration's Backend object: each read and checked, or refused by its name."""

from __future__ import annotations

from typing import Literal

from dataplane.errors import BadConfig
from dataplane.model import NetConf

ipv4_minimum_mtu = 68  # RFC 791
ipv6_minimum_mtu = 1280  # RFC 8200 section 5; Linux takes IPv6 off a link below it
largest_mtu = 65535
largest_port = 65535


def read_integer(conf: NetConf, field: str, default: int, lowest: int, highest: int) -> int:
    """Return an integer option of the Backend object; raises `BadConfig`. `field` is spelt as in flannel's docs."""
    value = conf.backend_options.get(field.lower())
    if value is None:
        return default
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise BadConfig(f"Backend.{field}: {value!r}; allowed: an integer from {lowest} to {highest}")
    return value


def read_boolean(conf: NetConf, field: str) -> bool:
    """Return a boolean option of the Backend object, false by default; raises `BadConfig`."""
    value = conf.backend_options.get(field.lower())
    if value is None:
        return False
    if not isinstance(value, bool):
        raise BadConfig(f"Backend.{field}: {value!r}; allowed: true or false")
    return value


def check_mtu(what: str, mtu: int, carries_ipv6: bool) -> int:
    """Return `mtu` if it can carry the inner families; raises `BadConfig`."""
    least = ipv6_minimum_mtu if carries_ipv6 else ipv4_minimum_mtu
    if mtu < least:
        raise BadConfig(f"{what} would have an MTU of {mtu} bytes; at least {least} are needed: enlarge the underlay's")
    return mtu


def enabled_versions(conf: NetConf) -> tuple[Literal[4, 6], ...]:
    """The enabled IP versions; raises `BadConfig` where there is none."""
    if conf.enable_ipv4:
        return (4, 6) if conf.enable_ipv6 else (4,)
    if conf.enable_ipv6:
        return (6,)
    raise BadConfig("EnableIPv4 and EnableIPv6 are both false; allowed: at least one true")
