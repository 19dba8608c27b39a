"""One device and its table are kept as planned, whatever somebody removes, deletes or breaks."""

from __future__ import annotations

from dataclasses import replace

import pytest

from dataplane.model import LeaseGone, LeasePut, Snapshot
from tests.control.fakes import Node, go, lease, opened, own


def test_opening_sets_up_device_address_route_and_table() -> None:
    async def scenario() -> None:
        node = await opened(lease(2), lease(3))
        assert node.in_place()
        assert set(node.table) == {own.subnet, lease(2).subnet, lease(3).subnet}
        assert node.device.forwarder.started == 1
        assert node.state.leases == 2
        assert node.state.unready() == []
        await node.control.close()
        assert "flannel.1" not in node.net.links

    go(scenario())


def test_leases_that_came_before_the_device_are_in_its_table() -> None:
    async def scenario() -> None:
        node = Node()
        node.control.take(Snapshot((own, lease(2))))
        await node.control.open()
        assert set(node.table) == {own.subnet, lease(2).subnet}

    go(scenario())


def test_what_somebody_removed_is_put_back_and_told(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        node = await opened(lease(2))
        link = node.net.links["flannel.1"]
        node.net.routed[link.index].clear()
        await node.keeper.ensure()
        assert node.in_place()
        node.net.addrs[link.index].clear()
        node.net.links["flannel.1"] = replace(link, up=False, mtu=1300)
        await node.keeper.ensure()
        assert node.in_place()
        assert len(node.net.devices) == 1
        assert node.state.events["repairs"] == 3
        await node.keeper.ensure()
        assert node.state.events["repairs"] == 3

    go(scenario())
    assert sum("route 10.244.0.0/16" in record.message for record in caplog.records) == 1


def test_deleted_device_is_built_again_with_all_peers() -> None:
    async def scenario() -> None:
        node = await opened(lease(2), lease(3))
        first = node.device
        node.net.delete("flannel.1")
        await node.keeper.ensure()
        assert node.device is not first and first.closed
        assert node.in_place()
        assert set(node.table) == {own.subnet, lease(2).subnet, lease(3).subnet}
        assert node.state.unready() == []
        node.control.take(LeaseGone(lease(3).key))
        assert lease(3).subnet not in node.table

    go(scenario())


def test_failed_worker_makes_unready_until_the_device_is_built_again() -> None:
    async def scenario() -> None:
        node = await opened(lease(2))
        node.device.forwarder.failures = ("worker 0: Bad file descriptor",)
        assert node.keeper.failed
        assert any("worker 0" in reason for reason in node.state.unready())
        await node.keeper.ensure()
        assert len(node.net.devices) == 2
        assert node.state.unready() == []

    go(scenario())


def test_device_that_fails_again_and_again_is_built_at_growing_intervals() -> None:
    async def scenario() -> None:
        node = await opened()
        for _ in range(600):
            node.device.forwarder.failures = ("worker 0: broken",)
            await node.keeper.ensure()
            node.clock.time += 0.1
        assert 5 <= len(node.net.devices) <= 12

    go(scenario())


def test_device_that_cannot_be_built_is_told_and_tried_again() -> None:
    async def scenario() -> None:
        node = await opened(lease(2))
        node.net.delete("flannel.1")
        node.net.refuse_open = "the name flannel.1 is taken"
        await node.keeper.ensure()
        assert any("is taken" in reason for reason in node.state.unready())
        node.control.take(LeasePut(lease(4)))
        node.net.refuse_open = ""
        node.clock.time += 30
        node.state.store_contact = node.clock.now()
        await node.keeper.ensure()
        assert node.state.unready() == []
        assert lease(4).subnet in node.table

    go(scenario())


def test_external_interface_lost_and_replaced() -> None:
    async def scenario() -> None:
        node = await opened(lease(2))
        eth0 = node.net.links.pop("eth0")
        await node.keeper.ensure()
        assert any("eth0 is gone" in reason for reason in node.state.unready())
        node.net.links["eth0"] = replace(eth0, index=77)
        node.net.addrs[77] = node.net.addrs.pop(2)
        await node.keeper.ensure()
        assert len(node.net.devices) == 2
        assert node.state.unready() == []
        node.net.addrs[77] = set()
        await node.keeper.ensure()
        assert any("no longer has our address" in reason for reason in node.state.unready())

    go(scenario())


@pytest.mark.parametrize("new_index", [2, 77])
def test_interface_that_comes_back_is_used_at_once_whatever_failed_before(new_index: int) -> None:
    async def scenario() -> None:
        node = await opened(lease(2))
        for _ in range(100):
            node.device.forwarder.failures = ("worker 0: broken",)
            await node.keeper.ensure()
            node.clock.time += 0.1
        built = len(node.net.devices)
        eth0 = node.net.links.pop("eth0")
        node.device.forwarder.failures = ("worker 0: No such device",)
        for _ in range(100):
            await node.keeper.ensure()
            node.clock.time += 0.1
        assert len(node.net.devices) == built
        node.device.forwarder.failures = ("worker 0: broken",)
        node.net.links["eth0"] = replace(eth0, index=new_index)
        node.net.addrs[new_index] = node.net.addrs.pop(2)
        await node.keeper.ensure()
        assert len(node.net.devices) == built + 1
        assert node.in_place()

    go(scenario())


def test_interface_replaced_unseen_is_no_failed_build() -> None:
    async def scenario() -> None:
        node = await opened(lease(2))
        for index in range(70, 80):
            node.net.addrs[index] = node.net.addrs.pop(node.net.links["eth0"].index)
            node.net.links["eth0"] = replace(node.net.links["eth0"], index=index)
            await node.keeper.ensure()
            assert node.state.unready() == []
            node.clock.time += 0.2

    go(scenario())


def test_waiting_for_the_next_build_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def scenario() -> None:
        node = await opened(lease(2))
        node.net.refuse_open = "the name flannel.1 is taken"
        node.net.delete("flannel.1")
        for _ in range(150):
            await node.keeper.ensure()
            node.clock.time += 0.1

    go(scenario())
    texts = [record.message for record in caplog.records if "within" in record.message]
    assert len(texts) == len(set(texts)) <= 5
    assert any("somebody deleted or renamed the device" in record.message for record in caplog.records)


def test_peer_that_the_core_refuses_keeps_nobody_else_out() -> None:
    async def scenario() -> None:
        node = await opened()
        bad = lease(5).subnet
        assert bad is not None
        node.device.forwarder.refuses.add(bad)
        node.control.take(Snapshot((own, *(lease(number) for number in range(2, 12)))))
        assert set(node.table) == {lease(number).subnet for number in range(1, 12)} - {bad}
        assert any(str(bad) in problem for problem in node.state.problems())
        node.device.forwarder.refuses.clear()
        await node.keeper.ensure()
        assert bad in node.table
        assert list(node.state.problems()) == []

    go(scenario())


def test_clock_that_is_set_back_delays_no_rebuild() -> None:
    async def scenario() -> None:
        node = await opened(lease(2))
        for _ in range(2):
            node.net.delete("flannel.1")
            await node.keeper.ensure()
            node.clock.time -= 2 * 86400
        assert len(node.net.devices) == 3

    go(scenario())
