"""A TAP whose frames leave at the underlay device: the way out for super-packets that the core does not cut.

    csrc/edges/tunnel.c ── write ──▶ TAP ── BPF at its ingress, bpf_redirect_neigh ──▶ route, neighbour ──▶ underlay device

The kernel finds the next hop and its MAC for each frame, as it does for the UDP sockets' datagrams. What must stay true:
the TAP takes no packet of the host's (no address, no ARP, no IPv6), and it and its program vanish with their descriptors.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack

import pytun

from dataplane.bpf.calls import Helper, Link, redirecting, tc_ingress
from dataplane.errors import HostError
from dataplane.host.ethtool import active_features
from dataplane.host.xfrm import has_output_policies

name_template = "flannel-gso%d"
ipv6_min_mtu = 1280  # RFC 8200, section 5
# The kernel passes a super-packet on only where all of its kinds are taken (linux/netdevice.h, net_gso_ok).
_needed = frozenset({"tx-udp_tnl-csum-segmentation", "tx-tcp-segmentation", "tx-tcp6-segmentation"})


def objection(interface: str) -> str | None:
    """Why super-packets must not leave whole now, or None; raises `HostError`.

    Where the underlay device does not take them the kernel would cut them, and the core's trains (UDP_SEGMENT) are faster.
    They would go around IPsec policies, so where there are any, nothing but the sockets is used: docs/decisions/0009.
    """
    missing = _needed - active_features(interface)
    if missing:
        return f"{interface} does not take UDP tunnels uncut ({', '.join(sorted(missing))})"
    if has_output_policies():
        return "the host has IPsec policies, which they would bypass"
    return None


class TunnelTap:
    """An open TAP. `fd`, non-blocking, is for csrc/edges/tunnel.c, which probes what the kernel's TUN driver can do.

    Raises:
        HostError: no TAP can be made here, or the kernel refuses the program (it needs CAP_BPF and Linux 6.6).
    """

    def __init__(self, interface: str) -> None:
        flags = pytun.IFF_TAP | pytun.IFF_NO_PI | pytun.IFF_VNET_HDR
        with ExitStack() as undo:
            try:
                program = redirecting(Helper.redirect_neigh, socket.if_nametoindex(interface))
                tap = pytun.TunTapDevice(name=name_template, flags=flags)
                undo.callback(tap.close)
                os.set_inheritable(tap.fileno(), False)  # pytun opens without O_CLOEXEC
                os.set_blocking(tap.fileno(), False)
                undo.callback(Link(tc_ingress, program, socket.if_nametoindex(tap.name)).close)
                # Its frames go around it, and so does their size. What is smaller than IPv6 asks for has no IPv6, also
                # where /proc/sys is read-only (net/ipv6/addrconf.c, NETDEV_CHANGEMTU).
                tap.mtu = ipv6_min_mtu - 1
                tap.up()
            except OSError as error:
                raise HostError(f"cannot open a TAP: {error.strerror or error}") from error
            self.fd: int = tap.fileno()
            self._undo = undo.pop_all()

    def close(self) -> None:
        """Take it away. May be called again."""
        self._undo.close()
