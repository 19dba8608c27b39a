"""A second node that writes our lease: told while it lasts, once a minute in the log, and answered ever more slowly."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from itertools import pairwise

import pytest

from dataplane.errors import StoreError
from dataplane.leases.contest import Contest, calm_s, subject
from dataplane.leases.renewal import Renewer, longest_rest_s
from dataplane.model import Lease, LeasePut, SecondWriter
from tests.control.fakes import Node, go, lease, opened, own, run_until, start_s


def contest(node: Node) -> Contest:
    return Contest(own, node.state, node.clock, node.doubt)


def test_the_watch_hands_on_what_somebody_else_wrote() -> None:
    async def scenario() -> None:
        node = await opened()
        theirs = replace(own, attrs=lease(7).attrs)
        node.control.take(LeasePut(lease(2)), SecondWriter(theirs), LeasePut(lease(3)))
        assert node.contested == [theirs]
        assert node.state.leases == 2

    go(scenario())


def test_it_is_told_with_what_differs_and_keeps_the_node_from_being_ready() -> None:
    node = Node()
    node.state.devices.clear()
    told = contest(node)
    assert not node.state.unready()
    told.written(own)
    (text,) = node.state.unready()
    assert "two nodes have our public address 192.0.0.1" in text
    assert f"lease {own.key}, and says the same as we do, VTEP MAC included;" in text
    attrs = replace(own.attrs, backend_data={"VNI": 1, "VtepMAC": "02:bb:bb:bb:bb:bb\n\x1b[2J" + "x" * 1000})
    told.written(replace(own, attrs=attrs))
    (text,) = node.state.unready()
    assert '"02:bb:bb:bb:bb:bb' in text and '"02:00:00:00:00:01"' in text
    assert text.isprintable() and len(text) < 500
    assert node.doubts == 2
    assert node.state.events["foreign_lease_writes"] == 2


def test_the_log_has_one_line_in_a_minute_whatever_is_written(caplog: pytest.LogCaptureFixture) -> None:
    node = Node()
    told = contest(node)
    with caplog.at_level(logging.WARNING):
        for number in range(1000):
            node.clock.time = start_s + number * 0.1
            attrs = replace(own.attrs, backend_data={"VNI": number, "VtepMAC": "02:bb:bb:bb:bb:bb"})
            told.written(replace(own, attrs=attrs))
    assert len(caplog.records) == 2  # in 100 s


def test_it_is_over_once_nobody_else_has_written_for_a_while(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        node = Node()
        told = contest(node)
        writes = 0
        wait = node.clock.wait

        async def written_again(event: asyncio.Event, seconds: float) -> bool:
            nonlocal writes
            assert subject in node.state.blockers
            if writes < 5:
                writes += 1
                node.clock.time += calm_s - 1
                told.written(own)
            return await wait(event, seconds)

        node.clock.wait = written_again  # type: ignore[method-assign]
        told.written(own)
        with caplog.at_level(logging.INFO):
            await run_until(lambda: not node.state.blockers, told.run())
        assert writes == 5
        assert node.clock.now() == start_s + 5 * (calm_s - 1) + calm_s
        assert f"nobody else has written lease {own.key}" in caplog.records[-1].getMessage()

    go(scenario())


def test_a_life_that_ends_takes_it_along() -> None:
    """The next life has an address of its own, maybe; if not, it is told again."""

    async def scenario() -> None:
        node = Node()
        told = contest(node)
        told.written(own)
        task = asyncio.create_task(told.run())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert not node.state.blockers

    go(scenario())


def test_two_daemons_answer_each_other_ever_more_slowly() -> None:
    """Each renewal of the one is a write that the other answers: it must go on, so that both know, and cost little."""

    async def scenario() -> None:
        node = Node()
        node.store.clock = node.clock
        node.store.answer = [replace(own, expires=start_s + 90_000)] * 200
        keepers: list[Renewer] = []

        def renewed_by(number: int) -> Renewer:
            def renewed(_: Lease) -> None:
                keepers[1 - number].doubt()

            return Renewer(node.store, own, 3600, node.clock, renewed, lambda _: None)

        keepers += [renewed_by(0), renewed_by(1)]
        keepers[0].doubt()
        await run_until(lambda: len(node.store.renewals) >= 100, *(keeper.run() for keeper in keepers))
        times = node.store.renewals
        assert times[10] - times[0] < 60
        assert all(later - earlier < calm_s for earlier, later in pairwise(times))
        assert (times[99] - times[19]) / 80 >= longest_rest_s / 2

    go(scenario())


def test_rests_are_short_again_after_a_while_of_calm() -> None:
    async def scenario() -> None:
        node = Node()
        node.store.clock = node.clock
        node.store.answer = [replace(own, expires=start_s + 1_000_000)] * 100
        keeper = Renewer(node.store, own, 3600, node.clock, lambda _: keeper.doubt(), lambda _: None)
        keeper.doubt()
        await run_until(lambda: len(node.store.renewals) >= 8, keeper.run())
        gaps = [later - earlier for earlier, later in pairwise(node.store.renewals)]
        assert gaps == [1, 2, 4, 8, 10, 10, 10]
        node.clock.time += 2 * calm_s
        node.store.renewals.clear()
        keeper.doubt()
        await run_until(lambda: len(node.store.renewals) >= 2, keeper.run())
        assert node.store.renewals[1] - node.store.renewals[0] == 1

    go(scenario())


def test_a_store_that_is_down_during_a_contest_is_asked_every_other_second() -> None:
    """A doubt may be a lease that is lost, for which we still forward."""

    async def scenario() -> None:
        node = Node()
        node.store.clock = node.clock
        kept = replace(own, expires=start_s + 90_000)
        node.store.answer = [kept, kept, kept, kept, *[StoreError("down")] * 5, kept]
        failed: list[str | None] = []
        keeper = Renewer(node.store, own, 3600, node.clock, lambda _: keeper.doubt(), failed.append)
        keeper.doubt()
        await run_until(lambda: failed[4:] == ["down"] * 5 + [None], keeper.run())
        times = node.store.renewals[4:10]
        assert all(later - earlier <= 2 for earlier, later in pairwise(times))

    go(scenario())
