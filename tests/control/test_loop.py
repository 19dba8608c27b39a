"""From the watch to the forwarding table, and what wakes the resync; fakes at both edges, a virtual clock."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from dataclasses import replace
from ipaddress import IPv4Network, ip_network

import pytest

from dataplane.backends.base import DevicePlan
from dataplane.errors import HostError, StoreError
from dataplane.host.routes import Route
from dataplane.leases.batches import batches
from dataplane.model import Lease, LeaseGone, LeasePut, LeaseRefused, NetConf, Peer, RefusedLease, Snapshot, WatchEvent
from tests.control.fakes import Node, backend, conf, go, lease, opened, own, run_until, start_s


class Counting:
    """The backend, counting the leases that it is asked about."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def peers(self, conf: NetConf, lease: Lease, device: DevicePlan) -> tuple[Peer, ...]:
        self.asked.append(lease.key)
        return backend.peers(conf, lease, device)

    def mismatch(self, lease: Lease, device: DevicePlan) -> str:
        return backend.mismatch(lease, device)


def test_a_change_among_ten_thousand_peers_touches_one() -> None:
    async def scenario() -> None:
        meaning = Counting()
        node = Node(replace(conf, network=IPv4Network("8.0.0.0/6")), meaning)
        await node.control.open()
        node.control.take(Snapshot((own, *(lease(number) for number in range(2, 10_002)))))
        forwarder = node.device.forwarder
        assert len(forwarder.peers) == 10_001
        assert forwarder.commits == 2  # our own subnet when the device was opened, then the snapshot as a whole
        meaning.asked.clear()
        forwarder.touched = forwarder.commits = node.net.calls = 0
        changed = lease(5000, mac="02:aa:aa:aa:aa:aa")
        assert changed.subnet is not None
        node.control.take(LeasePut(changed))
        assert (forwarder.touched, forwarder.commits, node.net.calls) == (1, 1, 0)
        assert meaning.asked == [changed.key]
        assert forwarder.peers[changed.subnet].vtep_mac == bytes.fromhex("02aaaaaaaaaa")
        node.control.take(LeaseGone(changed.key))
        assert (forwarder.touched, forwarder.commits, len(meaning.asked)) == (2, 2, 1)

    go(scenario())


def test_new_snapshot_with_another_mac_is_seen() -> None:
    async def scenario() -> None:
        node = await opened(lease(2), lease(3))
        node.control.take(Snapshot((own, lease(2, mac="02:bb:bb:bb:bb:bb"))))
        assert node.table[ip_network("10.244.2.0/24")].vtep_mac == bytes.fromhex("02bbbbbbbbbb")
        assert ip_network("10.244.3.0/24") not in node.table

    go(scenario())


def test_bad_lease_is_in_the_status_and_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        bad = lease(3, mac="bad mac")
        node = await opened(lease(2), bad)
        node.control.take(LeasePut(replace(bad, expires=start_s + 90000)))
        node.control.take(Snapshot((own, lease(2), bad), (RefusedLease("10.244.7.0-24", "no JSON"),)))
        assert set(node.state.refused) == {bad.key, "10.244.7.0-24"}
        assert any(bad.key in problem for problem in node.state.problems())
        assert node.state.unready() == []
        node.control.take(LeaseGone(bad.key))
        assert set(node.state.refused) == {"10.244.7.0-24"}

    go(scenario())
    assert (
        sum("10.244.3.0-24" in record.message and record.levelno == logging.WARNING for record in caplog.records) == 1
    )


def test_a_node_of_another_vni_is_used_and_named_until_it_is_configured_as_we_are(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def of_vni(number: int, vni: int) -> Lease:
        good = lease(number)
        return replace(good, attrs=replace(good.attrs, backend_data={**good.attrs.backend_data, "VNI": vni}))

    async def scenario() -> None:
        others = [of_vni(number, 7) for number in range(3, 203)]
        node = await opened(lease(2), *others)
        assert set(node.state.mismatched) == {other.key for other in others}
        assert len(node.table) == 202
        assert any(others[0].key in text and "VNI is 7" in text for text in node.state.problems())
        assert node.state.unready() == []
        node.control.take(LeasePut(of_vni(3, 1)), LeaseGone(others[1].key), LeasePut(lease(5, mac="bad")))
        assert set(node.state.mismatched) == {other.key for other in others[3:]}
        assert lease(5).key in node.state.refused

    go(scenario())
    named = [record.message for record in caplog.records if "configured otherwise" in record.message]
    assert 20 <= len(named) <= 25
    assert sum("200 leases are of nodes configured otherwise" in text for text in named) == 1


def test_own_lease_gone_or_in_other_hands_raises_doubt() -> None:
    async def scenario() -> None:
        node = await opened()
        assert node.doubts == 0
        node.control.take(LeasePut(replace(own, expires=start_s + 90000)))
        assert node.doubts == 0
        node.control.take(LeasePut(replace(own, attrs=lease(9).attrs)))
        assert node.doubts == 1
        node.control.take(LeaseGone(own.key))
        assert node.doubts == 2
        assert any(own.key in reason for reason in node.state.unready())
        node.control.take(LeasePut(own))
        assert node.state.unready() == []
        missing = Node()
        missing.control.take(Snapshot(()))
        assert missing.doubts == 1

    go(scenario())


def test_kernel_notice_wakes_the_resync_long_before_its_timer() -> None:
    async def scenario() -> None:
        node = await opened()
        node.net.routed.clear()
        node.net.changed.set()
        await run_until(node.in_place, node.control.listen(node.net), node.control.resync())
        assert node.clock.now() - start_s <= 1.0

    go(scenario())


def test_timer_finds_what_no_notice_told() -> None:
    async def scenario() -> None:
        node = await opened()
        node.net.routed.clear()
        await run_until(node.in_place, node.control.resync())
        assert 5 < node.clock.now() - start_s <= 11

    go(scenario())


def test_a_start_is_not_over_before_what_failed_was_done_which_is_tried_again_soon() -> None:
    async def scenario() -> None:
        node = await opened()
        node.net.routed.clear()
        add, refusals = node.net.add_route, [HostError("cannot add a route")]

        async def refused(route: Route) -> None:
            if refusals:
                raise refusals.pop()
            await add(route)

        node.net.add_route = refused  # type: ignore[method-assign]
        seen: list[bool] = []

        async def start() -> None:
            await node.control.stand()
            seen.append(node.in_place())
            await asyncio.get_running_loop().create_future()

        await run_until(lambda: bool(seen), node.control.resync(), start())
        assert seen == [True] and not refusals
        assert node.clock.now() - start_s < 5

    go(scenario())


def test_broken_watch_begins_again_with_what_changed_meanwhile() -> None:
    async def scenario() -> None:
        node = await opened(lease(2))
        node.store.snapshot = Snapshot((own, lease(3)))
        node.store.events.put_nowait(StoreError("disk gone"))
        await run_until(lambda: node.store.watches == 2 and lease(3).subnet in node.table, node.watching.watch())
        assert lease(2).subnet not in node.table
        assert node.state.events["store_errors"] == 1

    go(scenario())


def test_readiness_follows_the_store() -> None:
    async def scenario() -> None:
        node = await opened()
        node.store.silent = "disk gone"
        await run_until(lambda: bool(node.state.unready()), node.watching.ping())
        assert node.clock.now() - start_s < 10
        assert any("disk gone" in problem for problem in node.state.problems())
        assert lease(1).subnet in node.table
        node.store.silent = ""
        await run_until(lambda: not node.state.unready(), node.watching.ping())
        assert list(node.state.problems()) == []

    go(scenario())


def test_a_watch_that_does_not_stand_is_a_blocker_whatever_else_the_store_answers() -> None:
    async def scenario() -> None:
        node = await opened()
        node.store.takes_watches = False
        node.store.events.put_nowait(StoreError("watching is forbidden"))
        watch, ping = node.watching.watch(), node.watching.ping()
        await run_until(lambda: "forbidden" in node.state.blockers.get("watch", ""), watch, ping)
        assert node.clock.now() - start_s < 30
        assert node.state.blockers["watch"] == "no changes of leases arrive from the store: watching is forbidden"
        assert node.state.unready() == [node.state.blockers["watch"]]
        assert lease(1).subnet in node.table
        node.store.takes_watches = True
        watch, ping = node.watching.watch(), node.watching.ping()
        await run_until(lambda: not node.state.unready(), watch, ping)

    go(scenario())


def test_watches_that_fail_are_begun_again_at_any_time_up_to_a_limit_that_doubles() -> None:
    """A cluster's daemons lose their watches together, and must not come back together."""

    async def scenario() -> None:
        node = await opened()
        node.store.takes_watches = False
        waits: list[float] = []
        waited = node.clock.wait

        async def noted(event: asyncio.Event, seconds: float) -> bool:
            waits.append(seconds)
            return await waited(event, seconds)

        node.clock.wait = noted  # type: ignore[method-assign]
        for _ in range(40):
            node.store.events.put_nowait(StoreError("no route"))
        await run_until(lambda: len(waits) == 40, node.watching.watch())
        limits = [min(5.0, 0.1 * 2**number) for number in range(40)]
        assert all(0 <= wait <= limit for wait, limit in zip(waits, limits, strict=True))
        shares = [wait / limit for wait, limit in zip(waits, limits, strict=True)]
        assert min(shares) < 0.3
        assert max(shares) > 0.7

    go(scenario())


def test_clock_that_is_set_back_delays_no_resync() -> None:
    async def scenario() -> None:
        node = await opened()
        resync = node.control.resync()
        node.net.routed.clear()
        waited = node.clock.wait
        looks: list[float] = []

        async def set_back_once(event: asyncio.Event, seconds: float) -> bool:
            if not looks:
                node.clock.time -= 2 * 86400
            looks.append(seconds)
            return await waited(event, seconds)

        node.clock.wait = set_back_once  # type: ignore[method-assign]
        await run_until(node.in_place, resync)
        assert sum(looks) < 11

    go(scenario())


def test_ten_thousand_changes_at_once_are_a_few_changes_of_the_table() -> None:
    async def scenario() -> None:
        node = Node(replace(conf, network=IPv4Network("8.0.0.0/6")))
        await node.control.open()
        for number in range(2, 10_002):
            node.store.events.put_nowait(LeasePut(lease(number)))
        forwarder = node.device.forwarder
        await run_until(lambda: len(forwarder.peers) == 10_001, node.watching.watch())
        assert forwarder.commits < 150
        # The last word counts, whatever came before it in the same batch.
        node.store.snapshot = Snapshot((own, lease(2)))
        for event in (LeaseGone(lease(2).key), LeasePut(lease(3)), LeaseGone(lease(3).key), LeasePut(lease(4))):
            node.store.events.put_nowait(event)
        await run_until(lambda: len(forwarder.peers) == 2, node.watching.watch())
        assert set(forwarder.peers) == {own.subnet, lease(4).subnet}

    go(scenario())


def test_events_before_a_failure_of_the_watch_count() -> None:
    async def scenario() -> None:
        async def events() -> AsyncGenerator[WatchEvent, None]:
            yield Snapshot((own,))
            yield LeasePut(lease(2))
            raise StoreError("disk gone")

        taken: list[WatchEvent] = []
        with pytest.raises(StoreError, match="disk gone"):
            async for batch in batches(events()):
                taken.extend(batch)
        assert taken == [Snapshot((own,)), LeasePut(lease(2))]

    go(scenario())


def test_refused_leases_by_the_thousand_are_counted_in_the_log_not_listed(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        node = await opened(lease(2))
        bad = [LeaseRefused(RefusedLease(f"bad{number}", "no subnet")) for number in range(10_000)]
        node.control.take(*bad)
        assert len(node.state.refused) == 10_000
        for event in bad[:1000]:
            node.control.take(LeaseGone(event.refused.key))
            node.control.take(event)
        assert len(node.state.refused) == 10_000
        assert sum(record.levelno == logging.WARNING for record in caplog.records) == 21
        assert "10000 leases are refused" in caplog.text
        assert len(caplog.records) < 50
        node.clock.time += 100
        node.control.take(LeaseRefused(RefusedLease("late", "no subnet")))
        assert "lease late is not used" in caplog.text

    go(scenario())


def test_refused_by_the_data_plane_by_the_thousand_is_not_listed_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        node = await opened()
        leases = [lease(number) for number in range(2, 250)]
        node.device.forwarder.refuses = {each.subnet for each in leases if each.subnet is not None}
        node.control.take(*map(LeasePut, leases))
        assert len(node.state.notes) >= len(leases)
        assert len(caplog.records) < 30

    go(scenario())
