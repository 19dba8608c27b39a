"""No set of leases holds the event loop: what is long is done in pieces, and others have their turn after each.

No time is measured here, only what is done between two turns; the times are bench/holds.py's.
"""

from __future__ import annotations

import asyncio
import gc
import json
import logging
import weakref
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest

from dataplane.keepers.kernel import KernelKeeper
from dataplane.keepers.peer_routes import Direct, PeerRoutes
from dataplane.model import IPNetwork, Lease, LeaseGone, LeasePut, Peer, Snapshot
from dataplane.observe.state import DeviceState, NodeState
from dataplane.observe.status import document
from dataplane.runtime import collector
from dataplane.runtime.pieces import in_turns, piece
from tests.control.fakes import Net, Node, backend, conf, go, lease, own, run_until

wide = replace(conf, network=IPv4Network("8.0.0.0/6"))
many = 3000


class Others:
    """Another task of the loop: counts the turns that it gets."""

    def __init__(self) -> None:
        self.turns = 0

    async def run(self) -> None:
        while True:
            self.turns += 1
            await asyncio.sleep(0)


class Cycle:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.self = self


@pytest.fixture(autouse=True)
def thawed() -> Iterator[None]:
    yield
    gc.unfreeze()


def leases(first: int = 2) -> list[Lease]:
    return [lease(number) for number in range(first, first + many)]


@pytest.mark.parametrize("single", [False, True])
def test_between_two_slices_of_leases_others_have_their_turn(monkeypatch: pytest.MonkeyPatch, single: bool) -> None:
    async def scenario() -> None:
        node, others = Node(wide), Others()
        await node.control.open()
        desired = node.control._desired
        at: list[tuple[int, int]] = []
        step, note = desired.step, desired.note

        def stepped(units: int | None) -> Any:
            assert units is not None
            at.append((others.turns, units))
            return step(units)

        def noted(changed: Any) -> None:
            at.append((others.turns, len(changed)))
            note(changed)

        monkeypatch.setattr(desired, "step", stepped)
        monkeypatch.setattr(desired, "note", noted)
        if single:
            for each in leases():
                node.store.events.put_nowait(LeasePut(each))
        else:
            node.store.snapshot = Snapshot((own, *leases()))
        await run_until(lambda: node.state.leases == many, node.watching.watch(), others.run())
        by_turn: dict[int, int] = {}
        for turn, units in at:
            by_turn[turn] = by_turn.get(turn, 0) + units
        assert sum(by_turn.values()) >= 2 * many
        assert max(by_turn.values()) < many / 2

    go(scenario())


def test_the_collector_does_not_go_through_the_leases_that_stay() -> None:
    async def scenario() -> None:
        node = Node(wide)
        await node.control.open()
        node.control.take(Snapshot((own, *leases())))
        looked_at = sum(isinstance(thing, (Lease, Peer)) for thing in gc.get_objects())
        assert looked_at < 2 * collector.piece
        assert gc.get_freeze_count() > 5 * many
        for number in range(2, 2 + many):
            node.control.take(LeasePut(lease(number, mac=f"02:01:00:00:{number >> 8:02x}:{number & 255:02x}")))
        assert sum(isinstance(thing, (Lease, Peer)) for thing in gc.get_objects()) < 3 * collector.piece

    go(scenario())


def test_a_cycle_that_became_garbage_out_of_the_collectors_sight_is_found_with_the_next_snapshot() -> None:
    async def scenario() -> None:
        node = Node(wide)
        await node.control.open()
        cycle = Cycle()
        gone = weakref.ref(cycle)
        node.control.take(Snapshot((own, *leases())))
        del cycle
        gc.collect()
        assert gone() is not None
        node.control.take(Snapshot((own, *leases())))
        assert gone() is None

    go(scenario())


def test_leases_that_go_are_freed_without_the_collector() -> None:
    async def scenario() -> None:
        node = Node(wide)
        await node.control.open()
        held = leases()
        subnets = [weakref.ref(each.attrs.public_ip) for each in held if each.attrs.public_ip is not None]
        node.control.take(Snapshot((own, *held)))
        node.control.take(*(LeaseGone(each.key) for each in held))
        held.clear()
        node.control.take(LeasePut(lease(2 + many)))  # what the step before touched is let go of with the next
        assert sum(subnet() is not None for subnet in subnets) <= 1

    go(scenario())


def test_peers_that_the_core_refuses_cost_no_more_changes_of_the_table() -> None:
    async def scenario() -> None:
        node = Node(wide)
        await node.control.open()
        forwarder = node.device.forwarder
        forwarder.refuses = {each.subnet for each in leases() if each.subnet is not None}
        forwarder.touched = forwarder.commits = 0
        node.control.take(Snapshot((own, *leases())))
        assert (forwarder.touched, forwarder.commits) == (many, 1)
        assert len(node.state.notes) == many
        # They are tried again piece by piece, and what is published meanwhile counts.
        others = Others()
        beside = asyncio.create_task(others.run())
        forwarder.touched = forwarder.commits = others.turns = 0
        await node.keeper.ensure()
        beside.cancel()
        assert forwarder.touched == many
        assert others.turns >= many // piece
        forwarder.refuses = set()
        await node.keeper.ensure()
        assert len(node.table) == many + 1
        assert node.state.notes == {}

    go(scenario())


def test_a_table_that_cannot_be_made_is_told_and_made_later() -> None:
    async def scenario() -> None:
        node = Node()
        await node.control.open()
        node.control.take(Snapshot((own,)))
        forwarder = node.device.forwarder
        forwarder.out_of_memory = True
        node.control.take(LeasePut(lease(2)))
        assert any("Cannot allocate memory" in reason for reason in node.state.unready())
        forwarder.out_of_memory = False
        commits = forwarder.commits
        await node.keeper.ensure()
        assert forwarder.commits == commits + 1
        assert node.state.unready() == []

    go(scenario())


def test_a_device_that_is_opened_with_many_peers_takes_them_in_turns() -> None:
    async def scenario() -> None:
        node, others = Node(wide), Others()
        node.control.take(Snapshot((own, *leases())))
        beside = asyncio.create_task(others.run())
        await node.control.open()
        beside.cancel()
        assert len(node.table) == many + 1
        assert others.turns >= many // piece

    go(scenario())


def test_the_status_of_many_is_made_in_turns() -> None:
    state = NodeState()
    state.refused = {f"node {number}": "no subnet" for number in range(many)}
    parts = list(document(state))
    assert max(map(len, parts)) < sum(map(len, parts)) / 8
    assert len(json.loads(b"".join(parts))["refused_leases"]) == many

    async def scenario() -> None:
        others = Others()
        beside = asyncio.create_task(others.run())
        assert await in_turns(iter(parts)) == b"".join(parts)
        beside.cancel()
        assert others.turns >= len(parts)

    go(scenario())


def test_routes_to_many_peers_are_compared_in_turns() -> None:
    async def scenario() -> None:
        net, state, others = Net(), NodeState(), Others()
        wanted: dict[IPNetwork, Peer] = {
            each.subnet: Peer(each.subnet, each.attrs.public_ip) for each in leases() if each.subnet is not None
        }
        plans = backend.plans(
            wide, own, interface="eth0", interface_mtu=1500, address=own.attrs.public_ip, address6=None
        )
        routes = PeerRoutes(plans[0], wanted, net, state, DeviceState("eth0", 1500), Direct.always)
        for _ in range(2):
            beside = asyncio.create_task(others.run())
            others.turns = 0
            await routes.ensure(2, None)
            beside.cancel()
            assert others.turns >= 2 * many // piece
        assert len(net.routed[2]) == many

    go(scenario())


def test_entries_that_the_kernel_refuses_by_the_thousand_are_not_listed_in_the_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def scenario() -> None:
        state = NodeState()
        (plan,) = backend.plans(
            conf, own, interface="eth0", interface_mtu=1500, address=own.attrs.public_ip, address6=None
        )
        assert plan.link is not None
        keeper = KernelKeeper(plan, plan.link, {}, None, state)  # type: ignore[arg-type]
        refused = {IPv4Address(number): f"cannot set neighbour {number}" for number in range(1, many)}
        for _ in range(3):
            await keeper._tell(refused)
        assert sum("neighbour" in note for note in state.notes.values()) == many - 1
        await keeper._tell({})
        assert not any("neighbour" in note for note in state.notes.values())

    with caplog.at_level(logging.INFO):
        go(scenario())
    assert len(caplog.records) < 20
