"""The TUN's settings in the real kernel, also where /proc/sys cannot be written."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_interface, ip_network

from dataplane.host.devconf import prepare_tun
from dataplane.host.edges.tun import open_tun
from dataplane.host.netlink import Host
from dataplane.host.routes import Route
from dataplane.host.sysctl import read_sysctl, write_sysctl
from tests.host.kernel import configured_tun, deadline_s, ip, isolated, needs_tun, refusal, run_body, sh, udp_packet


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
        pod.settimeout(deadline_s)
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


if __name__ == "__main__":
    run_body()
