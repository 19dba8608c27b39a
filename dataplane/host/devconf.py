"""The settings of a TUN that carries our ICMP errors, made by netlink.

An unprivileged container has its host's network and a read-only /proc/sys; RTM_NEWLINK with IFLA_AF_SPEC needs CAP_NET_ADMIN
alone. What must stay true: nothing outside our own device is changed here.
Source: net/ipv4/devinet.c (inet_set_link_af), net/ipv6/addrconf.c (inet6_set_link_af), include/uapi/linux/ip.h and if_link.h.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Mapping

from dataplane.errors import HostError
from dataplane.host.sysctl import read_sysctl

_rtm_newlink, _nlmsg_error = 16, 2
_nlm_f_request, _nlm_f_ack = 1, 4
_nla_f_nested = 0x8000
_ifla_af_spec, _ifla_inet_conf, _ifla_inet6_addr_gen_mode = 26, 1, 8
_send_redirects, _rp_filter, _accept_local = 6, 8, 23  # IPV4_DEVCONF_…
_addr_gen_none = 1


def prepare_tun(name: str) -> list[str]:
    """Set what a TUN that carries our ICMP errors needs, before the link goes up.

    - accept_local: the ICMP errors that the core makes have our own tunnel address as their source;
    - rp_filter: off. The kernel uses the larger of the device's and conf/all, so where all is 1 (strict) the
      device gets 2 (loose), the only value that wins over it;
    - send_redirects off: there is no neighbour on this link to speak of;
    - no IPv6 link-local address, which would only send multicast into the overlay. Router advertisements are
      dropped by the core.

    Returns:
        What could not be set and why (no IPv6), one sentence each. None of it is fatal.
    """
    warnings: list[str] = []
    ipv4 = {_accept_local: 1, _rp_filter: _rp_filter_value(), _send_redirects: 0}
    for what, family, content in (
        ("accept_local, rp_filter and send_redirects", socket.AF_INET, _ipv4(ipv4)),
        ("the way of IPv6 addresses", socket.AF_INET6, _attribute(_ifla_inet6_addr_gen_mode, bytes([_addr_gen_none]))),
    ):
        try:
            _set(socket.if_nametoindex(name), family, content)
        except OSError as error:
            warnings.append(f"cannot set {what} of {name}: {error.strerror}")
    return warnings


def _rp_filter_value() -> int:
    try:
        return 2 if read_sysctl("net/ipv4/conf/all/rp_filter") == "1" else 0
    except HostError:
        return 0


def _ipv4(settings: Mapping[int, int]) -> bytes:
    values = b"".join(_attribute(number, struct.pack("=I", value)) for number, value in settings.items())
    return _attribute(_ifla_inet_conf | _nla_f_nested, values)


def _attribute(kind: int, content: bytes) -> bytes:
    length = 4 + len(content)
    return struct.pack("=HH", length, kind) + content + bytes(-length % 4)


def _set(index: int, family: int, content: bytes) -> None:
    """Change the link's settings of one family; raises `OSError`."""
    link = struct.pack("=BxHiII", socket.AF_UNSPEC, 0, index, 0, 0)
    spec = _attribute(_ifla_af_spec | _nla_f_nested, _attribute(family | _nla_f_nested, content))
    length = 16 + len(link) + len(spec)
    head = struct.pack("=IHHII", length, _rtm_newlink, _nlm_f_request | _nlm_f_ack, 1, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.sendto(head + link + spec, (0, 0))
        answer = netlink.recv(4096)
    (kind,) = struct.unpack_from("=H", answer, 4)
    (error,) = struct.unpack_from("=i", answer, 16)
    if kind == _nlmsg_error and error:
        raise OSError(-error, os.strerror(-error))
