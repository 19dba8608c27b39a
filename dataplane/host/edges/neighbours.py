"""Tells the machines on the link which MAC has our addresses: a gratuitous ARP, and an unsolicited Neighbor Advertisement.

They remember who had an address before, and send there for up to a minute.
Source: RFC 5227 section 2.3, RFC 826; RFC 4861 sections 4.4 and 7.2.6; packet(7).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv6Address

from dataplane.errors import HostError, host_error
from dataplane.host.sysctl import read_sysctl
from dataplane.model import IPAddress

_eth_p_arp, _ethernet = 0x0806, 1  # linux/if_ether.h; linux/if_arp.h ARPHRD_ETHER
_router, _override = 0x80, 0x20
_all_nodes = "ff02::1"


def tell_neighbours(interface: str, addresses: Iterable[IPAddress | None]) -> None:
    """Say it of these addresses of the interface, on all of its link; of one that is no Ethernet nothing is said.

    Raises:
        HostError: not allowed (CAP_NET_RAW is needed), or an address is not there.
    """
    try:
        with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC, 0) as link:
            link.bind((interface, 0))
            _, _, _, kind, mac = link.getsockname()
            if kind != _ethernet:
                return
            for address in addresses:
                if isinstance(address, IPv4Address):
                    link.sendto(gratuitous_arp(address, mac), (interface, _eth_p_arp, 0, _ethernet, b"\xff" * 6))
                elif address is not None:
                    _advertise(interface, address, mac)
    except OSError as error:
        raise host_error(f"cannot tell who is on the link of {interface}: {error.strerror}", error.errno) from error


def gratuitous_arp(address: IPv4Address, mac: bytes) -> bytes:
    """Return the announcement: a request of whose answer the sender is sure."""
    return struct.pack("!HHBBH6s4s6s4s", 1, 0x0800, 6, 4, 1, mac, address.packed, bytes(6), address.packed)


def advertisement(address: IPv6Address, mac: bytes, *, router: bool) -> bytes:
    """Return the message without its checksum, which the kernel makes."""
    flags = _override | (_router if router else 0)
    return struct.pack("!BBHB3x16sBB6s", 136, 0, 0, flags, address.packed, 2, 1, mac)


def _advertise(interface: str, address: IPv6Address, mac: bytes) -> None:
    index = socket.if_nametoindex(interface)
    try:
        # A host that says it is none takes us from who had us for a router.
        router = read_sysctl(f"net/ipv6/conf/{interface}/forwarding") != "0"
    except HostError:
        router = False
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6) as sock:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF, index)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS, 255)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        sock.bind((str(address), 0, 0, index))
        sock.sendto(advertisement(address, mac, router=router), (_all_nodes, 0, 0, index))
