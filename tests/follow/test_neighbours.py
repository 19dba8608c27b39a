"""The machines on the link are told our MAC whenever it may be another, and of no address that is not ours."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address, ip_interface

from dataplane.errors import HostError
from dataplane.follow.neighbours import keep_neighbours_told
from dataplane.host.interface import ExternalInterface
from dataplane.host.links import Link
from dataplane.model import IPAddress
from tests.control.fakes import Net, VirtualClock, go

four, six = IPv4Address("192.0.0.1"), IPv6Address("fd00::1")
eth0 = ExternalInterface("eth0", 2, 1500, four, six, four, six, "named")


class Telling:
    """A host, and what was said of it."""

    def __init__(self) -> None:
        self.net = Net()
        self.net.links["eth0"] = Link(2, "eth0", 1500, True, "veth", "02:00:00:00:00:01")
        self.net.addrs[2] = {ip_interface(f"{four}/8"), ip_interface(f"{six}/64"), ip_interface("192.0.0.9/8")}
        self.said: list[tuple[IPAddress | None, ...]] = []
        self.refused = False

    def tell(self, interface: str, addresses: Sequence[IPAddress | None]) -> None:
        assert interface == "eth0"
        if self.refused:
            raise HostError("this needs CAP_NET_RAW")
        self.said.append(tuple(addresses))

    async def after(self, **link: object) -> list[tuple[IPAddress | None, ...]]:
        """What is said once the link has changed like this."""
        self.said.clear()
        self.net.links["eth0"] = replace(self.net.links["eth0"], **link)  # type: ignore[arg-type]
        await self.look()
        return self.said

    async def look(self) -> None:
        self.net.changed.set()
        for _ in range(20):
            await asyncio.sleep(0.001)  # a thread tells


def test_each_mac_is_told_once() -> None:
    async def scenario() -> None:
        host = Telling()
        task = asyncio.create_task(keep_neighbours_told(host.net, eth0, host.tell, VirtualClock()))
        assert await host.after() == [(four, six)]
        assert await host.after(mtu=1400) == []
        assert await host.after(mac="02:00:00:00:00:02") == [(four, six)]
        assert await host.after(up=False) == []
        assert await host.after(up=True) == [(four, six)]
        task.cancel()

    go(scenario())


def test_nothing_is_said_of_an_address_that_is_not_there() -> None:
    async def scenario() -> None:
        host = Telling()
        host.net.addrs[2] = {ip_interface("192.0.0.9/8"), ip_interface(f"{six}/64")}
        task = asyncio.create_task(keep_neighbours_told(host.net, eth0, host.tell, VirtualClock()))
        assert await host.after() == [(six,)]
        host.net.addrs[2].add(ip_interface(f"{four}/8"))
        assert await host.after() == [(four, six)]
        task.cancel()

    go(scenario())


def test_what_is_refused_is_tried_again() -> None:
    async def scenario() -> None:
        host = Telling()
        host.refused = True
        task = asyncio.create_task(keep_neighbours_told(host.net, eth0, host.tell, VirtualClock()))
        assert await host.after() == []
        host.refused = False
        assert await host.after() == [(four, six)]
        assert not task.done()
        task.cancel()

    go(scenario())
