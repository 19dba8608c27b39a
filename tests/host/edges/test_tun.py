"""TUN devices of the real kernel: what they give, what refuses them, and whose packets fill their queues."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from ipaddress import IPv4Address

import pytun

from dataplane.host.edges.tun import open_tun
from dataplane.host.links import Link
from dataplane.host.netlink import Host
from tests.host.kernel import configured_tun, ip, isolated, needs_tun, refusal, run_body, sh, veth, vnet_hdr_bytes


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
    packet = frame[vnet_hdr_bytes:]
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


if __name__ == "__main__":
    run_body()
