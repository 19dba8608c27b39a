"""The underlay's sockets on the real kernel: how they are set, who else may have the port, and whose packets fill them."""

from __future__ import annotations

import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from itertools import product

import pytest

from dataplane.host.edges.sockets import close_all, open_receive, open_sources, receive_buffer_bytes, send_buffer_bytes
from dataplane.host.netlink import Host
from dataplane.host.sysctl import read_sysctl
from tests.host.kernel import ip, isolated, refusal, run_body, udp_packet, veth, vnet_hdr_bytes

loopback = IPv4Address("127.0.0.1")


@isolated
async def test_receive_sockets_are_as_the_core_needs_them(host: Host) -> None:
    veth("192.0.2.1/24", "fd00::1/64")
    for address, level, option in (
        (IPv4Address("192.0.2.1"), socket.IPPROTO_IP, socket.IP_RECVTOS),
        (IPv6Address("fd00::1"), socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS),
    ):
        opened = open_receive(address, 8472, "eth0", 2)
        assert len(opened) == 2
        for sock in opened:
            assert sock.getsockname()[:2] == (str(address), 8472)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16).rstrip(b"\0") == b"eth0"
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) == 2 * receive_buffer_bytes
            assert sock.getsockopt(level, option) == 1
            assert not sock.getblocking()
            assert not sock.get_inheritable()


@isolated
async def test_a_link_local_address_can_carry_the_underlay(host: Host) -> None:
    veth("fe80::1/64")
    (sock,) = open_receive(IPv6Address("fe80::1"), 8472, "eth0", 1)
    assert sock.getsockname()[3] == socket.if_nametoindex("eth0")


@isolated
async def test_a_second_daemon_on_the_port_is_refused(host: Host) -> None:
    for first, second in ((1, 1), (1, 2), (2, 1), (2, 2)):
        opened = open_receive(loopback, 8285, "lo", first)
        text = refusal(lambda count=second: open_receive(loopback, 8285, "lo", count))  # type: ignore[misc]
        assert "cannot bind UDP 127.0.0.1 port 8285 on lo" in text
        assert "another daemon or a kernel vxlan device has this port" in text
        close_all(opened)
    ip("link add flannel.9 type vxlan id 9 dev lo dstport 8472")
    ip("link set flannel.9 up")
    assert "kernel vxlan device" in refusal(lambda: open_receive(loopback, 8472, "lo", 2))


@isolated
async def test_wrong_address_or_device_is_named(host: Host) -> None:
    assert "lo does not have this address" in refusal(lambda: open_receive(IPv4Address("192.0.2.9"), 1, "lo", 1))
    assert "there is no such interface" in refusal(lambda: open_sources(loopback, "eth7", 1))


@isolated
async def test_a_flood_fills_the_socket_of_its_inner_source_alone(host: Host) -> None:
    """Whatever outer and inner ports it uses; the neighbour's packets behind it are all there."""
    for wire, workers in product(("udp", "vxlan"), (1, 2)):
        opened = open_receive(loopback, 8472, "lo", workers, 32, wire)  # type: ignore[arg-type]
        for sock in opened:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
        encap = bytes(22) if wire == "vxlan" else b""
        flooder, other = (udp_packet(f"10.5.2.{n}", "10.5.1.2", 9, b"x")[vnet_hdr_bytes:] for n in (2, 3))
        for sender in open_sources(loopback, "lo", 4):
            for _ in range(100):
                sender.sendto(encap + flooder, ("127.0.0.1", 8472))
        for _ in range(10):
            sender.sendto(encap + other, ("127.0.0.1", 8472))
        queues = [[packet[len(encap) :] for packet in drain(sock)] for sock in opened]
        filled = [queue for queue in queues if queue]
        assert [set(queue) for queue in filled] in ([{flooder}, {other}], [{other}, {flooder}])
        assert sorted(map(len, filled))[0] == 10
        assert sorted(map(len, filled))[1] < 400
        close_all(opened)


@isolated
async def test_sources_use_ephemeral_ports_without_df_and_receive_nothing(host: Host) -> None:
    low, high = map(int, read_sysctl("net/ipv4/ip_local_port_range").split())
    for address, level, option in ((loopback, socket.IPPROTO_IP, 10), (IPv6Address("::1"), socket.IPPROTO_IPV6, 23)):
        sources = open_sources(address, "lo", 8)
        ports = {sock.getsockname()[1] for sock in sources}
        assert len(ports) == 8
        assert all(low <= port <= high for port in ports)
        for sock in sources:
            assert sock.getsockopt(level, option) == 0  # IP_PMTUDISC_DONT, IPV6_PMTUDISC_DONT
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) == 2 * send_buffer_bytes
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) < 8192
            with socket.socket(sock.family, socket.SOCK_DGRAM) as stranger:
                stranger.sendto(b"x", sock.getsockname())
            with pytest.raises(BlockingIOError):
                sock.recv(16)


def drain(sock: socket.socket) -> list[bytes]:
    came: list[bytes] = []
    with suppress(BlockingIOError):
        while True:
            came.append(sock.recv(2000))
    return came


if __name__ == "__main__":
    run_body()
