"""UDP sockets of the underlay edge, bound to one address and one device.

What must stay true: nothing from another interface or for another address is ever received, a port that somebody
else uses is refused and never shared, and source sockets never hold received data.
"""

from __future__ import annotations

import array
import errno
import logging
import socket
import struct
from collections.abc import Callable

from dataplane.errors import host_error
from dataplane.host.edges.steering import Wire, steer_receive
from dataplane.model import IPAddress

log = logging.getLogger(__name__)

receive_buffer_bytes = 2 << 20  # each; a flood fills its own
# A limit, not memory. What waits for a neighbour that does not answer stays charged to the socket: up to
# net.ipv4.neigh.*.unres_qlen_bytes (212,992) each, for at most gc_thresh3 (1,024) neighbours. With room for all of them
# (the kernel doubles what is asked, socket(7)) no number of dead peers takes the buffer from the living ones.
send_buffer_bytes = 128 << 20
_ip_mtu_discover = 10  # linux/in.h IP_MTU_DISCOVER; the socket module has no name for it before 3.13
_ip_pmtudisc_dont = 0
_ipv6_mtu_discover = 23  # linux/in6.h
_so_sndbufforce = 32  # asm-generic/socket.h
_so_rcvbufforce = 33
_so_attach_filter = 26
_bpf_ret_k = 0x06  # linux/bpf_common.h BPF_RET | BPF_K


def open_receive(
    address: IPAddress, port: int, interface: str, workers: int, queues: int = 1, wire: Wire = "vxlan"
) -> list[socket.socket]:
    """Open `queues` non-blocking UDP sockets for each worker on address:port; the i-th is that of worker i modulo `workers`.

    A datagram waits in a socket with those of its outer and inner source alone, as far as there are sockets; whose worker
    it is depends on its flow.

    They see datagrams that come in through `interface` only. Path MTU discovery is left as Linux has it (the udp
    backend sends from these), and a UDP checksum is required over IPv6.

    Raises:
        HostError: the address is not ours, the device is unknown, or another process has the port.
    """

    def prepare(sock: socket.socket) -> None:
        _grow(sock, _so_rcvbufforce, socket.SO_RCVBUF, receive_buffer_bytes, "receive")
        _grow(sock, _so_sndbufforce, socket.SO_SNDBUF, send_buffer_bytes, "send")
        if address.version == 4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)

    def share(sock: socket.socket) -> None:
        prepare(sock)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)

    opened: list[socket.socket] = []
    try:
        # The first one binds without SO_REUSEPORT, which fails if anybody has the port, and allows sharing only
        # afterwards: the next daemon's first one then fails in the same way, without a moment in between.
        opened.append(_open(address, port, interface, prepare))
        if workers * queues > 1:
            opened[0].setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        for _ in range(workers * queues - 1):
            opened.append(_open(address, port, interface, share))
        if workers * queues > 1:
            steer_receive(opened[0], wire, address.version, workers, queues)
    except OSError as error:
        close_all(opened)
        raise host_error(_explain(address, port, interface, error), error.errno) from error
    except BaseException:
        close_all(opened)
        raise
    return opened


def open_sources(address: IPAddress, interface: str, count: int) -> list[socket.socket]:
    """Open `count` UDP sockets to send VXLAN from, each on its own port out of net.ipv4.ip_local_port_range.

    As with the kernel's vxlan, DF is clear (RFC 7348 section 4.3 leaves it open; flannel.md 5.3), and what is sent
    to these ports is thrown away before it is queued.

    Raises:
        HostError: the address is not ours, or the device is unknown.
    """

    def prepare(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 0)  # the kernel raises it to its least
        _drop_all_received(sock)
        _grow(sock, _so_sndbufforce, socket.SO_SNDBUF, send_buffer_bytes, "send")
        if address.version == 4:
            sock.setsockopt(socket.IPPROTO_IP, _ip_mtu_discover, _ip_pmtudisc_dont)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, _ipv6_mtu_discover, _ip_pmtudisc_dont)

    opened: list[socket.socket] = []
    try:
        for _ in range(count):
            opened.append(_open(address, 0, interface, prepare))
    except BaseException:
        close_all(opened)
        raise
    return opened


def close_all(sockets: list[socket.socket]) -> None:
    """Close every socket of the list."""
    for sock in sockets:
        sock.close()


def _open(address: IPAddress, port: int, interface: str, prepare: Callable[[socket.socket], None]) -> socket.socket:
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    except OSError as error:
        raise host_error(_explain(address, port, interface, error), error.errno) from error
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, interface.encode())
        prepare(sock)
        if address.version == 4:
            sock.bind((str(address), port))
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            scope = socket.if_nametoindex(interface) if address.is_link_local else 0
            sock.bind((str(address), port, 0, scope))
    except OSError as error:
        sock.close()
        raise host_error(_explain(address, port, interface, error), error.errno) from error
    return sock


def _grow(sock: socket.socket, force: int, plain: int, wanted: int, what: str) -> None:
    """Ask for `wanted` bytes, past net.core.?mem_max where we may."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, wanted)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, plain, wanted)
        got = sock.getsockopt(socket.SOL_SOCKET, plain) // 2  # the kernel reports twice what it grants (socket(7))
        if got < wanted:
            log.info("the %s buffer of a UDP socket is %d bytes instead of %d (net.core limits)", what, got, wanted)


def _drop_all_received(sock: socket.socket) -> None:
    """Attach the one-instruction classic BPF program `return 0` (linux/filter.h struct sock_fprog)."""
    program = array.array("B", struct.pack("=HBBI", _bpf_ret_k, 0, 0, 0))
    sock.setsockopt(socket.SOL_SOCKET, _so_attach_filter, struct.pack("HP", 1, program.buffer_info()[0]))


def _explain(address: IPAddress, port: int, interface: str, error: OSError) -> str:
    text = f"cannot bind UDP {address} port {port} on {interface}: {error.strerror or error}"
    if error.errno == errno.EADDRINUSE:
        return f"{text}; another daemon or a kernel vxlan device has this port"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{text}; {interface} does not have this address"
    if error.errno == errno.ENODEV:
        return f"{text}; there is no such interface"
    if error.errno == errno.EPERM:
        return f"{text}; binding to a device needs CAP_NET_RAW"
    return text
