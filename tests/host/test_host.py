"""The host package against the real kernel: TUN devices, sockets, netlink, sysctls, interface choice.

Each test's body runs in a process and namespaces (network, mount, PID) of its own without a way out, under uvloop as
the daemon does. The kernel takes everything away when the process ends, however it ends. Where no namespace can be
made at all the tests are skipped.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_interface, ip_network
from itertools import product

import pytest
import pytun
import uvloop
from pyroute2.netlink import nlsocket

from dataplane.errors import HostError, HostFault
from dataplane.host.devconf import prepare_tun
from dataplane.host.edges.sockets import close_all, open_receive, open_sources, receive_buffer_bytes, send_buffer_bytes
from dataplane.host.edges.tun import Tun, open_tun
from dataplane.host.interface import InterfaceChoice, choose
from dataplane.host.netlink import Host, Link, Route
from dataplane.host.sysctl import read_sysctl, write_sysctl
from dataplane.host.vxlan import ensure_device, supported
from dataplane.model import VxlanLink

Body = Callable[[Host], Awaitable[None]]

_user = [] if os.getuid() == 0 else ["--user", "--map-root-user"]
_unshare = ["unshare", *_user, "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
_bodies: dict[str, Body] = {}
_deadline_seconds = 30
_vnet_hdr_bytes = 10  # sizeof(struct virtio_net_hdr)
loopback = IPv4Address("127.0.0.1")


def isolated(body: Body) -> Callable[[], None]:
    """Make a test out of a body: run this file again, in namespaces of its own, with the body's name."""
    name = body.__name__
    _bodies[name] = body

    def test() -> None:
        if subprocess.run([*_unshare, "true"], capture_output=True, check=False).returncode != 0:
            pytest.skip("this user cannot make namespaces")
        command = [*_unshare, sys.executable, __file__, name]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert result.returncode == 0, result.stdout + result.stderr

    test.__name__, test.__doc__ = name, body.__doc__
    return test


needs_tun = pytest.mark.skipif(
    not os.access("/dev/net/tun", os.R_OK | os.W_OK), reason="this user cannot read and write /dev/net/tun"
)


async def run(body: Body) -> None:
    ip("link set lo up")
    failures: list[str] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: failures.append(repr(context)))
    host = Host()
    try:
        await body(host)
    finally:
        await host.close()
    assert failures == []


def sh(command: str, given: str = "") -> None:
    subprocess.run(command.split(), input=given, text=True, check=True)


def ip(command: str) -> None:
    sh(f"ip {command}")


def veth(*addresses: str) -> None:
    """eth0 with these addresses and a peer, eth0-peer, in the same namespace; both up."""
    ip("link add eth0 type veth peer name eth0-peer")
    for address in addresses:
        ip(f"address add {address} dev eth0" + (" nodad" if ":" in address else ""))
    ip("link set eth0-peer up")
    ip("link set eth0 up")


async def configured_tun(host: Host, queues: int = 1) -> Tun:
    tun = open_tun("flannel.1", queues)
    assert prepare_tun(tun.name) == []
    await host.set_link(tun.index, mtu=1450, up=True, txqueuelen=1000)
    await host.add_address(tun.index, ip_interface("10.5.34.0/32"))
    await host.add_route(Route(ip_network("10.5.0.0/16"), tun.index))
    return tun


def refusal(call: Callable[[], object]) -> str:
    with pytest.raises(HostError) as caught:
        call()
    return str(caught.value)


async def next_notice(notices: AsyncIterator[None]) -> None:
    await asyncio.wait_for(anext(notices), _deadline_seconds)


# TUN


@needs_tun
@isolated
async def test_tun_has_queues_and_virtio_headers(host: Host) -> None:
    tun = open_tun("flannel.1", 2)
    assert (tun.name, len(tun.fds), tun.vnet_hdr) == ("flannel.1", 2, True)
    assert not any(os.get_blocking(fd) or os.get_inheritable(fd) for fd in tun.fds)
    assert await host.link("flannel.1") == Link(tun.index, "flannel.1", 1500, False, "tun")
    tun.close()


@needs_tun
@isolated
async def test_tun_gives_bare_ip_packets_behind_a_virtio_header(host: Host) -> None:
    tun = await configured_tun(host, queues=2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"hello", ("10.5.72.9", 7))
    frames = []
    for fd in tun.fds:
        try:
            frames.append(os.read(fd, 2048))
        except BlockingIOError:
            continue
    (frame,) = frames
    packet = frame[_vnet_hdr_bytes:]
    assert packet[0] == 0x45
    assert packet[12:20] == IPv4Address("10.5.34.0").packed + IPv4Address("10.5.72.9").packed
    assert packet.endswith(b"hello")


@needs_tun
@isolated
async def test_tun_template_takes_the_first_free_name(host: Host) -> None:
    tuns = [open_tun("flannel%d", 1), open_tun("flannel%d", 3)]
    assert [tun.name for tun in tuns] == ["flannel0", "flannel1"]
    tuns[0].close()
    assert open_tun("flannel%d", 1).name == "flannel0"


@needs_tun
@isolated
async def test_closing_the_tun_takes_device_address_and_route_away(host: Host) -> None:
    tun = await configured_tun(host, queues=2)
    tun.close()
    assert await host.link("flannel.1") is None
    assert "10.5.34.0" not in {str(address.interface.ip) for address in await host.addresses()}
    assert await host.routes(tun.index) == []
    tun.close()
    assert open_tun("flannel.1", 2).name == "flannel.1"


@needs_tun
@isolated
async def test_tun_name_in_use_says_by_what(host: Host) -> None:
    held = open_tun("flannel.1", 1)
    assert "another process (or a persistent TUN) holds the name" in refusal(lambda: open_tun("flannel.1", 2))
    held.close()
    ip("link add flannel.1 type vxlan id 1 dev lo dstport 8472")
    text = refusal(lambda: open_tun("flannel.1", 1))
    assert "a kernel vxlan device of this name is left over" in text
    assert "ip link del flannel.1" in text
    veth()
    assert "a veth device has this name" in refusal(lambda: open_tun("eth0", 1))
    assert "cannot open the TUN device flannel-v6.16777215" in refusal(lambda: open_tun("flannel-v6.16777215", 1))


@isolated
async def test_tun_without_its_device_node(host: Host) -> None:
    sh("mount -t tmpfs none /dev/net")
    assert "/dev/net/tun is missing: load the tun module" in refusal(lambda: open_tun("flannel.1", 1))


@needs_tun
@isolated
async def test_tun_without_privilege(host: Host) -> None:
    script = "from dataplane.host.edges.tun import open_tun; open_tun('flannel.1', 1)"
    unprivileged = ["setpriv", "--bounding-set", "-net_admin", sys.executable, "-c", script]
    result = await asyncio.to_thread(subprocess.run, unprivileged, capture_output=True, text=True, check=False)
    assert "HostFault: cannot open the TUN device flannel.1: Operation not permitted" in result.stderr
    assert "this needs CAP_NET_ADMIN" in result.stderr


@needs_tun
@isolated
async def test_tun_on_a_kernel_that_knows_less(host: Host) -> None:
    """Such kernels (gVisor) answer EINVAL to a flag that they do not know."""
    real = pytun.TunTapDevice
    unknown = pytun.IFF_VNET_HDR

    def older(name: str, flags: int) -> object:
        if flags & unknown:
            raise pytun.Error(errno.EINVAL, "Invalid argument")
        return real(name=name, flags=flags)

    vars(pytun)["TunTapDevice"] = older
    tun = open_tun("flannel.1", 2)
    assert (len(tun.fds), tun.vnet_hdr) == (2, False)
    unknown |= pytun.IFF_MULTI_QUEUE
    assert open_tun("flannel.2", 1).vnet_hdr is False
    assert "Invalid argument" in refusal(lambda: open_tun("flannel.3", 2))


# Netlink


@needs_tun
@isolated
async def test_addresses_and_routes_come_and_go(host: Host) -> None:
    tun = await configured_tun(host)
    await host.add_address(tun.index, ip_interface("10.5.34.0/32"))
    await host.add_address(tun.index, ip_interface("fd00:5::/128"))
    addresses = await host.addresses(tun.index)
    assert [str(address.interface) for address in addresses] == ["10.5.34.0/32", "fd00:5::/128"]
    assert all(address.permanent and not address.deprecated and not address.temporary for address in addresses)

    overlay, overlay6 = ip_network("10.5.0.0/16"), ip_network("fd00:5::/48")
    await host.add_route(Route(overlay6, tun.index))
    via = Route(ip_network("10.5.72.0/24"), tun.index, IPv4Address("10.5.72.0"), onlink=True)
    await host.add_route(via)
    await host.add_route(via)
    assert {Route(overlay, tun.index), Route(overlay6, tun.index), via} <= set(await host.routes(tun.index))

    for _ in range(2):
        await host.remove_route(via)
        await host.remove_address(tun.index, ip_interface("fd00:5::/128"))
    assert via not in await host.routes(tun.index)
    assert len(await host.addresses(tun.index)) == 1
    link = await host.link("flannel.1")
    assert link is not None
    assert (link.mtu, link.up) == (1450, True)
    assert link in await host.links()


@isolated
async def test_route_is_replaced_not_doubled(host: Host) -> None:
    veth("192.0.2.1/24")
    index = socket.if_nametoindex("eth0")
    prefix = ip_network("10.5.72.0/24")
    for gateway in ("192.0.2.2", "192.0.2.3"):
        await host.add_route(Route(prefix, index, IPv4Address(gateway)))
    assert [route for route in await host.routes(index) if route.prefix == prefix] == [
        Route(prefix, index, IPv4Address("192.0.2.3"))
    ]


@isolated
async def test_default_route_is_the_one_with_the_lowest_metric(host: Host) -> None:
    assert await host.default_route(4) is None
    veth("192.0.2.1/24", "fd00::1/64")
    index = socket.if_nametoindex("eth0")
    ip("route add default via 192.0.2.9 metric 20")
    ip("route add default metric 10 nexthop via 192.0.2.7 nexthop via 192.0.2.8")
    ip("route add unreachable default metric 5")
    ip("-6 route add unreachable default metric 5")
    ip("route add default via 192.0.2.6 metric 1 table 100")
    ip("route add default via fd00::9")
    assert await host.default_route(4) == Route(ip_network("0.0.0.0/0"), index, IPv4Address("192.0.2.7"))
    assert await host.default_route(6) == Route(ip_network("::/0"), index, IPv6Address("fd00::9"))


@needs_tun
@isolated
async def test_routes_of_other_links_tables_and_kinds_are_left_out(host: Host) -> None:
    tun = await configured_tun(host)
    veth("192.0.2.1/24", "fd00::1/64")
    index = socket.if_nametoindex("eth0")
    ip("route add 10.9.0.0/16 via 192.0.2.9 table 100")
    ip("route add blackhole 10.8.0.0/16")
    ip("-6 route add fd00:9::/48 via fd00::9")
    prefixes = {str(route.prefix) for route in await host.routes(index)}
    assert prefixes == {"192.0.2.0/24", "fd00::/64", "fd00:9::/48", "fe80::/64"}
    assert await host.routes(tun.index) == [Route(ip_network("10.5.0.0/16"), tun.index)]


@needs_tun
@isolated
async def test_routes_on_a_kernel_without_strict_checks(host: Host) -> None:
    assert "NETLINK_GET_STRICT_CHK" in vars(nlsocket)
    vars(nlsocket)["NETLINK_GET_STRICT_CHK"] = 99  # an option that this kernel does not know
    tun = await configured_tun(host)
    veth("192.0.2.1/24")
    assert await host.routes(tun.index) == [Route(ip_network("10.5.0.0/16"), tun.index)]
    assert await host.default_route(4) is None


@isolated
async def test_route_to_gives_link_and_source(host: Host) -> None:
    veth("192.0.2.1/24", "fd00::1/64")
    index = socket.if_nametoindex("eth0")
    assert await host.route_to(IPv4Address("192.0.2.77")) == (index, IPv4Address("192.0.2.1"))
    assert await host.route_to(IPv6Address("fd00::77")) == (index, IPv6Address("fd00::1"))
    with pytest.raises(HostError, match=r"cannot find the route to 203.0.113.1: Network is unreachable"):
        await host.route_to(IPv4Address("203.0.113.1"))


@isolated
async def test_refusals_say_what_was_asked_and_what_the_kernel_answered(host: Host) -> None:
    veth("192.0.2.1/24")
    index = socket.if_nametoindex("eth0")
    with pytest.raises(HostError, match=r"cannot set link 999 to MTU 1450: No such device \(errno 19\)"):
        await host.set_link(999, mtu=1450, up=True)
    with pytest.raises(HostError, match=r"add route 10.5.0.0/16 via 198.51.100.1 dev \d+: Network is unreachable"):
        await host.add_route(Route(ip_network("10.5.0.0/16"), index, IPv4Address("198.51.100.1")))
    with pytest.raises(HostError, match=r"add address 10.5.34.0/32 to link 999"):
        await host.add_address(999, ip_interface("10.5.34.0/32"))
    assert await host.link("nowhere") is None


@needs_tun
@isolated
async def test_changes_by_others_are_noticed(host: Host) -> None:
    tun = await configured_tun(host)
    notices = host.changes()
    await next_notice(notices)
    for command in (
        "route del 10.5.0.0/16 dev flannel.1",
        "address del 10.5.34.0/32 dev flannel.1",
        "-6 route add fd00:5::/48 dev flannel.1",
        "link set flannel.1 down",
    ):
        ip(command)
        await next_notice(notices)
    assert await host.addresses(tun.index) == []
    assert await host.routes(tun.index) == []
    tun.close()
    await next_notice(notices)


@needs_tun
@isolated
async def test_a_burst_is_one_notice_and_an_overflow_is_one_too(host: Host) -> None:
    tun = await configured_tun(host)
    notices = host.changes()
    await next_notice(notices)
    batch = "".join(f"route add 10.5.{i // 256}.{i % 256}/32 dev flannel.1\n" for i in range(5000))
    # The event loop stands still meanwhile, so 5000 messages meet a queue that holds some hundreds: ENOBUFS.
    sh("ip -batch -", given=batch)
    await next_notice(notices)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(anext(notices), 0.5)
    again = host.changes()
    await next_notice(again)
    ip("route del 10.5.0.0/16 dev flannel.1")
    await next_notice(again)
    assert len(await host.routes(tun.index)) == 5000


# Sockets


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
        flooder, other = (udp_packet(f"10.5.2.{n}", "10.5.1.2", 9, b"x")[_vnet_hdr_bytes:] for n in (2, 3))
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
async def test_a_flood_fills_the_tun_queue_of_its_source_alone(host: Host) -> None:
    for workers in (1, 2):
        tun = open_tun("flannel.1", workers, 16)
        for command in ("addr add 10.5.1.2/24 dev flannel.1", "addr add 10.5.1.3/24 dev flannel.1"):
            ip(command)
        ip("link set flannel.1 txqueuelen 50 up")
        for source, count in (("10.5.1.2", 200), ("10.5.1.3", 10)):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.bind((source, 7))
                for _ in range(count):
                    sock.sendto(b"x", ("10.5.1.9", 9))
        came = Counter[tuple[int, str]]()
        for queue, fd in enumerate(tun.fds):
            with suppress(BlockingIOError):
                while True:
                    packet = os.read(fd, 2000)[10:]
                    if packet[9] == socket.IPPROTO_UDP and packet[0] >> 4 == 4:
                        came[queue, socket.inet_ntoa(packet[12:16])] += 1
        assert len({queue for queue, _ in came}) == len(came) == 2
        counts = {source: count for (_, source), count in came.items()}
        assert counts["10.5.1.3"] == 10
        assert counts["10.5.1.2"] < 200, counts
        tun.close()


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


# Sysctls


def drain(sock: socket.socket) -> list[bytes]:
    came: list[bytes] = []
    with suppress(BlockingIOError):
        while True:
            came.append(sock.recv(2000))
    return came


def udp_packet(source: str, destination: str, port: int, payload: bytes) -> bytes:
    """An IPv4 UDP packet (no UDP checksum) behind an empty virtio header."""
    udp = struct.pack("!HHHH", port, port, 8 + len(payload), 0) + payload
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0)
    header += IPv4Address(source).packed + IPv4Address(destination).packed
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    return bytes(_vnet_hdr_bytes) + header[:10] + struct.pack("!H", 0xFFFF ^ total) + header[12:] + udp


@needs_tun
@isolated
async def test_packets_from_our_own_tunnel_address_pass_only_after_prepare_tun(host: Host) -> None:
    tun = open_tun("flannel.1", 1)
    await host.set_link(tun.index, mtu=1450, up=True)
    await host.add_address(tun.index, ip_interface("10.5.34.0/32"))
    await host.add_route(Route(ip_network("10.5.0.0/16"), tun.index))
    ip("address add 10.5.34.1/32 dev lo")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as pod:
        pod.bind(("10.5.34.1", 7000))
        pod.settimeout(_deadline_seconds)
        os.write(tun.fds[0], udp_packet("10.5.34.0", "10.5.34.1", 7000, b"before"))
        assert prepare_tun("flannel.1") == []
        os.write(tun.fds[0], udp_packet("10.5.34.0", "10.5.34.1", 7000, b"after"))
        assert pod.recv(64) == b"after"


@needs_tun
@isolated
async def test_a_prepared_tun_makes_no_link_local_address(host: Host) -> None:
    tun = await configured_tun(host)
    assert [address.interface.version for address in await host.addresses(tun.index)] == [4]
    assert read_sysctl("net/ipv4/conf/flannel.1/accept_local") == "1"
    assert read_sysctl("net/ipv4/conf/flannel.1/send_redirects") == "0"
    assert read_sysctl("net/ipv4/conf/flannel.1/rp_filter") == "0"


@needs_tun
@isolated
async def test_strict_reverse_path_filter_of_the_host_is_outvoted(host: Host) -> None:
    write_sysctl("net/ipv4/conf/all/rp_filter", 1)
    tun = open_tun("flannel.1", 1)
    assert prepare_tun(tun.name) == []
    assert read_sysctl("net/ipv4/conf/flannel.1/rp_filter") == "2"
    assert read_sysctl("net/ipv4/conf/all/rp_filter") == "1"


@needs_tun
@isolated
async def test_a_tun_is_prepared_where_proc_sys_is_read_only(host: Host) -> None:
    """As in a container without privileges."""
    tun = open_tun("flannel.1", 1)
    sh("mount --bind /proc/sys /proc/sys")
    sh("mount -o remount,ro,bind /proc/sys")
    assert prepare_tun(tun.name) == []
    assert read_sysctl("net/ipv4/conf/flannel.1/accept_local") == "1"
    assert read_sysctl("net/ipv6/conf/flannel.1/addr_gen_mode") == "1"
    assert "flannel.7" in prepare_tun("flannel.7")[0]
    assert "Read-only" in refusal(lambda: write_sysctl("net/ipv4/conf/flannel.1/rp_filter", 1))
    assert "No such file" in refusal(lambda: write_sysctl("net/ipv4/conf/flannel.7/rp_filter", 0))


# Interface choice


@isolated
async def test_interface_choice_on_real_links(host: Host) -> None:
    veth("192.0.2.1/24", "fe80::5/64", "fd00::1/64")
    ip("address add 198.51.100.1/24 dev eth0-peer")
    ip("route add default via 192.0.2.9")
    ip("route add default via fd00::9")

    chosen = await choose(host, InterfaceChoice(), ipv4=True, ipv6=True)
    assert (chosen.name, chosen.index, chosen.mtu) == ("eth0", socket.if_nametoindex("eth0"), 1500)
    assert (chosen.address, chosen.address6) == (IPv4Address("192.0.2.1"), IPv6Address("fd00::1"))

    reach = await choose(host, InterfaceChoice(can_reach="198.51.100.77"), ipv4=True, ipv6=False)
    assert (reach.name, reach.address) == ("eth0-peer", IPv4Address("198.51.100.1"))
    by_regex = await choose(host, InterfaceChoice(iface_regex=("^198",)), ipv4=True, ipv6=False)
    assert by_regex.name == "eth0-peer"
    by_ip = await choose(host, InterfaceChoice(public_ip=IPv4Address("198.51.100.1")), ipv4=True, ipv6=False)
    assert by_ip.name == "eth0-peer"

    ip("route del default")
    with pytest.raises(HostError, match="Unable to find default route"):
        await choose(host, InterfaceChoice(), ipv4=True, ipv6=False)
    with pytest.raises(HostError, match=r"couldn't lookup route to 203.0.113.1"):
        await choose(host, InterfaceChoice(can_reach="203.0.113.1"), ipv4=True, ipv6=False)


@isolated
async def test_a_vxlan_device_that_has_our_vni_and_port_is_named_and_one_of_the_other_family_is_not_in_the_way(
    host: Host,
) -> None:
    mac = bytes.fromhex("020000000001")
    wanted = VxlanLink("flannel.1", 1, 8472, IPv4Address("192.0.2.1"), "eth0", 1450)
    veth("192.0.2.1/24", "2001:db8::1/64")
    ip("link add theirs type vxlan id 1 local 192.0.2.1 dev eth0 dstport 8472")
    with pytest.raises(HostFault, match="the device theirs has its VNI 1 and port 8472"):
        await ensure_device(host, wanted, mac)
    ip("link delete theirs")
    ip("link add theirs type vxlan id 1 local 2001:db8::1 dev eth0 dstport 8472")
    _, made = await ensure_device(host, wanted, mac)
    assert made == mac and await supported(host) == ""


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(run(_bodies[sys.argv[1]]))
