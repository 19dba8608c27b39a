"""The lease is renewed in time, an outage is survived, a loss is not; a day passes without waiting."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from dataplane.errors import LeaseLost, StoreError
from dataplane.leases.renewal import Renewer
from dataplane.model import Lease
from tests.control.fakes import Node, go, own, run_until, start_s


def renewer(node: Node, renewed: list[Lease], failed: list[str | None]) -> Renewer:
    node.store.clock = node.clock
    return Renewer(node.store, own, 3600, node.clock, renewed.append, failed.append)


def test_lease_is_renewed_a_margin_before_it_expires_and_again() -> None:
    async def scenario() -> None:
        node = Node()
        renewed: list[Lease] = []
        node.store.answer = [replace(own, expires=start_s + 170_000), replace(own, expires=start_s + 250_000)]
        keeper = renewer(node, renewed, [])
        await run_until(lambda: len(renewed) == 2, keeper.run())
        first, second = (moment - start_s for moment in node.store.renewals)
        assert first == pytest.approx(86400 - 3600, abs=1)
        assert second == pytest.approx(170_000 - 3600, abs=1)

    go(scenario())


def test_store_that_is_down_is_tried_again_and_told() -> None:
    async def scenario() -> None:
        node = Node()
        failed: list[str | None] = []
        node.store.answer = [StoreError("down"), StoreError("down"), replace(own, expires=start_s + 170_000)]
        await run_until(lambda: failed[-1:] == [None], renewer(node, [], failed).run())
        assert failed == ["down", "down", None]
        first, _, last = node.store.renewals
        assert 2 < last - first < 300

    go(scenario())


def test_lost_lease_ends_the_renewer() -> None:
    async def scenario() -> None:
        node = Node()
        node.store.answer = [LeaseLost("lease 10.244.1.0-24 is held by 192.0.2.9")]
        keeper = renewer(node, [], [])
        keeper.doubt()
        with pytest.raises(LeaseLost):
            await keeper.run()
        assert node.store.renewals == [start_s]

    go(scenario())


def test_doubt_about_a_lease_that_is_ours_after_all_is_harmless() -> None:
    async def scenario() -> None:
        node = Node()
        renewed: list[Lease] = []
        node.store.answer = [replace(own, expires=start_s + 90_000)]
        keeper = renewer(node, renewed, [])
        keeper.doubt()
        await run_until(lambda: bool(renewed), keeper.run())
        assert node.store.renewals == [start_s]

    go(scenario())


def test_clock_that_is_set_back_makes_the_renewal_no_later() -> None:
    async def scenario() -> None:
        node = Node()
        renewed: list[Lease] = []
        node.store.answer = [replace(own, expires=start_s), replace(own, expires=start_s)]
        keeper = renewer(node, renewed, [])
        waited = node.clock.wait

        async def set_back_once(event: asyncio.Event, seconds: float) -> bool:
            node.clock.time -= 0 if renewed else 2 * 86400
            return await waited(event, seconds)

        node.clock.wait = set_back_once  # type: ignore[method-assign]
        await run_until(lambda: bool(renewed), keeper.run())
        assert node.store.renewals[0] < start_s

    go(scenario())


def test_reservation_is_never_renewed_by_itself() -> None:
    async def scenario() -> None:
        node = Node()
        node.store.clock = node.clock
        keeper = Renewer(node.store, replace(own, expires=None), 3600, node.clock, lambda _: None, lambda _: None)
        await run_until(lambda: node.clock.now() > start_s + 200_000, keeper.run())
        assert node.store.renewals == []

    go(scenario())


def test_doubt_that_never_ends_renews_once_a_second_at_most() -> None:
    async def scenario() -> None:
        node = Node()
        node.store.answer = [replace(own, expires=start_s + 90_000)] * 20
        node.store.clock = node.clock
        keeper = Renewer(node.store, own, 3600, node.clock, lambda _: keeper.doubt(), lambda _: None)
        keeper.doubt()
        await run_until(lambda: len(node.store.renewals) >= 10, keeper.run())
        assert node.store.renewals[9] - start_s >= 9

    go(scenario())


def test_a_lease_made_anew_again_and_again_is_renewed_as_soon_each_time() -> None:
    """A Kubernetes Node that is deleted and registered anew: peers do not know us until the renewal."""

    async def scenario() -> None:
        node = Node()
        node.store.answer = [replace(own, expires=start_s + 90_000, born=(number, "")) for number in range(1, 21)]
        node.store.clock = node.clock
        keeper = Renewer(node.store, own, 3600, node.clock, lambda _: keeper.doubt(), lambda _: None)
        keeper.doubt()
        await run_until(lambda: len(node.store.renewals) >= 10, keeper.run())
        assert 9 <= node.store.renewals[9] - start_s < 11

    go(scenario())
