"""Addresses, routes and links of the real kernel, its refusals in words, and notices of what others change."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from ipaddress import IPv4Address, IPv6Address, ip_interface, ip_network

import pytest
from pyroute2.netlink import nlsocket

from dataplane.errors import HostError
from dataplane.host.netlink import Host
from dataplane.host.routes import Route
from tests.host.kernel import configured_tun, deadline_s, ip, isolated, needs_tun, run_body, sh, veth


async def next_notice(notices: AsyncIterator[None]) -> None:
    await asyncio.wait_for(anext(notices), deadline_s)


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


if __name__ == "__main__":
    run_body()
