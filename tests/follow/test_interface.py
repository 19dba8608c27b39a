"""The external interface is followed after the start."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from ipaddress import IPv4Address, ip_interface

import pytest

from dataplane.errors import HostError, Moved
from dataplane.follow.interface import follow_interface
from dataplane.host.interface import ExternalInterface
from dataplane.host.links import Link
from dataplane.observe.state import NodeState
from tests.control.fakes import Net, VirtualClock, go

here = IPv4Address("192.0.0.1")
there = IPv4Address("192.0.0.9")
eth0 = ExternalInterface("eth0", 2, 1500, here, None, here, None, "named")


class Changing(Net):
    """A host whose every change is made by the test, and told."""

    def __init__(self) -> None:
        super().__init__()
        self.chosen: ExternalInterface | HostError = eth0
        self.state = NodeState()

    async def choose(self) -> ExternalInterface:
        if isinstance(self.chosen, HostError):
            raise self.chosen
        return self.chosen

    def address(self, *texts: str) -> None:
        self.addrs[2] = {ip_interface(text) for text in texts}
        self.changed.set()


async def followed(net: Changing) -> ExternalInterface | None:
    """What the interface is found to have become; None: nothing, after the task had every chance to look."""
    task = asyncio.create_task(follow_interface(net, eth0, net.choose, lambda _: None, net.state, VirtualClock()))
    for _ in range(50):
        await asyncio.sleep(0)
    if task.done():
        with pytest.raises(Moved) as moved:
            task.result()
        return moved.value.external
    task.cancel()
    return None


def test_an_interface_that_keeps_our_address_is_kept() -> None:
    async def scenario() -> None:
        net = Changing()
        net.chosen = replace(eth0, name="tun9", address=there)  # somebody's new default route
        net.address("192.0.0.1/8", "192.0.0.9/8")
        assert await followed(net) is None

    go(scenario())


def test_a_new_address_and_a_new_mtu_are_told() -> None:
    async def scenario() -> None:
        net = Changing()
        net.chosen = replace(eth0, address=there, public_ip=there)
        net.address("192.0.0.9/8")
        moved = await followed(net)
        assert moved is not None and moved.address == there
        net = Changing()
        net.links["eth0"] = replace(net.links["eth0"], mtu=1400)
        net.changed.set()
        moved = await followed(net)
        assert moved is not None and (moved.mtu, moved.address) == (1400, here)

    go(scenario())


@pytest.mark.parametrize("left", ["169.254.7.7", "fe80::7"])
def test_a_link_local_address_is_no_other_one(left: str) -> None:
    async def scenario() -> None:
        net = Changing()
        field = "address" if ":" not in left else "address6"
        net.chosen = replace(eth0, **{"address": None, "address6": None, field: ip_interface(left).ip})  # type: ignore[arg-type]
        net.address(f"{left}/64" if ":" in left else f"{left}/16")
        assert await followed(net) is None
        net.chosen = replace(eth0, address=there, public_ip=there)
        net.address("192.0.0.9/8", f"{left}/64" if ":" in left else f"{left}/16")
        moved = await followed(net)
        assert moved is not None and moved.address == there

    go(scenario())


def test_a_look_that_fails_is_repeated_though_the_kernel_tells_nothing_more() -> None:
    async def scenario() -> None:
        net = Changing()
        link, refusals = net.link, [HostError("cannot look up link eth0: No buffer space available")]

        async def refused(name: str) -> Link | None:
            if refusals:
                raise refusals.pop()
            return await link(name)

        net.link = refused  # type: ignore[method-assign]
        net.links["eth0"] = replace(net.links["eth0"], mtu=1400)
        net.changed.set()  # once
        moved = await followed(net)
        assert moved is not None and moved.mtu == 1400

    go(scenario())


def test_an_interface_without_any_address_is_waited_for() -> None:
    async def scenario() -> None:
        net = Changing()
        net.chosen = HostError("nothing matches")
        net.address()
        assert await followed(net) is None

    go(scenario())
